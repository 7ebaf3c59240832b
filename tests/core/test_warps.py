"""Transforms of ITK against matrices, analytic fields and the linear resampling of our own."""

import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from nibabel.affines import apply_affine

from bids_stroke.core import geometry, warps
from bids_stroke.core.geometry import Grid

GRID = Grid(
    (12, 14, 10), np.array([[-2.0, 0, 0, 9], [0, 1.5, 0.1, -8], [0, -0.1, 3, -14], [0, 0, 0, 1]])
)


@pytest.fixture
def matrix() -> np.ndarray:
    turned = np.eye(4)
    turned[:3, :3] = [[0.98, -0.12, 0.03], [0.11, 1.05, 0.02], [0.0, 0.04, 0.93]]
    turned[:3, 3] = (2.0, -3.0, 1.5)
    return turned


@pytest.fixture
def transform(matrix: np.ndarray, tmp_path: Path) -> object:
    return warps.read_transform(geometry.write_itk_affine(matrix, tmp_path / "x.txt"))


def test_points_go_where_the_matrix_says(matrix: np.ndarray, transform: object) -> None:
    points = np.random.default_rng(1).normal(0, 20, (30, 3))
    assert warps.map_points(points, transform) == pytest.approx(apply_affine(matrix, points))


def test_a_transform_without_times_is_the_same_transform_and_the_same_bytes(tmp_path: Path) -> None:
    field = np.random.default_rng(0).normal(0, 2, (6, 7, 8, 3))
    image = SimpleITK.GetImageFromArray(field, isVector=True)
    moved = SimpleITK.CompositeTransform([SimpleITK.DisplacementFieldTransform(image)])
    written = []
    for name in ("one.h5", "other.h5"):
        SimpleITK.WriteTransform(moved, str(tmp_path / name))
        written.append((tmp_path / name).read_bytes())
        time.sleep(1.1)  # HDF5 notes whole seconds
    assert written[0] != written[1]
    one, other = (warps.drop_times(tmp_path / name) for name in ("one.h5", "other.h5"))
    assert one.read_bytes() == other.read_bytes()
    points = np.random.default_rng(1).uniform(-6, 0, (30, 3)) * (1, 1, -1)
    expected = warps.map_points(points, warps.read_transform(one))
    image = SimpleITK.GetImageFromArray(field, isVector=True)
    again = SimpleITK.DisplacementFieldTransform(image)
    assert expected == pytest.approx(warps.map_points(points, again))
    assert np.abs(expected - points).max() > 0.5


def test_no_points() -> None:
    assert warps.map_points(np.zeros((0, 3)), SimpleITK.Transform(3, 1)).shape == (0, 3)


@pytest.mark.parametrize("order", [0, 1])
def test_images_as_our_own_resampling(matrix: np.ndarray, transform: object, order: int) -> None:
    data = np.random.default_rng(2).random(GRID.shape).astype(np.float32)
    target = Grid((9, 9, 9), np.diag([1.5, 1.5, 1.5, 1.0]))
    target.affine[:3, 3] = (-6, -6, -6)
    moved = warps.warp(data, GRID.affine, target, transform, order=order)
    own = geometry.resample(data, GRID, target, transform=matrix, order=order)
    inside = geometry.resample(
        np.ones(GRID.shape), Grid(GRID.shape, GRID.affine), target, transform=matrix, order=1
    )
    both = (moved != 0) & (inside == 1)
    assert both.sum() > 100
    assert np.mean(np.abs(moved - own)[both] < 1e-4) > (0.97 if order == 0 else 0.999)


def test_displacement_of_a_matrix(matrix: np.ndarray, transform: object) -> None:
    points = apply_affine(GRID.affine, np.indices(GRID.shape).reshape(3, -1).T)
    expected = (apply_affine(matrix, points) - points).reshape(*GRID.shape, 3)
    assert warps.displacement(GRID, transform) == pytest.approx(expected, abs=1e-6)


def test_jacobian_of_a_matrix_is_its_determinant(matrix: np.ndarray, transform: object) -> None:
    found = warps.jacobian_determinant(warps.displacement(GRID, transform), GRID.affine)
    assert found == pytest.approx(np.full(GRID.shape, np.linalg.det(matrix[:3, :3])), abs=1e-5)


def test_jacobian_as_itk_has_it() -> None:
    """An anisotropic grid and a smooth field: SimpleITK's own filter, away from the borders."""
    affine = np.diag([2.0, 1.5, 3.0, 1.0])
    x, y, z = np.meshgrid(*(np.arange(n) for n in GRID.shape), indexing="ij")
    field = np.stack([np.sin(x / 3 + y / 5), np.cos(y / 4), 0.5 * np.sin(z / 3 + x / 4)], axis=-1)
    found = warps.jacobian_determinant(field, affine)
    lps = SimpleITK.GetImageFromArray((field * [1, 1, 1]).transpose(2, 1, 0, 3), isVector=True)
    lps.SetSpacing([2.0, 1.5, 3.0])
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.DisplacementFieldJacobianDeterminant(lps)).T
    core = (slice(1, -1),) * 3
    assert found[core] == pytest.approx(theirs[core], abs=1e-5)


def test_a_fold_is_negative() -> None:
    field = np.zeros((6, 5, 5, 3))
    field[..., 0] = -2.0 * np.arange(6)[:, None, None]  # x -> -x
    assert warps.jacobian_determinant(field, np.eye(4)).max() < 0


def test_what_is_no_transform(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_text("no")
    with pytest.raises(ValueError, match=r"x\.h5"):
        warps.read_transform(path)
