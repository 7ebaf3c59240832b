"""Grids, affines and resampling against ITK (SimpleITK and ANTsPy) and hand-made cases."""

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its own documentation calls it so)
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    ornt_transform,
)
from scipy import ndimage

from bids_stroke.core import geometry
from bids_stroke.core.geometry import Grid

ALL_48 = ["".join(codes) for order in permutations(("RL", "AP", "SI")) for codes in product(*order)]
OBLIQUE = np.array(
    [[1.1, 0.10, -0.08, -9], [-0.09, 1.2, 0.2, -14], [0.1, -0.15, 1.9, -7], [0, 0, 0, 1]]
)


def phantom(shape: tuple[int, int, int] = (16, 20, 12)) -> np.ndarray:
    """Smooth, asymmetric in every axis, positive."""
    noise = np.random.default_rng(4).normal(size=shape)
    ramp = sum(weight * axis for weight, axis in zip((1, 2, 4), np.indices(shape), strict=True))
    return (ndimage.gaussian_filter(noise, 1.5) * 20 + ramp).astype(np.float32)


def reoriented(data: np.ndarray, affine: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """The same anatomy stored with other axes (nibabel's own functions)."""
    change = ornt_transform(nib.io_orientation(affine), axcodes2ornt(codes))
    return apply_orientation(data, change), affine @ inv_ornt_aff(change, data.shape)


def itk_image(data: np.ndarray, affine: np.ndarray) -> sitk.Image:
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def orthogonal(affine: np.ndarray) -> np.ndarray:
    """The nearest affine without shear: ITK refuses others."""
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    u, _, vt = np.linalg.svd(affine[:3, :3] / zooms)
    out = affine.copy()
    out[:3, :3] = (u @ vt) * zooms
    return out


def rigid(degrees: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    euler = sitk.Euler3DTransform((0, 0, 0), *np.deg2rad(degrees).tolist(), shift)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(euler.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = shift
    return matrix


def itk_resample(
    data: np.ndarray, source: Grid, target: Grid, transform: Path, interpolator: int
) -> np.ndarray:
    fixed = itk_image(np.zeros(target.shape, np.float32), target.affine)
    moving = itk_image(data, source.affine)
    out = sitk.Resample(moving, fixed, sitk.ReadTransform(str(transform)), interpolator, 0.0)
    return sitk.GetArrayFromImage(out).T


@pytest.mark.parametrize(
    "order, interpolator", [(0, sitk.sitkNearestNeighbor), (1, sitk.sitkLinear)]
)
def test_resample_equals_itk(order: int, interpolator: int, tmp_path: Path) -> None:
    """Oblique to rotated grid through a written transform: the edges are cut where ITK cuts."""
    data = phantom()
    source = Grid((16, 20, 12), orthogonal(OBLIQUE))
    target = Grid((22, 15, 18), orthogonal(OBLIQUE @ rigid((20, -10, 5), (-3.03, 1.07, 2.01))))
    matrix = rigid((4.0, -7.0, 11.0), (1.5, -2.0, 0.7))
    path = geometry.write_itk_affine(matrix, tmp_path / "xfm.txt")
    ours = geometry.resample(data, source, target, transform=matrix, order=order)
    itk = itk_resample(data, source, target, path, interpolator)
    assert (itk != 0).mean() > 0.2
    assert ours.dtype == np.float32
    different = np.abs(ours - itk) > 1e-3
    assert different.mean() < 2e-4


def test_a_small_image_on_a_large_grid_equals_itk(tmp_path: Path) -> None:
    """Only the part of the grid that sees the image is computed; the rest is ``cval``."""
    data = phantom((6, 5, 4))
    source = Grid(data.shape, orthogonal(OBLIQUE))
    target = Grid((40, 36, 30), orthogonal(rigid((8, 5, -30), (-20, -25, -15))))
    matrix = rigid((4.0, -7.0, 11.0), (1.5, -2.0, 0.7))
    path = geometry.write_itk_affine(matrix, tmp_path / "xfm.txt")
    ours = geometry.resample(data, source, target, transform=matrix)
    itk = itk_resample(data, source, target, path, sitk.sitkLinear)
    assert np.count_nonzero(itk) > 100
    assert (np.abs(ours - itk) > 1e-3).sum() <= 2
    away = Grid(target.shape, rigid((0, 0, 0), (500, 0, 0)) @ target.affine)
    assert (geometry.resample(data, source, away, transform=matrix, cval=-3.0) == -3).all()


def test_cubic_spline_equals_itk_away_from_the_edges(tmp_path: Path) -> None:
    data = phantom((30, 30, 30))
    source = Grid(data.shape, np.diag([1, 1.1, 1.3, 1]))
    target = Grid((8, 8, 8), geometry.crop(data, source.affine, (slice(11, 19),) * 3)[1])
    matrix = rigid((3.0, 4.0, -5.0), (0.4, -0.3, 0.2))
    path = geometry.write_itk_affine(matrix, tmp_path / "xfm.txt")
    ours = geometry.resample(data, source, target, transform=matrix, order=3)
    itk = itk_resample(data, source, target, path, sitk.sitkBSpline)
    np.testing.assert_allclose(ours, itk, atol=0.02)


def test_cubic_spline_does_not_overshoot() -> None:
    data = np.zeros((9, 9, 9), np.float32)
    data[4:] = 1
    out = geometry.resample(
        data, Grid((9, 9, 9), np.eye(4)), Grid((17, 17, 17), np.diag([0.5, 0.5, 0.5, 1])), order=3
    )
    assert out.min() == 0
    assert out.max() == 1


@pytest.mark.parametrize("codes", ALL_48)
def test_all_orientations_round_trip_to_the_bit(codes: str) -> None:
    """Stored in any of 48 ways, the anatomy reads the same in RAS and comes back exactly."""
    original = phantom()
    stored, affine = reoriented(original, OBLIQUE, codes)
    turned, ras_affine = geometry.to_ras(stored, affine)
    np.testing.assert_array_equal(turned, original)
    np.testing.assert_allclose(ras_affine, OBLIQUE, atol=1e-12)
    native, ras = Grid(stored.shape, affine), Grid(turned.shape, ras_affine)
    for order in (0, 1, 3):
        np.testing.assert_array_equal(geometry.resample(turned, ras, native, order=order), stored)
        np.testing.assert_array_equal(geometry.resample(stored, native, ras, order=order), turned)


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAR", "PIL"])
def test_crop_and_back_leaves_zero_outside(codes: str) -> None:
    data, affine = reoriented(phantom() + 100, OBLIQUE, codes)
    turned, ras_affine = geometry.to_ras(data, affine)
    box = (slice(2, 9), slice(3, 15), slice(1, 8))
    part, part_affine = geometry.crop(turned, ras_affine, box)
    back = geometry.resample(part, Grid(part.shape, part_affine), Grid(data.shape, affine))
    kept = np.zeros(turned.shape, bool)
    kept[box] = True
    expected = geometry.resample(
        np.where(kept, turned, 0), Grid(turned.shape, ras_affine), Grid(data.shape, affine)
    )
    np.testing.assert_array_equal(back, expected)
    assert (back != 0).sum() == part.size


def test_a_point_keeps_its_place_between_grids() -> None:
    """A single voxel at a known point in mm is found at that point on the other grid."""
    source = Grid((12, 12, 12), np.diag([-2.0, 2, 2, 1]))
    data = np.zeros(source.shape)
    data[3, 4, 5] = 1
    shift = np.eye(4)
    shift[:3, 3] = (-10, 0, 4)
    target = Grid(
        (30, 12, 12), np.array([[1.0, 0, 0, -20], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    )
    out = geometry.resample(data, source, target, transform=shift, order=1)
    peak = np.unravel_index(out.argmax(), out.shape)
    np.testing.assert_allclose(apply_affine(target.affine, peak), (-6 + 10, 8, 10 - 4))


def test_float32_header_still_copies() -> None:
    affine = OBLIQUE.copy()
    affine[:3, :3] *= 0.37
    source = Grid((16, 20, 12), affine)
    target = Grid((16, 20, 12), affine.astype(np.float32).astype(float))
    data = phantom()
    np.testing.assert_array_equal(geometry.resample(data, source, target, order=3), data)


def test_half_voxel_shift_is_no_copy() -> None:
    shift = np.eye(4)
    shift[0, 3] = 0.5
    data = phantom()
    grid = Grid(data.shape, np.eye(4))
    out = geometry.resample(data, grid, grid, transform=shift)
    np.testing.assert_allclose(out[:-1], (data[:-1] + data[1:]) / 2, rtol=1e-5)


def test_cval_fills_what_the_source_does_not_see() -> None:
    data = np.ones((4, 4, 4))
    far = np.eye(4)
    far[0, 3] = 3.25
    for transform in (np.rint(far), far):
        out = geometry.resample(
            data,
            Grid((4, 4, 4), np.eye(4)),
            Grid((4, 4, 4), np.eye(4)),
            transform=transform,
            cval=7,
        )
        np.testing.assert_array_equal(out[0], 1)
        np.testing.assert_array_equal(out[1:], 7)


def test_itk_files_are_read_as_itk_reads_them(tmp_path: Path) -> None:
    """A rotation about a centre, written by ITK, moves points as ITK moves them."""
    transform = sitk.AffineTransform(
        [0.9, 0.1, 0.02, -0.1, 1.05, 0.2, 0.03, -0.2, 0.97], [3, -4, 5], [10, 20, -30]
    )
    path = tmp_path / "xfm.txt"
    sitk.WriteTransform(transform, str(path))
    matrix = geometry.read_itk_affine(path)
    for point in ((0.0, 0.0, 0.0), (31.0, -7.0, 12.0)):
        x, y, z = transform.TransformPoint(point)
        here = np.array(point) * (-1, -1, 1)
        np.testing.assert_allclose(apply_affine(matrix, here), (-x, -y, z), atol=1e-9)


def test_ants_mat_files_are_read(tmp_path: Path) -> None:
    ants = pytest.importorskip("ants")
    transform = ants.create_ants_transform(
        transform_type="AffineTransform",
        matrix=rigid((5, 6, 7), (0, 0, 0))[:3, :3],
        translation=(1, 2, 3),
        center=(9, 8, 7),
    )
    path = tmp_path / "0GenericAffine.mat"
    path.write_bytes(b"no mat")
    with pytest.raises(ValueError, match="no file of MATLAB"):
        geometry.read_itk_affine(path)
    ants.write_transform(transform, str(path))
    x, y, z = transform.apply_to_point((4.0, 5.0, 6.0))
    matrix = geometry.read_itk_affine(path)
    np.testing.assert_allclose(apply_affine(matrix, (-4, -5, 6)), (-x, -y, z), atol=1e-6)


def test_written_transforms_come_back_exactly(tmp_path: Path) -> None:
    matrix = rigid((3, 4, 5), (1 / 3, -2 / 7, 11))
    path = geometry.write_itk_affine(matrix, tmp_path / "xfm.txt")
    np.testing.assert_allclose(geometry.read_itk_affine(path), matrix, rtol=0, atol=1e-15)
    assert sitk.ReadTransform(str(path)).GetDimension() == 3


@pytest.mark.parametrize("text", ["", "Parameters: 1 2 3\nFixedParameters: 0 0 0\n"])
def test_other_transforms_are_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"odd\.txt"):
        geometry.read_itk_affine(path)


def test_bounding_box_and_margin() -> None:
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[2:5, 4, 8] = 1
    assert geometry.bounding_box(mask) == (slice(2, 5), slice(4, 5), slice(8, 9))
    assert geometry.bounding_box(mask, 3) == (slice(0, 8), slice(1, 8), slice(5, 9))
    two = np.zeros((9, 9, 9), bool)
    two[1, 1, 1] = two[7, 6, 5] = True
    assert geometry.bounding_box(two) == (slice(1, 8), slice(1, 7), slice(1, 6))
    with pytest.raises(ValueError, match="empty"):
        geometry.bounding_box(np.zeros((3, 3, 3)))


def test_same_grid_tells_shape_shift_and_turn() -> None:
    grid = Grid((100, 100, 20), OBLIQUE)
    moved, turned = OBLIQUE.copy(), OBLIQUE.copy()
    moved[0, 3] += 0.01
    turned[0, 0] += 0.001
    assert geometry.same_grid(grid, Grid((100, 100, 20), OBLIQUE.astype(np.float32)))
    assert not geometry.same_grid(grid, Grid((100, 100, 21), OBLIQUE))
    assert not geometry.same_grid(grid, Grid((100, 100, 20), moved))
    assert not geometry.same_grid(grid, Grid((100, 100, 20), turned))
    assert geometry.same_grid(grid, Grid((100, 100, 20), moved), tolerance_mm=0.1)


@settings(max_examples=25, deadline=None)
@given(
    codes=st.sampled_from(ALL_48),
    scale=st.tuples(*[st.floats(0.3, 6)] * 3),
    angles=st.tuples(*[st.floats(-30, 30)] * 3),
)
def test_voxel_volume_and_labels_survive_any_header(
    codes: str, scale: tuple[float, ...], angles: tuple[float, float, float]
) -> None:
    affine = rigid(angles, (1, 2, 3)) @ np.diag([*scale, 1])
    data, stored = reoriented(phantom((5, 6, 4)), affine, codes)
    assert geometry.voxel_volume_mm3(stored) == pytest.approx(np.prod(scale))
    turned, ras = geometry.to_ras(data, stored)
    assert "".join(nib.aff2axcodes(ras)) == "RAS"
    back = geometry.resample(turned, Grid(turned.shape, ras), Grid(data.shape, stored), order=0)
    np.testing.assert_array_equal(back, data)


@settings(max_examples=20, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-25, 25)] * 3),
    shift=st.tuples(*[st.floats(-3, 3)] * 3),
    order=st.sampled_from([0, 1, 3]),
)
def test_resampling_stays_in_the_range_and_keeps_constants(
    angles: tuple[float, float, float], shift: tuple[float, float, float], order: int
) -> None:
    transform = rigid(angles, shift)
    grid, small = Grid((14, 14, 14), np.eye(4)), Grid((4, 4, 4), np.eye(4) + np.eye(4, k=3) * 5)
    data = np.random.default_rng(0).uniform(2, 3, grid.shape)
    out = geometry.resample(data, grid, grid, transform=transform, order=order, cval=2.5)
    assert out.min() >= data.min() - 1e-6
    assert out.max() <= data.max() + 1e-6
    constant = geometry.resample(np.full(grid.shape, 3.0), grid, small, order=order)
    np.testing.assert_allclose(constant, 3, rtol=1e-5)


def test_within_a_mask_values_are_those_of_the_whole_grid() -> None:
    rng = np.random.default_rng(5)
    data = rng.normal(size=(12, 14, 10)).astype(np.float32)
    source, target = Grid(data.shape, np.eye(4)), Grid((11, 13, 12), np.diag([0.9, 1.1, 0.8, 1]))
    mask = np.zeros(target.shape, bool)
    mask[2:7, 3, 4:9] = True
    for order in (0, 1, 3):
        whole = geometry.resample(data, source, target, order=order, cval=-1)
        part = geometry.resample(data, source, target, order=order, cval=-1, within=mask)
        np.testing.assert_allclose(part[mask], whole[mask], atol=1e-6)
        assert (part[:2] == -1).all() and (part[:, 4:] == -1).all()
    nowhere = geometry.resample(data, source, target, within=np.zeros_like(mask))
    np.testing.assert_array_equal(nowhere, geometry.resample(data, source, target))
