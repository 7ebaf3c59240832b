"""Intensities within the brain; what lies outside it is exactly 0."""

import numpy as np

MIN_VOXELS_AFTER_SHRINK = 8


def masked(data: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``data`` as float32 where the mask is not 0, and exactly 0 elsewhere."""
    return np.where(mask != 0, data, 0).astype(np.float32)


def zscore(data: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Zero mean and unit standard deviation over the mask; float32, 0 outside.

    Raises ValueError when the mask is empty or the image is constant within it.
    """
    inside = np.asarray(data, dtype=np.float64)[mask != 0]
    if inside.size == 0 or (deviation := inside.std()) == 0:
        raise ValueError("an empty or constant brain has no z-score")
    return masked((data - inside.mean()) / deviation, mask)


def shrink_factor(shape: tuple[int, ...], wanted: int) -> int:
    """Largest factor up to ``wanted`` that leaves every axis at least eight voxels.

    N4 divides all axes by one factor; the few slices of a thick-slice scan set the limit.
    """
    return max(1, min(wanted, min(shape) // MIN_VOXELS_AFTER_SHRINK))
