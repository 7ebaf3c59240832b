"""How well two images of one brain lie on each other, and how far a rigid transform moves it."""

import math

import numpy as np
from nibabel.affines import apply_affine

MIN_OVERLAP_DICE = 0.85
MAX_ROTATION_DEG = 30.0
MAX_TRANSLATION_MM = 50.0


def normalised_mutual_information(
    a: np.ndarray, b: np.ndarray, mask: np.ndarray, bins: int = 32
) -> float:
    """(H(a) + H(b)) / H(a, b) of the voxels where the mask is not 0, from 1 to 2.

    Source: Studholme, Hill and Hawkes 1999. Intensities are cut at their 1st and 99th percentile.
    An empty mask or two constant images give 1: nothing is shared.
    """
    inside = mask != 0
    if not inside.any():
        return 1.0
    joint, _, _ = np.histogram2d(_clipped(a[inside]), _clipped(b[inside]), bins=bins)
    both = _entropy(joint)
    return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / both if both > 0 else 1.0


def _clipped(values: np.ndarray) -> np.ndarray:
    return np.clip(values, *np.percentile(values, (1, 99)))


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Twice the common voxels over the sum of both masks; 1 when both are empty."""
    a, b = a != 0, b != 0
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def centroid_mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Mean position of the mask's voxels in RAS+ mm, as an array of three."""
    return apply_affine(affine, np.argwhere(mask != 0).mean(axis=0))


def rotation_deg(matrix: np.ndarray) -> float:
    """Angle of the rotation in a rigid 4 x 4 matrix, from 0 to 180 degrees."""
    skew = matrix[:3, :3] - matrix[:3, :3].T
    sine = math.hypot(skew[2, 1], skew[0, 2], skew[1, 0])
    return math.degrees(math.atan2(sine, float(np.trace(matrix[:3, :3])) - 1))


def displacement_mm(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How far a 4 x 4 matrix in RAS+ mm moves each of the n x 3 points."""
    return np.linalg.norm(apply_affine(matrix, points) - points, axis=-1)


def registration_flags(
    *, before: float, after: float, rotation: float, translation: float, overlap: float
) -> list[str]:
    """One sentence for each sign that a rigid registration went wrong; empty when none."""
    signs = {
        f"Similarity fell from {before:.3f} to {after:.3f} by the registration.": after < before,
        f"The registration turns the head by {rotation:.0f} degrees.": rotation > MAX_ROTATION_DEG,
        f"The registration moves the head by {translation:.0f} mm.": (
            translation > MAX_TRANSLATION_MM
        ),
        f"The brain masks overlap with a Dice of only {overlap:.2f} after the registration.": (
            overlap < MIN_OVERLAP_DICE
        ),
    }
    return [sentence for sentence, wrong in signs.items() if wrong]
