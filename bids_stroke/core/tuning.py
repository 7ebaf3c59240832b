"""The operating point of a model: threshold and smallest volume with the best mean Dice."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_stroke.core.lesions import structure

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(2, 19))
VOLUMES_MM3 = (0.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
TIE = 1e-4

Array = NDArray[Any]


def dice_grid(probability: Array, truth: Array, voxel_mm3: float) -> NDArray[np.float64]:
    """Dice [threshold, volume] of a probability map with a mask [x, y, z] of its shape.

    At THRESHOLDS x VOLUMES_MM3; equality passes both limits, components are 26-connected, both
    masks empty is 1: as ``core.lesions.segment`` and ``core.metrics`` have it.
    """
    reference = truth > 0
    total = np.count_nonzero(reference)
    grid = np.zeros((len(THRESHOLDS), len(VOLUMES_MM3)))
    for row, threshold in enumerate(THRESHOLDS):
        labels, count = ndimage.label(probability >= threshold, structure(26))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        hits = np.bincount(labels[reference], minlength=count + 1)[1:]
        for column, least in enumerate(VOLUMES_MM3):
            kept = sizes * voxel_mm3 >= least - 1e-6
            whole = sizes[kept].sum() + total
            grid[row, column] = 2 * hits[kept].sum() / whole if whole else 1.0
    return grid


def best_point(grids: Sequence[NDArray[np.float64]]) -> tuple[float, float, float]:
    """Threshold, smallest volume in mm3 and mean Dice where the mean over cases is largest.

    Among points within ``TIE`` of the best, the one nearest to a threshold of one half, then the
    one with the smallest volume. Raises ValueError without a case.
    """
    if not grids:
        raise ValueError("No case to tune the operating point on.")
    mean = np.mean(grids, axis=0)
    near = np.argwhere(mean >= mean.max() - TIE)
    row, column = min(near, key=lambda at: (abs(THRESHOLDS[at[0]] - 0.5), at[1]))
    return THRESHOLDS[row], VOLUMES_MM3[column], float(mean[row, column])


def points_by_fold(
    grids: Mapping[str, NDArray[np.float64]], fold_of: Mapping[str, int]
) -> dict[int, tuple[float, float]]:
    """For each fold, the point that is best on the cases of the other folds, so that a fold is
    judged by a point that has not seen it; with one fold only, the best on that fold itself."""
    folds = sorted(set(fold_of.values()))
    points = {}
    for fold in folds:
        others = [grid for case, grid in grids.items() if fold_of[case] != fold]
        points[fold] = best_point(others or list(grids.values()))[:2]
    return points
