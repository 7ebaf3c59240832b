"""Agreement of a predicted lesion mask with a reference, each number with its convention.

Both masks empty means full agreement (overlap 1, error 0), one empty none (overlap 0); a share of
nothing and a distance to nothing are NaN, and tables count them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from bids_stroke.core import lesionwise, surfaces
from bids_stroke.core.geometry import Box, bounding_box, voxel_volume_mm3

Array = NDArray[Any]

BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017."""
_ROUNDING = 1e-6

VOXEL_COLUMNS = {
    "dice": "2 TP / (2 TP + FP + FN) over voxels; 1 where both masks are empty.",
    "jaccard": "TP / (TP + FP + FN) over voxels; 1 where both masks are empty.",
    "precision": "TP / (TP + FP) over voxels; 1 where both masks are empty, "
    "n/a where only the prediction is.",
    "sensitivity": "TP / (TP + FN) over voxels; 1 where both masks are empty, "
    "n/a where only the reference is.",
    "tp_voxels": "Voxels in both masks.",
    "fp_voxels": "Voxels in the prediction only.",
    "fn_voxels": "Voxels in the reference only.",
    "false_alarm": "1 where the reference is empty and the prediction is not, so that Dice and F1 "
    "are 0 however little was found; 0 where both are empty, n/a where the reference has lesions.",
}
VOLUME_COLUMNS = {
    "reference_volume_ml": "Volume of the reference mask in millilitres.",
    "predicted_volume_ml": "Volume of the predicted mask in millilitres.",
    "volume_difference_ml": "Predicted minus reference volume in millilitres.",
    "volume_relative_error": "Predicted minus reference volume over reference volume; 0 where both "
    "masks are empty, n/a where only the reference is.",
    "volume_absolute_relative_error": "Absolute value of volume_relative_error.",
}
PROBABILITY_COLUMNS = {
    "dice_best": "Largest Dice over all thresholds of the probability map, with voxels at or above "
    "the threshold; 1 where the reference is empty, because a threshold may leave nothing.",
    "dice_best_threshold": "Largest threshold that gives dice_best; n/a where it is that of an "
    "empty mask.",
    "average_precision": "Sum over the thresholds of the probability map of precision times gain "
    "in sensitivity, without interpolation (scikit-learn), over the voxels of the brain mask; n/a "
    "where the reference is empty.",
    "ece_15bins": "Expected calibration error of the lesion probability: mean over 15 equal bins "
    "of |mean probability - share of lesion voxels|, weighted by voxels of the brain mask.",
}
COLUMNS = {
    **VOXEL_COLUMNS,
    **VOLUME_COLUMNS,
    **lesionwise.COLUMNS,
    **surfaces.COLUMNS,
    **PROBABILITY_COLUMNS,
}


def _share(part: float, whole: float, of_nothing: float) -> float:
    """Part of a whole, and the given value where the whole is nothing."""
    return part / whole if whole else of_nothing


def counts(reference: Array, predicted: Array) -> tuple[int, int, int]:
    """True positive, false positive and false negative voxels (non-zero is lesion).

    Raises ValueError when the shapes differ.
    """
    if reference.shape != predicted.shape:
        raise ValueError(f"Masks differ in shape: {reference.shape} and {predicted.shape}.")
    truth, found = reference > 0, predicted > 0
    tp = np.count_nonzero(truth & found)
    return tp, np.count_nonzero(found) - tp, np.count_nonzero(truth) - tp


def dice_of(tp: float, fp: float, fn: float) -> float:
    """Dice of numbers of voxels; 1 where all are 0 (Dice 1945; Taha and Hanbury 2015)."""
    return _share(2 * tp, 2 * tp + fp + fn, 1.0)


