"""Small masks for tests: blobs that overlap, and boxes on an empty grid."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def blobs(seed: int, shape: tuple[int, int, int] = (18, 16, 14)) -> tuple[NDArray, NDArray]:
    """Reference and prediction of several lesions that overlap in part."""
    rng = np.random.default_rng(seed)
    field, other = (ndimage.gaussian_filter(rng.standard_normal(shape), 1.2) for _ in range(2))
    mixed = field + rng.uniform(0.2, 1.2) * other
    return field > np.quantile(field, 0.88), mixed > np.quantile(mixed, rng.uniform(0.8, 0.95))


def boxes(*corners: tuple[int, int, int, int], length: int = 60) -> NDArray:
    """Mask [length, 8, 8] of boxes ``x from, x to, y from, y to`` (ends out), 4 deep."""
    mask = np.zeros((length, 8, 8), dtype=bool)
    for x0, x1, y0, y1 in corners:
        mask[x0:x1, y0:y1, :4] = True
    return mask
