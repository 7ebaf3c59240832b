"""The search of an operating point against the code that applies one."""

import numpy as np
import pytest

from bids_stroke.core import lesions
from bids_stroke.core.metrics import counts, dice_of
from bids_stroke.core.tuning import (
    THRESHOLDS,
    VOLUMES_MM3,
    best_point,
    dice_grid,
    points_by_fold,
)


def _map(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.zeros((14, 12, 10), bool)
    truth[3:8, 3:8, 3:8] = True
    noisy = np.clip(0.6 * truth + rng.uniform(0, 0.45, truth.shape), 0, 1)
    return noisy.astype(np.float32), truth


def test_every_point_is_what_segmentation_and_metrics_give():
    probability, truth = _map(0)
    affine = np.diag([2.0, 1.5, 1.0, 1])
    grid = dice_grid(probability, truth, 3.0)
    for row, column in [(0, 0), (4, 2), (8, 3), (10, 5), (16, 6)]:
        labels = lesions.segment(
            probability,
            affine,
            threshold=THRESHOLDS[row],
            min_volume_mm3=VOLUMES_MM3[column],
            connectivity=26,
            inclusive=True,
        )
        assert grid[row, column] == pytest.approx(dice_of(*counts(truth, labels)))


def test_nothing_found_of_nothing_is_right():
    assert (dice_grid(np.zeros((4, 4, 4)), np.zeros((4, 4, 4)), 1.0) == 1).all()


def test_the_best_point_is_found_and_ties_go_to_one_half():
    threshold, volume, dice = best_point([dice_grid(*_map(seed), 1.0) for seed in range(3)])
    assert (threshold, dice) == (0.5, pytest.approx(1.0))
    assert volume == 0
    with pytest.raises(ValueError, match="No case"):
        best_point([])


def test_a_fold_is_judged_by_the_others():
    shape = (len(THRESHOLDS), len(VOLUMES_MM3))
    one, other = np.zeros(shape), np.zeros(shape)
    one[2, 1] = other[5, 3] = 1
    points = points_by_fold({"a": one, "b": other}, {"a": 0, "b": 1})
    assert points[0] == (THRESHOLDS[5], VOLUMES_MM3[3])
    assert points[1] == (THRESHOLDS[2], VOLUMES_MM3[1])
    assert points_by_fold({"a": one}, {"a": 0})[0] == (THRESHOLDS[2], VOLUMES_MM3[1])