def voxelwise(reference: Array, predicted: Array) -> dict[str, float]:
    """Numbers of VOXEL_COLUMNS of two masks of one shape (non-zero is lesion).

    Definitions by Taha and Hanbury 2015, doi:10.1186/s12880-015-0068-x. Raises ValueError when the
    shapes differ.
    """
    tp, fp, fn = counts(reference, predicted)
    nothing = 1.0 if tp + fp + fn == 0 else float("nan")
    return {
        "dice": dice_of(tp, fp, fn),
        "jaccard": _share(tp, tp + fp + fn, 1.0),
        "precision": _share(tp, tp + fp, nothing),
        "sensitivity": _share(tp, tp + fn, nothing),
        "tp_voxels": tp,
        "fp_voxels": fp,
        "fn_voxels": fn,
        "false_alarm": float("nan") if tp + fn else float(fp > 0),
    }


def micro_dice(table: pd.DataFrame) -> float:
    """Dice of the voxels of all rows together (Tomita et al. 2020), from ``*_voxels`` of a table.

    A voxel counts as one voxel, whatever its size; 1 where nothing is in any mask.
    """
    tp, fp, fn = table[["tp_voxels", "fp_voxels", "fn_voxels"]].sum()
    return dice_of(tp, fp, fn)


def volumes(reference_ml: float, predicted_ml: float) -> dict[str, float]:
    """Numbers of VOLUME_COLUMNS of two volumes in millilitres."""
    difference = predicted_ml - reference_ml
    error = _share(difference, reference_ml, 0.0 if difference == 0 else float("nan"))
    return {
        "reference_volume_ml": reference_ml,
        "predicted_volume_ml": predicted_ml,
        "volume_difference_ml": difference,
        "volume_relative_error": error,
        "volume_absolute_relative_error": abs(error),
    }


def _steps(reference: Array, probability: Array) -> tuple[Array, Array, Array]:
    """Distinct probabilities of lesion voxels, decreasing, with TP and positives at or above each.

    At other thresholds TP stay as they are and positives only grow: none matters to a maximum of
    Dice, or to a sum over gains in recall.
    """
    lesion, everything = np.sort(probability[reference > 0]), np.sort(probability, axis=None)
    thresholds = np.unique(lesion)[::-1]
    tp = lesion.size - np.searchsorted(lesion, thresholds)
    return thresholds, tp, everything.size - np.searchsorted(everything, thresholds)


def best_dice(reference: Array, probability: Array) -> tuple[float, float]:
    """Largest Dice over all thresholds above 0, and the largest threshold that gives it.

    Arrays of one shape; a voxel is positive at or above the threshold. The maximal Dice of Tomita
    et al. 2020. A threshold above every probability leaves nothing: an empty reference then has
    Dice 1, and the threshold is NaN.
    """
    n_truth = np.count_nonzero(reference > 0)
    thresholds, tp, positives = _steps(reference, probability)
    dice = (2 * tp / (positives + n_truth))[thresholds > 0]
    if dice.size == 0:
        return float(n_truth == 0), float("nan")
    best = int(dice.argmax())
    return float(dice[best]), float(thresholds[best])


def average_precision(reference: Array, probability: Array) -> float:
    """Area under the precision-recall curve as a sum of steps, as in scikit-learn.

    Sum over distinct probabilities, in decreasing order, of precision times the gain in recall;
    voxels of equal probability enter together. Arrays of one shape; NaN for an empty reference.
    """
    _, tp, positives = _steps(reference, probability)
    if tp.size == 0:
        return float("nan")
    return float(np.sum(tp / positives * np.diff(tp, prepend=0)) / tp[-1])


