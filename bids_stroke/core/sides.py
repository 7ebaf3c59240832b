"""Does a lesion mask lie on the side where the image looks ill, or on the other one?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

ENOUGH_VOXELS = 20
FLIPPED_SD = 0.5
"""Contrast between the sides, in SD of the brain, from which one is believed to be the ill one."""

Array = NDArray[Any]


def mirror_contrast(
    image: Array, brain: Array, lesion: Array, *, bright: bool = False
) -> float | None:
    """How much more ill the lesion looks than its mirror place, in SD of the brain.

    Arrays [x, y, z] in RAS. An ill place is dark (T1w), or ``bright`` (FLAIR). The mirror plane
    halves the brain's box along x, so that the head must be roughly upright. Positive: the mask's
    side looks ill; negative: the other side does, which a flipped mask would explain. None where
    too little of the lesion has a mirror place of its own in the brain, as near the midline.
    Medians, so that the rim counts little.
    """
    inside, mask = brain > 0, lesion > 0
    xs = np.flatnonzero(inside.any(axis=(1, 2)))
    if not len(xs):
        return None
    box = slice(xs[0], xs[-1] + 1)
    inside, mask, values = inside[box], mask[box], image[box]
    here = mask & inside & ~mask[::-1] & inside[::-1]
    if np.count_nonzero(here) < ENOUGH_VOXELS:
        return None
    spread = float(values[inside].std())
    if spread == 0:
        return None
    difference = float(np.median(values[here]) - np.median(values[::-1][here])) / spread
    return difference if bright else -difference


def outside_share(brain: Array, lesion: Array) -> float:
    """Share of the lesion's voxels that lie outside the brain; 0 for an empty lesion."""
    mask = lesion > 0
    total = np.count_nonzero(mask)
    return float(np.count_nonzero(mask & ~(brain > 0)) / total) if total else 0.0
