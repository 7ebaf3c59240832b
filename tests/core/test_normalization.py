"""What the cost function may see, the working grid, and the flags."""

import numpy as np
import pytest
from nibabel.affines import apply_affine

from bids_stroke.core import normalization
from bids_stroke.core.normalization import coarse, jacobian_summary, normalization_flags, usable

GOOD = {"median": 1.0, "relative_p0.1": 0.5, "relative_p99.9": 2.0, "folded_share": 0.0}


def test_the_lesion_is_grown_by_millimetres_not_voxels() -> None:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    lesion = np.zeros((21, 21, 11))
    lesion[10, 10, 5] = 1
    seen = usable(np.ones(lesion.shape), lesion, affine, margin_mm=3.0)
    i, j, k = np.indices(lesion.shape)
    distance = np.sqrt((i - 10) ** 2 + (j - 10) ** 2 + (3 * (k - 5)) ** 2)
    assert np.array_equal(seen, distance > 3.0)


@pytest.mark.parametrize("lesion", [None, np.zeros((4, 4, 4))])
def test_without_a_lesion_all_is_seen(lesion: np.ndarray | None) -> None:
    assert usable(np.ones((4, 4, 4)), lesion, np.eye(4)).all()


def test_coarse_keeps_positions() -> None:
    affine = np.array([[-1.0, 0, 0, 20], [0, 1, 0, -30], [0, 0, 3, 5], [0, 0, 0, 1]])
    x, y, z = np.indices((40, 40, 12))
    blob = np.exp(-((x - 14) ** 2 + (y - 22) ** 2 + 9 * (z - 5) ** 2) / 60)
    small, new = coarse(blob, affine)
    assert small.shape == (20, 20, 12)
    assert np.linalg.norm(new[:3, :3], axis=0) == pytest.approx([2, 2, 3])
    weight = small / small.sum()
    centre = apply_affine(new, [np.sum(weight * axis) for axis in np.indices(small.shape)])
    assert centre == pytest.approx(apply_affine(affine, [14, 22, 5]), abs=0.3)


def test_jacobian_summary_is_relative_to_the_size_of_the_head() -> None:
    determinant = np.full((10, 10, 10), 0.5)
    determinant[0, 0, 0] = -1
    brain = np.ones(determinant.shape)
    found = jacobian_summary(determinant, brain)
    assert found["median"] == 0.5
    assert found["relative_p99.9"] == 1.0
    assert found["folded_share"] == 1e-3
    brain[0, 0, 0] = 0
    assert jacobian_summary(determinant, brain)["folded_share"] == 0


def test_a_good_normalisation_has_no_flag() -> None:
    assert normalization_flags(before=1.1, after=1.3, overlap=0.96, jacobian=GOOD) == []


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"after": 1.15, "before": 1.2}, "fell"),
        ({"after": 1.02, "before": 1.0}, "only 1.020"),
        ({"overlap": 0.7}, "0.70"),
        ({"jacobian": {**GOOD, "folded_share": 0.01}}, "folds in 1.00%"),
        ({"jacobian": {**GOOD, "relative_p99.9": 9.0}}, "9.00"),
        ({"jacobian": {**GOOD, "relative_p0.1": 0.1}}, "0.10"),
    ],
)
def test_each_sign_has_a_sentence(changed: dict, word: str) -> None:
    numbers = {"before": 1.1, "after": 1.3, "overlap": 0.96, "jacobian": GOOD, **changed}
    flags = normalization_flags(**numbers)
    assert len(flags) == 1
    assert word in flags[0]


def test_displacement_difference() -> None:
    one, other = np.zeros((3, 3, 3, 3)), np.zeros((3, 3, 3, 3))
    other[0, 0, 0] = (3.0, 4.0, 0.0)
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, :2] = True
    found = normalization.displacement_difference(one, other, {"a": mask, "none": mask & False})
    assert list(found) == ["a"]
    assert found["a"]["mean"] == 2.5
    assert found["a"]["max"] == 5.0
