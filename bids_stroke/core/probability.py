"""Probability maps on other grids: what is interpolated is their log odds.

Between a voxel of the lesion and one beside it a probability falls from nearly 1 to nearly 0. On a
straight line between the two a contour of .8 lies nearer to the lesion than one of .5: cut there, a
lesion loses a third of a voxel all around, an eighth of large strokes on slices of 3 to 4 mm
(``benchmarks/embedded/README.md``). Log odds are symmetric: the contour of any threshold stays
about where it is, and exactly there where the odds change evenly. nnU-Net v2, too, interpolates
what its network gives, and not probabilities.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import expit, logit

from bids_stroke.core import geometry
from bids_stroke.core.geometry import Grid

SURE = 1e-3
"""Probabilities this near to 0 or 1 count as 0 and 1 between voxels: how sure a network is of what
is no lesion must not move the edge of a lesion. From 1e-6 to 1e-2 masks hardly differ."""
_MOST = float(logit(1 - SURE))


def resample_probability(
    probability: np.ndarray, source: Grid, target: Grid, *, transform: np.ndarray | None = None
) -> np.ndarray:
    """A probability map in [0, 1] at the voxel centres of another grid, as float32.

    A copy where the target's voxels fall on the source's, else by linear interpolation of the log
    odds; 0 outside the source. ``transform`` is that of ``geometry.resample``.
    """
    if geometry.is_copied(source, target, transform):
        return geometry.resample(probability, source, target, transform=transform)
    return by_log_odds(
        probability, lambda data: geometry.resample(data, source, target, transform=transform)
    )


def by_log_odds(
    probability: np.ndarray, interpolate: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """What linear interpolation makes of a probability map in [0, 1] through its log odds.

    ``interpolate`` takes an array as the map is and gives one of any shape; what it fills with 0
    has a probability of 0.
    """
    inside = np.clip(np.asarray(probability, np.float32), SURE, 1 - SURE)
    moved = interpolate(logit(inside) + np.float32(_MOST))
    found = expit(moved - _MOST)
    found[found < 1.001 * SURE] = 0
    found[found > 1 - 1.001 * SURE] = 1
    return found.astype(np.float32, copy=False)
