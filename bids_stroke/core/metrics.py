"""Agreement of a predicted lesion mask with a reference, each number with its convention.

Both masks empty means full agreement (Dice 1), one empty none (0); a share of nothing is NaN.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]

COLUMNS = {
    "dice": "2 TP / (2 TP + FP + FN) over voxels; 1 where both masks are empty.",
    "jaccard": "TP / (TP + FP + FN) over voxels; 1 where both masks are empty.",
    "precision": "TP / (TP + FP) over voxels; 1 where both masks are empty, "
    "n/a where only the prediction is.",
    "sensitivity": "TP / (TP + FN) over voxels; 1 where both masks are empty, "
    "n/a where only the reference is.",
    "reference_volume_ml": "Volume of the reference mask in millilitres.",
    "predicted_volume_ml": "Volume of the predicted mask in millilitres.",
    "volume_difference_ml": "Predicted minus reference volume in millilitres.",
    "reference_lesions": "Number of 26-connected components of the reference.",
    "predicted_lesions": "Number of 26-connected components of the prediction.",
    "lesion_sensitivity_onevoxel": "Share of reference lesions that share at least one voxel with "
    "the prediction; 1 where both masks are empty, n/a where only the reference is.",
    "lesion_ppv_onevoxel": "Share of predicted lesions that share at least one voxel with the "
    "reference; 1 where both masks are empty, n/a where only the prediction is.",
    "lesion_f1_onevoxel": "2 TP / (2 TP + FP + FN) over lesions: TP are reference lesions that "
    "share at least one voxel with the prediction, FN the others, FP predicted lesions that share "
    "none with the reference; 1 where both masks are empty.",
}


def _share(part: float, whole: float, both_empty: bool) -> float:
    """Part of a whole; 1 where both masks are empty, NaN where the whole is nothing."""
    if both_empty:
        return 1.0
    return part / whole if whole else float("nan")


def voxelwise(reference: Array, predicted: Array) -> dict[str, float]:
    """Dice, Jaccard, precision and sensitivity of two masks of one shape (non-zero is lesion).

    Raises ValueError when the shapes differ.
    """
    if reference.shape != predicted.shape:
        raise ValueError(f"Masks differ in shape: {reference.shape} and {predicted.shape}.")
    truth, found = reference > 0, predicted > 0
    tp = float(np.count_nonzero(truth & found))
    n_truth, n_found = float(np.count_nonzero(truth)), float(np.count_nonzero(found))
    empty = n_truth + n_found == 0
    return {
        "dice": _share(2 * tp, n_truth + n_found, empty),
        "jaccard": _share(tp, n_truth + n_found - tp, empty),
        "precision": _share(tp, n_found, empty),
        "sensitivity": _share(tp, n_truth, empty),
    }


def _components(mask: Array) -> tuple[NDArray[np.int32], int]:
    return ndimage.label(mask > 0, np.ones((3, 3, 3)))


def _touched(labels: Array, count: int, other: Array) -> int:
    """How many of ``count`` components share a voxel with ``other``."""
    hit = np.unique(labels[other > 0])
    return int(np.count_nonzero(hit[hit <= count]))


def lesionwise_onevoxel(reference: Array, predicted: Array) -> dict[str, float]:
    """Lesion counts, sensitivity, PPV and F1 by the one-voxel rule (ATLAS challenge).

    Lesions are 26-connected components; one is found when it shares a voxel with the other mask.
    """
    truth, n_truth = _components(reference)
    found, n_found = _components(predicted)
    hits, right = _touched(truth, n_truth, predicted), _touched(found, n_found, reference)
    empty = n_truth + n_found == 0
    misses, false = n_truth - hits, n_found - right
    return {
        "reference_lesions": n_truth,
        "predicted_lesions": n_found,
        "lesion_sensitivity_onevoxel": _share(hits, n_truth, empty),
        "lesion_ppv_onevoxel": _share(right, n_found, empty),
        "lesion_f1_onevoxel": _share(2 * hits, 2 * hits + false + misses, empty),
    }


def agreement(reference: Array, predicted: Array, voxel_mm3: float) -> dict[str, float]:
    """All numbers of COLUMNS, in their order, for two masks [x, y, z] on one grid."""
    volumes = [np.count_nonzero(mask > 0) * voxel_mm3 / 1000 for mask in (reference, predicted)]
    values = {
        **voxelwise(reference, predicted),
        "reference_volume_ml": volumes[0],
        "predicted_volume_ml": volumes[1],
        "volume_difference_ml": volumes[1] - volumes[0],
        **lesionwise_onevoxel(reference, predicted),
    }
    return {name: values[name] for name in COLUMNS}
