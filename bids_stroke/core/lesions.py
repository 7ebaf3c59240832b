"""From a probability map to lesions: mask, labels and the table of lesions."""

from functools import partial

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_stroke.core.geometry import voxel_volume_mm3

_RANK = {6: 1, 18: 2, 26: 3}
LESION_MAPPING = 7  # BIDS: index of a lesion in the standard image-derived labels
MIDLINE_MM = 3.0


def structure(connectivity: int) -> np.ndarray:
    """3 x 3 x 3 neighbourhood of a connectivity of 6, 18 or 26."""
    return ndimage.generate_binary_structure(3, _RANK[connectivity])


def components(mask: np.ndarray, connectivity: int = 26) -> tuple[np.ndarray, np.ndarray]:
    """Connected components of a mask [x, y, z], the largest first.

    Returns int32 labels (0 is background, 1 the largest component; of equal ones the first in
    array order) and their numbers of voxels.
    """
    raw, count = ndimage.label(mask, structure(connectivity))
    sizes = np.bincount(raw.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    rename = np.zeros(count + 1, dtype=np.int32)
    rename[order + 1] = np.arange(1, count + 1)
    return rename[raw], sizes[order]


def segment(
    probability: np.ndarray,
    affine: np.ndarray,
    *,
    threshold: float,
    min_volume_mm3: float,
    connectivity: int = 26,
    inclusive: bool = True,
) -> np.ndarray:
    """Lesion labels [x, y, z] as int16 from a probability map in [0, 1] on its native grid.

    Threshold first, then drop components under ``min_volume_mm3`` of the grid's own voxels, then
    number the rest by decreasing volume (Meddahi et al. 2024: probability >= .2, 26-connectivity,
    >= 10 mm3). ``inclusive=False`` makes both limits strict, as Meddahi et al. 2023 has them.
    """
    voxel = voxel_volume_mm3(affine)
    mask = probability >= threshold if inclusive else probability > threshold
    labels, sizes = components(mask, connectivity)
    volumes = sizes * voxel
    kept = volumes >= min_volume_mm3 if inclusive else volumes > min_volume_mm3
    labels[labels > np.count_nonzero(kept)] = 0
    return labels.astype(np.int16)


def side(centroid_x_mm: float) -> str:
    """Side of the patient by the x of RAS+ space; within 3 mm of the origin it is ``midline``.

    The scanner's origin need not lie in the plane of symmetry: a hint, no anatomical finding.
    """
    if abs(centroid_x_mm) <= MIDLINE_MM:
        return "midline"
    return "right" if centroid_x_mm > 0 else "left"


def table(
    labels: np.ndarray, probability: np.ndarray, affine: np.ndarray, *, midline_x_mm: float = 0.0
) -> pd.DataFrame:
    """One row a lesion: volume (mm3), centroid (RAS+ mm), side, extent and probabilities.

    ``labels`` are 1..n on [x, y, z]; ``probability`` lies on the same grid. ``midline_x_mm`` is the
    x of the brain's plane of symmetry, from which ``side`` is told. What only several members of a
    prediction can tell (``members_share``, ``disagreement``) is left open.
    """
    index = np.arange(1, int(labels.max(initial=0)) + 1)
    inside = np.nonzero(labels)
    lesion, values = labels[inside], probability[inside]
    count = partial(np.bincount, lesion, minlength=len(index) + 1)
    sizes = count()[1:]
    voxels = np.stack([count(axis)[1:] / sizes for axis in inside], axis=1)
    centroids = voxels @ affine[:3, :3].T + affine[:3, 3]
    mean, peak = count(values)[1:] / sizes, np.zeros(len(index))
    np.maximum.at(peak, lesion - 1, values)
    return pd.DataFrame(
        {
            "index": index,
            "name": [f"lesion-{i}" for i in index],
            "mapping": LESION_MAPPING,
            "volume_mm3": np.round(sizes * voxel_volume_mm3(affine), 3),
            "n_voxels": sizes,
            "side": [side(x - midline_x_mm) for x in centroids[:, 0]],
            "centroid_x": np.round(centroids[:, 0], 2),
            "centroid_y": np.round(centroids[:, 1], 2),
            "centroid_z": np.round(centroids[:, 2], 2),
            "mean_probability": np.round(mean, 4),
            "max_probability": np.round(peak, 4),
            "members_share": np.nan,
            "disagreement": np.nan,
        }
    )


_INTEGERS = ("index", "mapping")  # the types that BIDS has for these columns
COLUMNS = {
    "index": "Number of the lesion in the label image, 1 the largest.",
    "name": "Name of the lesion.",
    "mapping": "Index in the standard set of labels of BIDS: 7 is a lesion.",
    "volume_mm3": "Volume: voxels times the volume of a voxel of this grid, in cubic millimetres.",
    "n_voxels": "Number of voxels.",
    "side": "Side of the patient by the centroid, relative to the middle of the brain mask.",
    "centroid_x": "x of the centroid in mm, RAS+ scanner space of this image.",
    "centroid_y": "y of the centroid in mm, RAS+ scanner space of this image.",
    "centroid_z": "z of the centroid in mm, RAS+ scanner space of this image.",
    "mean_probability": "Mean probability of the model over the lesion's voxels.",
    "max_probability": "Largest probability of the model in the lesion.",
    "members_share": "Share of the members of the prediction that see the lesion: that mark at "
    "least a tenth of its voxels at their own threshold. A member is what the sidecar of the "
    "uncertainty map says; n/a with one member.",
    "disagreement": "Mean over the lesion of the standard deviation of the probability over the "
    "members; n/a with one member.",
}


def column_dictionary() -> dict[str, dict[str, str]]:
    """Data dictionary of ``table`` as a BIDS sidecar holds it."""
    formats = {name: {"Format": "integer"} for name in _INTEGERS}
    return {name: {"Description": text, **formats.get(name, {})} for name, text in COLUMNS.items()}
