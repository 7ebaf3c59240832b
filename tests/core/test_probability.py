"""Probability maps on other grids: edges stay where they are, whatever the threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import expit

from bids_stroke.core.geometry import Grid, resample
from bids_stroke.core.probability import SURE, by_log_odds, resample_probability

COARSE = Grid((24, 5, 5), np.eye(4))


def fine(step: float = 0.05) -> Grid:
    """A line of voxels along x within ``COARSE``."""
    affine = np.diag([step, 1, 1, 1])
    return Grid((round(23 / step) + 1, 5, 5), affine)


def along_x(values: np.ndarray) -> np.ndarray:
    """A map of ``COARSE`` that changes along x only."""
    return np.broadcast_to(values[:, None, None], COARSE.shape).astype(np.float32)


def test_a_logistic_edge_is_found_exactly() -> None:
    coarse = along_x(expit(2 * (np.arange(24) - 11.3)))
    true = expit(2 * (np.arange(461) * 0.05 - 11.3))
    edge = (true > 0.02) & (true < 0.98)  # voxels beside it are not as sure as SURE
    moved, linear = (
        np.abs(f(coarse, COARSE, fine())[:, 2, 2] - true)[edge].max()
        for f in (resample_probability, resample)
    )
    assert moved < 1e-5
    assert linear > 0.03


@pytest.mark.parametrize("threshold", [0.2, 0.35, 0.5, 0.8, 0.9])
def test_a_hard_edge_moves_less_than_a_sixth_of_a_voxel(threshold: float) -> None:
    step = along_x((np.arange(24) < 12).astype(float))  # its edge lies at 11.5
    edge = 0.05 * np.count_nonzero(resample_probability(step, COARSE, fine())[:, 2, 2] >= threshold)
    linear = 0.05 * np.count_nonzero(resample(step, COARSE, fine())[:, 2, 2] >= threshold)
    assert abs(edge - 11.525) < 1 / 6 + 0.025
    assert linear == pytest.approx(12.0 - threshold, abs=0.06)  # 11 + (1 - threshold)


def test_thresholds_that_add_up_to_one_are_mirror_images() -> None:
    step = along_x((np.arange(24) < 12).astype(float))
    moved = resample_probability(step, COARSE, fine(0.01))[:, 2, 2]
    low, high = (0.01 * np.count_nonzero(moved >= t) for t in (0.2, 0.8))
    assert low - 11.5 == pytest.approx(11.5 - high, abs=0.03)


def test_a_map_is_copied_where_voxels_fall_on_voxels() -> None:
    rng = np.random.default_rng(0)
    data = rng.random(COARSE.shape).astype(np.float32)
    turned = np.diag([-1.0, 1, 1, 1])
    turned[0, 3] = 23
    moved = resample_probability(data, COARSE, Grid(COARSE.shape, turned))
    assert np.array_equal(moved, data[::-1])


def test_nothing_lies_outside_and_0_and_1_stay() -> None:
    half = np.eye(4)
    half[:3, 3] = 0.5
    wide = Grid((30, 8, 8), half)
    moved = resample_probability(np.ones(COARSE.shape, np.float32), COARSE, wide)
    assert set(np.unique(moved)) == {0.0, 1.0}
    assert np.array_equal(moved > 0, resample(np.ones(COARSE.shape), COARSE, wide) > 0)
    assert moved.dtype == np.float32
    assert not resample_probability(np.zeros(COARSE.shape), COARSE, wide).any()


maps = arrays.arrays(np.float32, (4, 4, 4), elements=st.floats(0, 1, width=32))
shifts = st.tuples(*[st.floats(-0.9, 0.9)] * 3)


@settings(max_examples=100, deadline=None)
@given(maps, shifts)
def test_values_lie_between_those_around_them(data: np.ndarray, shift: tuple[float, ...]) -> None:
    affine = np.eye(4)
    affine[:3, 3] = 1.0 + np.array(shift) / 2
    moved = resample_probability(data, Grid((4, 4, 4), np.eye(4)), Grid((2, 2, 2), affine))
    assert moved.min() >= data.min() - SURE - 1e-6
    assert moved.max() <= data.max() + SURE + 1e-6


@settings(max_examples=100, deadline=None)
@given(maps)
def test_what_is_no_lesion_is_the_rest(data: np.ndarray) -> None:
    def halfway(odds: np.ndarray) -> np.ndarray:
        return (odds[1:] + odds[:-1]) / 2

    lesion, rest = by_log_odds(data, halfway), by_log_odds(1 - data, halfway)
    assert np.abs(lesion + rest - 1).max() < 2e-5 + 2 * 0.001 * SURE