def reliability(reference: Array, probability: Array, bins: int = BINS) -> pd.DataFrame:
    """Voxels, sum of probabilities and lesion voxels in equal bins of probability.

    Indexed by the limits of the bins in [0, 1]; a bin holds its upper limit, the first also 0.
    Tables of several cases add up: ``sum(tables)`` is that of all their voxels (DeGroot and
    Fienberg 1983). Probabilities outside [0, 1] raise ValueError.
    """
    values = np.asarray(probability, dtype=float).ravel()
    if values.size and not (values.min() >= -_ROUNDING and values.max() <= 1 + _ROUNDING):
        raise ValueError("Probabilities lie outside 0 to 1.")
    edges = np.linspace(0, 1, bins + 1)
    which = np.searchsorted(edges[1:-1], values)
    truth = reference.ravel() > 0
    index = pd.MultiIndex.from_arrays([edges[:-1], edges[1:]], names=["lower", "upper"])
    return pd.DataFrame(
        {
            "voxels": np.bincount(which, minlength=bins),
            "probability_sum": np.bincount(which, values, bins),
            "lesion_voxels": np.bincount(which, truth, bins),
        },
        index=index,
    )


def reliability_curve(table: pd.DataFrame) -> pd.DataFrame:
    """Mean probability and share of lesion voxels in each bin that has voxels."""
    filled = table[table["voxels"] > 0]
    return pd.DataFrame(
        {
            "voxels": filled["voxels"],
            "mean_probability": filled["probability_sum"] / filled["voxels"],
            "lesion_share": filled["lesion_voxels"] / filled["voxels"],
        }
    )


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Mean over bins of |mean probability - share of lesion voxels|, weighted by voxels.

    Of a table of ``reliability``: Naeini et al. 2015 and Guo et al. 2017, arXiv:1706.04599, for
    the probability of lesion (not of the likelier class). NaN without voxels.
    """
    gaps = (table["probability_sum"] - table["lesion_voxels"]).abs().sum()
    return _share(float(gaps), float(table["voxels"].sum()), float("nan"))


def probabilistic(reference: Array, probability: Array | None) -> dict[str, float]:
    """Numbers of PROBABILITY_COLUMNS over the voxels given; all NaN without a probability map."""
    if probability is None:
        return dict.fromkeys(PROBABILITY_COLUMNS, float("nan"))
    dice, threshold = best_dice(reference, probability)
    return {
        "dice_best": dice,
        "dice_best_threshold": threshold,
        "average_precision": average_precision(reference, probability),
        "ece_15bins": expected_calibration_error(reliability(reference, probability)),
    }


def _union_box(*masks: Array) -> Box:
    """Box around all the masks; the first voxel where all are empty."""
    union = np.logical_or.reduce([mask > 0 for mask in masks])
    return bounding_box(union) if union.any() else (slice(1), slice(1), slice(1))


def agreement(
    reference: Array,
    predicted: Array,
    affine: Array,
    *,
    probability: Array | None = None,
    brain: Array | None = None,
) -> dict[str, float]:
    """All numbers of COLUMNS, in their order, for two masks [x, y, z] on one grid.

    ``affine`` is the 4 x 4 matrix of the grid in mm. ``probability`` in [0, 1] and ``brain`` lie on
    the same grid; without a map its columns are NaN, without a brain mask every voxel of the grid
    is judged. The reference's voxels outside the brain mask are judged too: a lesion that the mask
    misses is missed. Raises ValueError when the shapes differ.
    """
    values: dict[str, float] = voxelwise(reference, predicted)
    if any(other is not None and other.shape != reference.shape for other in (probability, brain)):
        raise ValueError("The probability map or the brain mask differs in shape from the masks.")
    box = _union_box(reference, predicted)
    spacing: Sequence[float] = voxel_sizes(affine).tolist()
    millilitres = voxel_volume_mm3(affine) / 1000
    truth, found = reference[box] > 0, predicted[box] > 0
    values |= volumes(np.count_nonzero(truth) * millilitres, np.count_nonzero(found) * millilitres)
    values |= lesionwise.lesionwise(truth, found)
    values |= surfaces.surface_metrics(truth, found, spacing)
    judged = (
        np.ones(reference.shape, dtype=bool) if brain is None else (brain > 0) | (reference > 0)
    )
    values |= probabilistic(reference[judged], None if probability is None else probability[judged])
    return {name: values[name] for name in COLUMNS}
