"""Metrics against nnU-Net and scikit-learn, cases counted by hand, and properties."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    jaccard_score,
    precision_score,
    recall_score,
)

from bids_stroke.core import metrics
from tests.core.masks import blobs

UNIT = np.eye(4)
SEEDS = st.integers(0, 2**32 - 1)


def probability_map(seed: int, levels: int = 20) -> tuple[NDArray, NDArray]:
    """Reference and a probability map with ties, zeros and ones."""
    reference, predicted = blobs(seed, (9, 8, 7))
    noise = np.random.default_rng(seed).random(reference.shape)
    mixed = np.clip(0.4 * reference + 0.3 * predicted + 0.6 * noise - 0.3, 0, 1)
    return reference, np.round(mixed * levels) / levels


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.05, 0.9), st.floats(0.05, 0.9))
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
    values = metrics.voxelwise(truth, found)
    assert {name: values[name] for name in expected} == pytest.approx(expected)


class Reader:
    """nnU-Net's reader of segmentations, for arrays in memory."""

    def read_seg(self, mask: NDArray) -> tuple[NDArray, dict]:
        return mask.astype(int), {}


@pytest.mark.parametrize("seed", range(5))
def test_voxelwise_equals_nnunet(seed: int) -> None:
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics

    masks = blobs(seed)
    theirs = compute_metrics(*masks, Reader(), [1])["metrics"][1]
    ours = metrics.voxelwise(*masks)
    names = {
        "dice": "Dice",
        "jaccard": "IoU",
        "tp_voxels": "TP",
        "fp_voxels": "FP",
        "fn_voxels": "FN",
    }
    expected = {name: theirs[other] for name, other in names.items()}
    assert {name: ours[name] for name in names} == pytest.approx(expected)


def test_both_empty_is_full_agreement() -> None:
    empty = np.zeros((4, 4, 4))
    values = metrics.agreement(empty, empty, UNIT, probability=empty)
    ones = ("dice", "jaccard", "precision", "sensitivity", "dice_best", "nsd_surfel_2mm")
    assert all(values[name] == 1 for name in ones)
    assert all(values[name] == 1 for name in values if name.startswith("lesion_"))
    assert values["volume_relative_error"] == values["false_alarm"] == values["ece_15bins"] == 0
    distances = [name for name in values if name.endswith("_mm")]
    assert all(math.isnan(values[name]) for name in [*distances, "average_precision"])


def test_one_false_positive_takes_all() -> None:
    empty, found = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    found[1, 1, 1] = 1
    values = metrics.agreement(empty, found, np.diag([10, 10, 20, 1.0]))
    assert values["dice"] == values["lesion_f1_onevoxel"] == values["precision"] == 0
    assert values["nsd_surfel_2mm"] == 0
    assert values["false_alarm"] == 1
    for name in ("sensitivity", "lesion_sensitivity_onevoxel", "volume_relative_error", "hd_mm"):
        assert math.isnan(values[name])
    assert values["volume_difference_ml"] == pytest.approx(2)


def test_an_empty_prediction_has_no_precision() -> None:
    truth = np.zeros((4, 4, 4))
    truth[0, 0, 0] = 1
    values = metrics.agreement(truth, np.zeros_like(truth), UNIT)
    for name in ("precision", "lesion_ppv_onevoxel", "assd_pooled_mm", "false_alarm"):
        assert math.isnan(values[name])
    assert values["sensitivity"] == values["dice"] == 0
    assert values["volume_relative_error"] == -1
    assert values["volume_absolute_relative_error"] == 1


def test_micro_dice_counts_all_voxels_together() -> None:
    pairs = [blobs(seed) for seed in range(4)]
    table = pd.DataFrame([metrics.voxelwise(*pair) for pair in pairs])
    truth, found = (np.stack(masks).ravel() for masks in zip(*pairs, strict=True))
    assert metrics.micro_dice(table) == pytest.approx(f1_score(truth, found))
    assert metrics.micro_dice(table.iloc[:0]) == 1


@pytest.mark.parametrize("seed", range(10))
def test_average_precision_equals_scikit_learn(seed: int) -> None:
    reference, probability = probability_map(seed)
    expected = average_precision_score(reference.ravel(), probability.ravel())
    assert metrics.average_precision(reference, probability) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(10))
def test_best_dice_equals_a_search(seed: int) -> None:
    reference, probability = probability_map(seed)
    dice = {
        t: f1_score(reference.ravel(), probability.ravel() >= t, zero_division=0)
        for t in np.unique(probability[probability > 0])
    }
    best, threshold = metrics.best_dice(reference, probability)
    assert best == pytest.approx(max(dice.values()))
    assert threshold == max(t for t, d in dice.items() if d > best - 1e-9)


