"""Distances in mm between the surfaces of two masks, under each definition in use.

Two surfaces are in use. The *voxel* surface is the set of centres of the mask's voxels that have a
background voxel among their six neighbours (MedPy, MONAI, panoptica). The *surfel* surface lies at
the corners that voxels share, each weighted by the area in mm2 of the patch that marching cubes
puts there (surface-distance: Nikolov et al. 2021, doi:10.2196/26151). A mask ends at the border of
its array. With an empty mask there is no distance: NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes, mesh_surface_area

Array = NDArray[Any]
Floats = NDArray[np.float64]

TOLERANCE_MM = 2.0
"""Tolerance of the normalised surface Dice: about the largest voxel edge of the scans in use."""
_ROUNDING_MM = 1e-6
"""Five voxels of 0.4 mm are 2 mm, whatever floating-point numbers say."""

COLUMNS = {
    "assd_pooled_mm": "Average symmetric surface distance in mm: mean over the surface voxels of "
    "both masks together; n/a where a mask is empty.",
    "assd_meanofmeans_mm": "Average surface distance in mm: mean of the two directed means over "
    "surface voxels; n/a where a mask is empty.",
    "assd_max_mm": "Average surface distance in mm: larger of the two directed means over surface "
    "voxels; n/a where a mask is empty.",
    "assd_surfel_mm": "Average surface distance in mm: mean of the two directed means over surface "
    "elements, weighted by area (surface-distance); n/a where a mask is empty.",
    "hd_mm": "Hausdorff distance in mm between surface voxels; n/a where a mask is empty.",
    "hd95_max_mm": "Larger of the two directed 95th percentiles of the distances between surface "
    "voxels in mm (MONAI); n/a where a mask is empty.",
    "hd95_pooled_mm": "95th percentile of the distances of the surface voxels of both masks "
    "together in mm (MedPy); n/a where a mask is empty.",
    "hd_surfel_mm": "Hausdorff distance in mm between surface elements (surface-distance); n/a "
    "where a mask is empty.",
    "nsd_surfel_2mm": "Normalised surface Dice: share of the area of both surfaces that lies "
    "within 2 mm of the other (surface-distance); 1 where both masks are empty, 0 where one is.",
}


@dataclass(frozen=True)
class Surface:
    """Points of a surface in mm, as n x 3 along the axes of the array, and the weight of each."""

    points: Floats
    weights: Floats


@dataclass(frozen=True)
class Distances:
    """Distance in mm of each point of one surface to the nearest of the other, with its weight."""

    from_reference: Floats
    from_predicted: Floats
    reference_weights: Floats
    predicted_weights: Floats

    @property
    def both(self) -> Floats:
        """Distances of both directions in one array."""
        return np.concatenate([self.from_reference, self.from_predicted])

    @property
    def means(self) -> tuple[float, float]:
        """Weighted mean of each direction: from the reference, from the prediction."""
        return (
            float(np.average(self.from_reference, weights=self.reference_weights)),
            float(np.average(self.from_predicted, weights=self.predicted_weights)),
        )


def voxel_surface(mask: Array, spacing_mm: Sequence[float]) -> Surface:
    """Centres of the voxels of a mask [x, y, z] that touch background by a face; weights are 1."""
    solid = np.pad(mask > 0, 1)
    edge = solid & ~ndimage.binary_erosion(solid)
    points = np.argwhere(edge) * np.asarray(spacing_mm, dtype=float)
    return Surface(points, np.ones(len(points)))


def surfel_surface(mask: Array, spacing_mm: Sequence[float]) -> Surface:
    """Corners between mask and background [x, y, z], each with the area in mm2 of its patch.

    The eight voxels around a corner tell the patch, as in marching cubes with vertices in the
    middle of the edges.
    """
    solid = np.pad(mask > 0, 1).astype(np.uint8)
    code = np.zeros(np.array(solid.shape) - 1, dtype=np.uint8)
    for bit, offset in enumerate(np.ndindex(2, 2, 2)):
        window = tuple(slice(o, o + n) for o, n in zip(offset, code.shape, strict=True))
        code |= solid[window] << bit
    edge = (code != 0) & (code != 255)
    spacing = (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2]))
    return Surface((np.argwhere(edge) + 0.5) * np.array(spacing), _areas(spacing)[code[edge]])


@lru_cache(maxsize=32)
def _areas(spacing_mm: tuple[float, float, float]) -> Floats:
    """Area in mm2 of the surface in each of the 256 cubes of eight voxels.

    A cube and its complement have one surface, so the cubes of at most four voxels give all.
    """
    areas = np.zeros(256)
    for code in range(1, 255):
        if code.bit_count() <= 4:
            cube = np.array([code >> bit & 1 for bit in range(8)], dtype=float).reshape(2, 2, 2)
            vertices, faces, *_ = marching_cubes(cube, 0.5, spacing=spacing_mm, method="lorensen")
            areas[[code, 255 - code]] = mesh_surface_area(vertices, faces)
    return areas


def distances(reference: Surface, predicted: Surface) -> Distances:
    """Nearest distances in both directions between two surfaces that both have points."""
    return Distances(
        cKDTree(predicted.points).query(reference.points)[0],
        cKDTree(reference.points).query(predicted.points)[0],
        reference.weights,
        predicted.weights,
    )


def surface_dice(between: Distances, tolerance_mm: float) -> float:
    """Weighted share of both surfaces that lies within the tolerance of the other, in [0, 1].

    Nikolov et al. 2021, doi:10.2196/26151.
    """
    limit = tolerance_mm + _ROUNDING_MM
    near = (
        between.reference_weights[between.from_reference <= limit].sum()
        + between.predicted_weights[between.from_predicted <= limit].sum()
    )
    return float(near / (between.reference_weights.sum() + between.predicted_weights.sum()))


def surface_metrics(
    reference: Array, predicted: Array, spacing_mm: Sequence[float]
) -> dict[str, float]:
    """All numbers of COLUMNS for two masks [x, y, z] on one grid with voxels of ``spacing_mm``.

    Of two ways to name a mean, ASSD is the pooled one and MASD that of the means (Maier-Hein et
    al. 2024, doi:10.1038/s41592-023-02151-z).
    """
    if not (np.any(reference) and np.any(predicted)):
        alike = float(not (np.any(reference) or np.any(predicted)))
        return {**dict.fromkeys(COLUMNS, float("nan")), "nsd_surfel_2mm": alike}
    voxels = distances(*(voxel_surface(mask, spacing_mm) for mask in (reference, predicted)))
    surfels = distances(*(surfel_surface(mask, spacing_mm) for mask in (reference, predicted)))
    directed95 = (
        np.percentile(voxels.from_reference, 95),
        np.percentile(voxels.from_predicted, 95),
    )
    return {
        "assd_pooled_mm": float(voxels.both.mean()),
        "assd_meanofmeans_mm": sum(voxels.means) / 2,
        "assd_max_mm": max(voxels.means),
        "assd_surfel_mm": sum(surfels.means) / 2,
        "hd_mm": float(voxels.both.max()),
        "hd95_max_mm": float(max(directed95)),
        "hd95_pooled_mm": float(np.percentile(voxels.both, 95)),
        "hd_surfel_mm": float(surfels.both.max()),
        "nsd_surfel_2mm": surface_dice(surfels, TOLERANCE_MM),
    }
