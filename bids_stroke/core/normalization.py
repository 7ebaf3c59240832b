"""Preparing a registration to a template around a lesion, and judging what came out."""

from collections.abc import Mapping, Sequence

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from bids_stroke.core import geometry
from bids_stroke.core.geometry import Grid

MARGIN_MM = 3.0
"""By how much the lesion is grown before it is taken out of the cost function."""
WORKING_MM = 2.0
MIN_OVERLAP_DICE = 0.9
MIN_SIMILARITY = 1.03  # good ones of real scans have 1.05 to 1.1, brains laid apart 1.01
MAX_STRETCH = 5.0


def coarse(data: np.ndarray, affine: np.ndarray, size_mm: float = WORKING_MM) -> "Image":
    """Image with voxels of at least ``size_mm``: smoothed against aliasing, then sampled.

    Sides that are larger already stay; the field of view keeps its outer edge.
    """
    factors = np.maximum(1.0, size_mm / voxel_sizes(affine))
    smooth = ndimage.gaussian_filter(np.asarray(data, np.float32), 0.4 * (factors - 1))
    x, y, z = (int(np.ceil(n / f - 1e-6)) for n, f in zip(data.shape, factors, strict=True))
    target = np.array(affine, dtype=float)
    target[:3, :3] = affine[:3, :3] * factors
    target[:3, 3] = apply_affine(affine, (factors - 1) / 2)
    grid = Grid((x, y, z), target)
    source = Grid((data.shape[0], data.shape[1], data.shape[2]), np.asarray(affine, dtype=float))
    return geometry.resample(smooth, source, grid), target


Image = tuple[np.ndarray, np.ndarray]
"""Array [x, y, z] and its RAS+ mm affine."""


def usable(
    brain: np.ndarray, lesion: np.ndarray | None, affine: np.ndarray, margin_mm: float = MARGIN_MM
) -> np.ndarray:
    """Where a registration may compare: everywhere but in the lesion grown by a margin (mm).

    Cost-function masking: Brett et al. 2001, doi:10.1006/nimg.2001.0845. The background counts,
    because the edge of the brain carries the affine part; an empty lesion leaves all voxels.
    """
    if lesion is None or not np.any(lesion):
        return np.ones(brain.shape, dtype=bool)
    return grown_distance(lesion, affine) > margin_mm


def grown_distance(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Distance in mm of each voxel centre to the nearest one of the mask."""
    return ndimage.distance_transform_edt(mask == 0, sampling=voxel_sizes(affine))


def jacobian_summary(determinant: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    """Range of the Jacobian determinant in the brain, relative to its median, and share of folds.

    The median holds the size of the head; the rest is local stretch.
    """
    values = determinant[brain != 0]
    middle = float(np.median(values))
    low, high = np.percentile(values, (0.1, 99.9)) / middle
    return {
        "median": round(middle, 4),
        "relative_p0.1": round(float(low), 4),
        "relative_p99.9": round(float(high), 4),
        "minimum": round(float(values.min()), 4),
        "maximum": round(float(values.max()), 4),
        "folded_share": float(np.mean(values <= 0)),
    }


def normalization_flags(
    *, before: float, after: float, overlap: float, jacobian: Mapping[str, float]
) -> list[str]:
    """One sentence for each sign that a registration to a template went wrong."""
    low, high = jacobian["relative_p0.1"], jacobian["relative_p99.9"]
    signs = {
        f"Similarity to the template fell from {before:.3f} to {after:.3f}.": after < before,
        f"The similarity to the template is only {after:.3f}.": after < MIN_SIMILARITY,
        f"The brain covers the template's with a Dice of only {overlap:.2f}.": (
            overlap < MIN_OVERLAP_DICE
        ),
        f"The deformation folds in {jacobian['folded_share']:.2%} of the brain.": (
            jacobian["folded_share"] > 1e-3
        ),
        f"The deformation stretches parts of the brain from {low:.2f} to {high:.2f} times.": (
            low < 1 / MAX_STRETCH or high > MAX_STRETCH
        ),
    }
    return [sentence for sentence, wrong in signs.items() if wrong]


def displacement_difference(
    one: np.ndarray, other: np.ndarray, regions: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """How far two displacement fields [x, y, z, 3] differ (mm), in each of some masks."""
    distance = np.linalg.norm(one - other, axis=-1)
    return {name: _spread(distance[mask]) for name, mask in regions.items() if mask.any()}


def _spread(values: np.ndarray, quantiles: Sequence[float] = (50, 95, 100)) -> dict[str, float]:
    median, high, most = np.percentile(values, quantiles)
    return {"mean": float(values.mean()), "median": median, "p95": high, "max": most}
