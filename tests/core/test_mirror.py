"""The midsagittal plane of brains that lie askew, and what the mirror shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_stroke.core import mirror
from bids_stroke.core.geometry import Grid, resample

GRID = Grid(
    (72, 84, 64), np.array([[2.5, 0, 0, -90], [0, 2.5, 0, -105], [0, 0, 2.5, -80], [0, 0, 0, 1.0]])
)
RADII_MM = np.array([65.0, 80, 60])


def brain(lesion_mm: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A brain that is its own mirror image at x = 0, but for a dark ball on its right; its mask."""
    points = apply_affine(GRID.affine, np.argwhere(np.ones(GRID.shape)))
    folded = np.c_[np.abs(points[:, 0]), points[:, 1:]]
    waves = np.random.default_rng(0).normal(0, 0.08, (30, 3))
    texture = np.sin(folded @ waves.T).sum(axis=1)
    mask = ((points / RADII_MM) ** 2).sum(axis=1) < 1
    image = np.where(mask, 20 + texture, 0)
    if lesion_mm:
        inside = np.linalg.norm(points - [35, 0, 5], axis=1) < lesion_mm
        image[inside & mask] = 12
    return image.reshape(GRID.shape).astype(np.float32), mask.reshape(GRID.shape)


def askew(data: np.ndarray, turn: np.ndarray, target: Grid = GRID) -> np.ndarray:
    """The same brain turned and moved: ``turn`` takes points of the new world to the old."""
    return resample(np.asarray(data, np.float32), GRID, target, transform=turn)


def pose(yaw: float, roll: float, shift: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("zy", [yaw, roll], degrees=True).as_matrix()
    matrix[:3, 3] = [shift, 4, -3]
    return matrix


def error_mm(found: np.ndarray, turn: np.ndarray, mask: np.ndarray) -> float:
    """Mean distance of mirrored points to where they belong, over the brain."""
    truth = np.linalg.inv(turn) @ np.diag([-1.0, 1, 1, 1]) @ turn
    points = apply_affine(GRID.affine, np.argwhere(mask))
    return float(
        np.linalg.norm(apply_affine(found, points) - apply_affine(truth, points), axis=1).mean()
    )


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.floats(-1, 1)] * 3), st.tuples(*[st.floats(-50, 50)] * 3))
def test_a_reflection_undoes_itself_and_keeps_its_plane(
    normal: tuple[float, ...], point: tuple[float, ...]
) -> None:
    if np.linalg.norm(normal) < 1e-2:
        return
    matrix = mirror.reflection(np.array(normal), np.array(point))
    assert np.allclose(matrix @ matrix, np.eye(4), atol=1e-9)
    assert np.linalg.det(matrix) == pytest.approx(-1)
    assert np.allclose(apply_affine(matrix, point), point, atol=1e-9)


@pytest.mark.parametrize("yaw, roll, shift", [(0, 0, 0), (6, -4, 5), (-17, 9, -8), (20, 20, 3)])
def test_the_plane_of_a_brain_that_lies_askew_is_found(
    yaw: float, roll: float, shift: float
) -> None:
    turn = pose(yaw, roll, shift)
    image, mask = (askew(data, turn) for data in brain())
    mask = mask > 0.5
    found = mirror.midsagittal_reflection(image * mask, mask, GRID.affine)
    assert error_mm(found, turn, mask) < 0.5


def test_a_large_lesion_moves_the_plane_little() -> None:
    turn = pose(5, -7, 4)
    image, mask = (askew(data, turn) for data in brain(lesion_mm=28))
    mask = mask > 0.5
    found = mirror.midsagittal_reflection(image * mask, mask, GRID.affine)
    assert error_mm(found, turn, mask) < 1.0


def test_a_brain_of_thick_slices() -> None:
    thick = Grid((72, 84, 27), GRID.affine @ np.diag([1, 1, 2.4, 1]))
    turn = pose(4, 3, -2)
    image, mask = (askew(data, turn, thick) for data in brain())
    mask = mask > 0.5
    found = mirror.midsagittal_reflection(image * mask, mask, thick.affine)
    truth = np.linalg.inv(turn) @ np.diag([-1.0, 1, 1, 1]) @ turn
    points = apply_affine(thick.affine, np.argwhere(mask))
    apart = apply_affine(found, points) - apply_affine(truth, points)
    assert np.linalg.norm(apart, axis=1).mean() < 1.0


def test_what_lies_right_is_seen_left_and_nothing_outside() -> None:
    image, mask = brain(lesion_mm=20)
    shown = mirror.mirrored(image, mask, GRID.affine)
    assert shown.dtype == np.float32 and not shown[~mask].any()
    healthy, _ = brain()
    there = apply_affine(GRID.affine, ndimage.center_of_mass(np.abs(healthy - shown) * mask > 3))
    assert there[0] == pytest.approx(-35, abs=2)


def test_a_brain_of_a_few_voxels_or_of_one_grey_is_cut_in_its_middle() -> None:
    affine = np.diag([1.0, 1, 1, 1])
    few = np.zeros((9, 9, 9), bool)
    few[5:7, 1:3, 2] = True  # none of them is left of every fourth voxel
    flat = np.pad(np.ones((12, 12, 12), bool), 2)
    found = mirror.midsagittal_reflection(few * 1.0, few, affine)
    assert np.allclose(apply_affine(found, [5, 1, 2]), [6, 1, 2])
    shown = mirror.mirrored(flat * 3.0, flat, affine)
    assert np.isfinite(shown).all()
    assert set(np.unique(mirror.mirrored(few * 7.0, few, affine))) == {0, 7}