def test_best_dice_of_extremes() -> None:
    empty, mask = np.zeros((3, 3, 3)), np.zeros((3, 3, 3))
    mask[1] = 1
    assert metrics.best_dice(mask, mask) == (1, 1)
    assert metrics.best_dice(mask, empty) == pytest.approx((0, np.nan), nan_ok=True)
    assert metrics.best_dice(empty, mask) == pytest.approx((1, np.nan), nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_reliability_equals_scikit_learn(seed: int) -> None:
    reference, probability = probability_map(seed, levels=15)  # on the limits of the bins
    share, mean = calibration_curve(reference.ravel(), probability.ravel(), n_bins=15)
    curve = metrics.reliability_curve(metrics.reliability(reference, probability))
    assert curve["lesion_share"].to_numpy() == pytest.approx(share)
    assert curve["mean_probability"].to_numpy() == pytest.approx(mean)
    assert curve["voxels"].sum() == reference.size


def test_calibration_by_hand() -> None:
    """Of four voxels at .3 one is lesion, of two at .9 both: (4 x .05 + 2 x .1) / 6."""
    truth, probability = np.array([1, 0, 0, 0, 1, 1]), np.array([0.3] * 4 + [0.9] * 2)
    table = metrics.reliability(truth, probability, bins=10)
    assert table.loc[(0.2, 0.30000000000000004), "voxels"] == 4
    assert metrics.expected_calibration_error(table) == pytest.approx((4 * 0.05 + 2 * 0.1) / 6)


def test_reliability_of_cases_adds_up() -> None:
    cases = [probability_map(seed) for seed in range(3)]
    pooled = sum(metrics.reliability(*case) for case in cases)
    truth, probability = (np.concatenate(maps) for maps in zip(*cases, strict=True))
    together = metrics.reliability(truth, probability)
    pd.testing.assert_frame_equal(pooled, together)
    assert math.isnan(metrics.expected_calibration_error(together * 0))


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="outside 0 to 1"):
        metrics.reliability(np.zeros(3), np.array([0, 0.5, value]))


def test_calibration_is_judged_in_the_brain() -> None:
    reference, probability = probability_map(1)
    brain = np.zeros(reference.shape)
    brain[2:7] = 1
    judged = (brain > 0) | reference
    values = metrics.agreement(reference, reference, UNIT, probability=probability, brain=brain)
    table = metrics.reliability(reference[judged], probability[judged])
    assert values["ece_15bins"] == metrics.expected_calibration_error(table)
    whole = metrics.agreement(reference, reference, UNIT, probability=probability)
    assert whole["ece_15bins"] != values["ece_15bins"]


def test_without_a_map_its_columns_are_empty() -> None:
    mask, _ = blobs(0)
    values = metrics.agreement(mask, mask, UNIT)
    assert all(math.isnan(values[name]) for name in metrics.PROBABILITY_COLUMNS)
    assert not any(
        math.isnan(values[n]) for n in {*values} - {*metrics.PROBABILITY_COLUMNS} - {"false_alarm"}
    )


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.permutations(range(3)), st.tuples(*[st.sampled_from([1, -1])] * 3))
def test_the_storage_of_the_axes_does_not_matter(
    seed: int, order: list[int], signs: tuple[int, int, int]
) -> None:
    affine = np.diag([0.8, 1.1, 3.0, 1.0])
    reference, predicted = blobs(seed, (12, 11, 9))
    probability = 0.5 * predicted + 0.4 * reference
    flips = tuple(slice(None, None, sign) for sign in signs)
    turned = [a.transpose(order)[flips] for a in (reference, predicted, probability)]
    there = metrics.agreement(reference, predicted, affine, probability=probability)
    other = affine[:, [*order, 3]] @ np.diag([*signs, 1.0])
    back = metrics.agreement(*turned[:2], other, probability=turned[2])
    # pairs of equal IoU are made in array order, as in panoptica
    names = [name for name in there if not name.endswith("iou25")]
    assert [back[n] for n in names] == pytest.approx([there[n] for n in names], nan_ok=True)


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.floats(0, 0.4), st.floats(0, 0.4))
def test_every_number_stays_in_its_range(seed: int, p: float, q: float) -> None:
    rng = np.random.default_rng(seed)
    reference, predicted = rng.random((6, 5, 4)) < p, rng.random((6, 5, 4)) < q
    probability = rng.random((6, 5, 4))
    values = metrics.agreement(reference, predicted, UNIT, probability=probability)
    for name, value in values.items():
        if name.startswith(("dice", "jaccard", "lesion_", "nsd", "average", "ece")):
            assert math.isnan(value) or 0 <= value <= 1 + 1e-9, name
        elif name not in ("volume_difference_ml", "volume_relative_error"):
            assert math.isnan(value) or value >= 0, name
    assert values["jaccard"] == pytest.approx(values["dice"] / (2 - values["dice"]))


def test_a_larger_field_changes_nothing_but_calibration() -> None:
    small = blobs(5)
    large = [np.pad(mask, ((3, 9), (20, 0), (5, 5))) for mask in small]
    assert metrics.agreement(*large, UNIT) == pytest.approx(
        metrics.agreement(*small, UNIT), nan_ok=True
    )


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.agreement(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), UNIT)


@pytest.mark.parametrize("name", ["probability", "brain"])
def test_maps_of_another_shape_are_refused(name: str) -> None:
    mask, other = np.ones((2, 2, 2)), np.ones((2, 2, 3))
    with pytest.raises(ValueError, match="differs in shape"):
        metrics.agreement(mask, mask, UNIT, **{name: other})


def test_every_column_is_explained() -> None:
    mask = np.ones((2, 2, 2))
    assert list(metrics.agreement(mask, mask, UNIT)) == [*metrics.COLUMNS]
