"""Metrics against scikit-learn and against cases counted by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from bids_stroke.core import metrics


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.9), st.floats(0.05, 0.9))
def test_voxelwise_equals_scikit_learn(seed: int, p: float, q: float) -> None:
    rng = np.random.default_rng(seed)
    truth, found = rng.random((5, 6, 7)) < p, rng.random((5, 6, 7)) < q
    truth[0, 0, 0] = found[0, 0, 1] = True
    flat = truth.ravel(), found.ravel()
    expected = {
        "dice": f1_score(*flat),
        "jaccard": jaccard_score(*flat),
        "precision": precision_score(*flat),
        "sensitivity": recall_score(*flat),
    }
    assert metrics.voxelwise(truth, found) == pytest.approx(expected)


def test_both_empty_is_full_agreement() -> None:
    empty = np.zeros((4, 4, 4))
    values = metrics.agreement(empty, empty, 1.0)
    ones = ("dice", "jaccard", "precision", "sensitivity", "lesion_f1_onevoxel")
    assert all(values[name] == 1 for name in ones)


def test_one_false_positive_takes_all() -> None:
    empty, found = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    found[1, 1, 1] = 1
    values = metrics.agreement(empty, found, 2000.0)
    assert values["dice"] == values["lesion_f1_onevoxel"] == values["precision"] == 0
    assert math.isnan(values["sensitivity"])
    assert math.isnan(values["lesion_sensitivity_onevoxel"])
    assert values["volume_difference_ml"] == 2.0


def test_an_empty_prediction_has_no_precision() -> None:
    truth = np.zeros((4, 4, 4))
    truth[0, 0, 0] = 1
    values = metrics.agreement(truth, np.zeros_like(truth), 1.0)
    assert math.isnan(values["precision"])
    assert math.isnan(values["lesion_ppv_onevoxel"])
    assert values["sensitivity"] == values["dice"] == 0


def test_lesions_by_hand() -> None:
    truth, found = np.zeros((12, 3, 3)), np.zeros((12, 3, 3))
    truth[0:2] = truth[4:6] = truth[8:10] = 1  # three lesions
    found[1:5] = 1  # one that touches the first two
    found[11] = 1  # one that touches none
    values = metrics.lesionwise_onevoxel(truth, found)
    assert values["reference_lesions"] == 3
    assert values["predicted_lesions"] == 2
    assert values["lesion_sensitivity_onevoxel"] == pytest.approx(2 / 3)
    assert values["lesion_ppv_onevoxel"] == 0.5
    assert values["lesion_f1_onevoxel"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_corners_connect() -> None:
    mask = np.zeros((3, 3, 3))
    mask[0, 0, 0] = mask[1, 1, 1] = 1
    assert metrics.lesionwise_onevoxel(mask, mask)["reference_lesions"] == 1


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.voxelwise(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))


def test_every_column_is_explained() -> None:
    assert list(metrics.agreement(np.ones((2, 2, 2)), np.ones((2, 2, 2)), 1.0)) == [
        *metrics.COLUMNS
    ]
