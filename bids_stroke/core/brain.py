"""Brain masks: cleaning, signs that one is wrong, and images that hold nothing but a brain."""

import numpy as np
from scipy import ndimage

from bids_stroke.core.geometry import voxel_volume_mm3

VOLUME_ML = (700.0, 2200.0)
CUT_MM2 = 1000.0
"""Brain on a face of the volume above this area means that the field of view cuts it."""

_STRIPPED_MIN_BACKGROUND = 0.3
_STRIPPED_MAX_ML = 2400.0
_STRIPPED_MAX_ON_FACE = 0.05
_EDGES = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))


def clean_mask(mask: np.ndarray) -> np.ndarray:
    """Largest 6-connected component of a mask with its holes filled, as uint8."""
    labels, count = ndimage.label(mask != 0)
    out = np.zeros(mask.shape, dtype=np.uint8)
    if count:
        largest = np.bincount(labels.ravel())[1:].argmax()
        box = ndimage.find_objects(labels)[largest]
        out[box] = ndimage.binary_fill_holes(labels[box] == largest + 1)
    return out


def nonzero_mask(data: np.ndarray) -> np.ndarray:
    """Mask of a skull-stripped image: what is not exactly 0, cleaned."""
    return clean_mask(data != 0)


def volume_ml(mask: np.ndarray, affine: np.ndarray) -> float:
    """Volume of a mask in mL."""
    return float(np.count_nonzero(mask) * voxel_volume_mm3(affine) / 1000)


def looks_skull_stripped(data: np.ndarray, affine: np.ndarray) -> bool:
    """True when an image holds a brain and exact zeros around it.

    A raw head has noise in the air, or is larger than any brain (2,400 mL) where the air was set to
    0, or its neck leaves the field of view. So: at least 30 % of voxels are exactly 0, what is left
    is of a brain's size with its holes filled, and it covers less than 5 % of every face.
    """
    nonzero = data != 0
    if 1 - nonzero.mean() < _STRIPPED_MIN_BACKGROUND:
        return False
    faces = [np.take(nonzero, end, axis).mean() for axis in range(3) for end in (0, -1)]
    if max(faces) > _STRIPPED_MAX_ON_FACE:
        return False
    return 0 < volume_ml(nonzero_mask(data), affine) < _STRIPPED_MAX_ML


def brain_flags(mask: np.ndarray, affine: np.ndarray) -> list[str]:
    """One sentence for each sign that a brain mask in RAS order is wrong; empty when none."""
    volume, (low, high) = volume_ml(mask, affine), VOLUME_ML
    flags = []
    if not low <= volume <= high:
        flags.append(f"The brain mask has {volume:.0f} mL, outside {low:.0f} to {high:.0f} mL.")
    cut = [edge for edge, area in _face_areas(mask, affine).items() if area > CUT_MM2]
    if cut:
        flags.append(f"The field of view cuts the brain ({', '.join(cut)}).")
    return flags


def _face_areas(mask: np.ndarray, affine: np.ndarray) -> dict[str, float]:
    """Area of the mask in mm2 on each face of a volume in RAS order."""
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    areas = {}
    for axis, names in enumerate(_EDGES):
        pixel = np.prod(np.delete(sides, axis))
        for end, name in zip((0, -1), names, strict=True):
            areas[name] = float(np.count_nonzero(np.take(mask, end, axis)) * pixel)
    return areas
