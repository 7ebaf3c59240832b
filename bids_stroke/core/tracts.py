"""Lesion load of a tract, raw and weighted, and what it means by cut-offs that are parameters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_stroke.core.geometry import voxel_volume_mm3

CUTOFFS_ML = (2.0, 7.0)
"""Weighted load (mL) from which on severity is medium, and large.

7.0 mL marks a poor motor outcome in the literature (Feng et al. 2015, doi:10.1002/ana.24510);
Mohapatra et al. give no numbers, and the lower one is ours.
"""
SEVERITIES = ("small", "medium", "large")


@dataclass(frozen=True)
class TractLoad:
    """Volumes in mm3 of a tract and of the lesion in it; ``share`` is raw over tract."""

    tract_mm3: float
    raw_mm3: float
    weighted_mm3: float

    @property
    def share(self) -> float:
        """Share of the tract that is lesioned; NaN for an empty tract."""
        return self.raw_mm3 / self.tract_mm3 if self.tract_mm3 else float("nan")


def tract_load(lesion: np.ndarray, tract: np.ndarray, affine: np.ndarray) -> TractLoad:
    """Lesion load of a tract: masks [x, y, z] on one grid whose third axis runs along the tract.

    Raw is the overlap. For the weighted load the overlap in each slice is multiplied by the largest
    cross-section of the tract over that of the slice, so that damage counts more where the fibres
    lie close together. Source: Zhu et al. 2010, doi:10.1161/STROKEAHA.109.577023.
    """
    voxel = voxel_volume_mm3(affine)
    inside = tract != 0
    area = inside.sum(axis=(0, 1))
    overlap = (inside & (lesion != 0)).sum(axis=(0, 1))
    weight = np.divide(area.max(initial=0), area, out=np.zeros(len(area)), where=area > 0)
    return TractLoad(
        tract_mm3=float(area.sum() * voxel),
        raw_mm3=float(overlap.sum() * voxel),
        weighted_mm3=float((overlap * weight).sum() * voxel),
    )


def severity(weighted_mm3: float, cutoffs_ml: Sequence[float] = CUTOFFS_ML) -> str:
    """``none``, ``small``, ``medium`` or ``large`` by the weighted load; a cut-off is inclusive."""
    if weighted_mm3 <= 0:
        return "none"
    return SEVERITIES[sum(weighted_mm3 / 1000 >= cutoff for cutoff in cutoffs_ml)]
