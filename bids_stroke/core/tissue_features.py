"""LesionGnb's two features: missing and abnormal tissue against a reference (Griffis et al. 2016).

All maps are tissue probabilities in [0, 1] on one symmetric grid [x, y, z], whose first axis runs
from left to right with the midline in its middle, so that reversing it gives the mirror image.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SMOOTHING_MM = 8.0
"""Full width at half maximum of the Gaussian on tissue maps, and on the result."""
DECIMALS = 2
_FWHM_PER_SIGMA = float(np.sqrt(8 * np.log(2)))

Float3D = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Tissues:
    """Probabilities of CSF, grey and white matter."""

    csf: Float3D
    grey: Float3D
    white: Float3D

    def smoothed(self, voxel_mm: float, fwhm_mm: float = SMOOTHING_MM) -> "Tissues":
        """All maps smoothed by a Gaussian."""
        return Tissues(*(smooth(m, voxel_mm, fwhm_mm) for m in (self.csf, self.grey, self.white)))

    def mirrored(self) -> "Tissues":
        """The same brain with left and right exchanged."""
        return Tissues(self.csf[::-1], self.grey[::-1], self.white[::-1])


def smooth(data: NDArray[np.floating], voxel_mm: float, fwhm_mm: float = SMOOTHING_MM) -> Float3D:
    """Gaussian of ``fwhm_mm`` full width at half maximum; what is beyond the grid counts as 0."""
    sigma = fwhm_mm / _FWHM_PER_SIGMA / voxel_mm
    return ndimage.gaussian_filter(np.asarray(data, np.float32), sigma, mode="constant")


def missing_tissue(own: Tissues, reference: Tissues) -> Float3D:
    """(CSF - CSF_ref) x ((GM + WM)_ref - (GM + WM)): fluid where the reference has tissue.

    A negative difference counts as 0 before the product, or else an excess of tissue, negative in
    both factors, would look like a lack.
    """
    fluid = np.maximum(own.csf - reference.csf, 0)
    lack = np.maximum(reference.grey + reference.white - own.grey - own.white, 0)
    return fluid * lack


def abnormal_tissue(own: Tissues, reference: Tissues) -> Float3D:
    """(GM - GM_ref) x (WM_ref - WM): what looks grey where the reference is white."""
    return np.maximum(own.grey - reference.grey, 0) * np.maximum(reference.white - own.white, 0)


def features(own: Tissues, template: Tissues) -> NDArray[np.float32]:
    """Missing and abnormal tissue [2, x, y, z] of smoothed maps, rounded to two decimals.

    Each is the mean of what the template and what the own mirror image say. Source: Griffis,
    Allendorfer and Szaflarski 2016, doi:10.1016/j.jneumeth.2015.09.019.
    """
    references = (template, own.mirrored())
    maps = [
        np.mean([compare(own, reference) for reference in references], axis=0)
        for compare in (missing_tissue, abnormal_tissue)
    ]
    return np.round(np.stack(maps), DECIMALS).astype(np.float32)
