"""Tract loads against sums by hand and by pandas."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_stroke.core.tracts import severity, tract_load

AFFINE = np.diag([2.0, 1.0, 3.0, 1.0])  # a voxel of 6 mm3


def test_a_cone_by_hand() -> None:
    tract = np.zeros((4, 4, 3), bool)
    tract[:4, :4, 0] = True  # 16 voxels
    tract[:2, :4, 1] = True  # 8
    tract[:1, :2, 2] = True  # 2
    lesion = np.zeros_like(tract)
    lesion[0, 0, :] = True  # one voxel of the tract in each slice
    load = tract_load(lesion, tract, AFFINE)
    assert load.tract_mm3 == 26 * 6
    assert load.raw_mm3 == 3 * 6
    assert load.weighted_mm3 == (1 * 16 / 16 + 1 * 16 / 8 + 1 * 16 / 2) * 6
    assert load.share == pytest.approx(3 / 26)


def brute(lesion: np.ndarray, tract: np.ndarray, affine: np.ndarray) -> tuple[float, float]:
    """The same by a table of voxels."""
    x, y, z = np.nonzero(tract)
    voxels = pd.DataFrame({"z": z, "hit": lesion[x, y, z] > 0})
    slices = voxels.groupby("z")["hit"].agg(["size", "sum"])
    volume = abs(np.linalg.det(affine[:3, :3]))
    weighted = (slices["sum"] * slices["size"].max() / slices["size"]).sum()
    return float(slices["sum"].sum() * volume), float(weighted * volume)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.9), st.floats(0.05, 0.9))
def test_equals_a_groupby_over_voxels(seed: int, share: float, hit: float) -> None:
    rng = np.random.default_rng(seed)
    tract, lesion = rng.random((5, 6, 7)) < share, rng.random((5, 6, 7)) < hit
    load = tract_load(lesion, tract, AFFINE)
    assert (load.raw_mm3, load.weighted_mm3) == pytest.approx(brute(lesion, tract, AFFINE))
    assert load.raw_mm3 <= load.weighted_mm3 + 1e-9


def test_a_straight_tract_has_equal_loads() -> None:
    tract = np.ones((3, 3, 5), bool)
    lesion = np.random.default_rng(0).random(tract.shape) < 0.4
    load = tract_load(lesion, tract, AFFINE)
    assert load.weighted_mm3 == pytest.approx(load.raw_mm3)


def test_no_tract_no_load() -> None:
    load = tract_load(np.ones((2, 2, 2)), np.zeros((2, 2, 2)), AFFINE)
    assert (load.raw_mm3, load.weighted_mm3) == (0, 0)
    assert np.isnan(load.share)


@pytest.mark.parametrize(
    ("mm3", "said"),
    [
        (0, "none"),
        (1, "small"),
        (1999, "small"),
        (2000, "medium"),
        (6999, "medium"),
        (7000, "large"),
    ],
)
def test_severity_by_cutoffs(mm3: float, said: str) -> None:
    assert severity(mm3, (2, 7)) == said


def test_cutoffs_are_parameters() -> None:
    assert severity(2500, (3, 4)) == "small"
