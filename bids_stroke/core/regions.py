"""Where lesions are: hemisphere, depth, lobe, region, ventricles, and what share they touch.

Points and atlases are in MNI152 RAS+ mm. A lesion's voxels are looked up from its native grid, so
that volumes are those of the lesion table and no small lesion is lost to resampling.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.segmentation import watershed

from bids_stroke.core.atlases import Atlas, filled
from bids_stroke.core.geometry import Grid, voxel_volume_mm3

ONE_SIDED = 0.9
"""Share of a lesion's voxels on one side from which on it belongs to that hemisphere."""
CORTICAL_SHARE = 0.05
"""Share of a lesion's voxels in cortex from which on it is cortical."""
INSIDE_SHARE = 0.1
"""Share of a lesion's voxels that an atlas must know, or else it has no name for the lesion."""
VENTRICLE_DEPTH_MM = 12.0
NA = "n/a"

TISSUE = {
    1: "left cerebral cortex", 2: "right cerebral cortex",
    3: "left deep grey matter", 4: "right deep grey matter",
    5: "left cerebral white matter", 6: "right cerebral white matter",
    7: "left cerebellum", 8: "right cerebellum",
    9: "brainstem", 10: "ventricles",
}  # fmt: skip
_CORTEX, _DEEP, _WHITE, _CEREBELLUM, _BRAINSTEM, _VENTRICLES = 1, 3, 5, 7, 9, 10
_DEEP_BOX_MM = ((0, 34), (-34, 22), (-10, 22))  # |x|, y, z of basal ganglia and thalamus

_SEEDS: Mapping[int, list[tuple[int, int, int]]] = {
    _CORTEX: [
        (25, 0, 45), (25, -60, 40), (30, -80, 5), (50, -20, -15), (35, -45, -12), (30, 40, 15),
        (15, -90, 0), (12, -18, 8), (10, -70, 0), (22, -35, -4), (40, 0, -35), (55, -50, -8),
        (35, -70, -12),
    ],
    _CEREBELLUM: [
        (25, -60, -40), (10, -55, -20), (30, -65, -30), (5, -70, -30), (40, -55, -40),
        (10, -65, -15), (3, -52, -5),
    ],
    _BRAINSTEM: [(3, -28, -35), (3, -36, -50), (4, -24, -20), (5, -22, -12)],
}  # fmt: skip
"""Points (mm, right side, mirrored) well inside cerebrum, cerebellum and brainstem."""
SEED_MM = 2.5
BEYOND_MM = 3.0
"""How far regions go on outside the brain mask of the template, for masks cut otherwise."""


def tissue_atlas(
    grey: np.ndarray, white: np.ndarray, brain: np.ndarray, affine: np.ndarray
) -> Atlas:
    """Regions that follow from tissue probabilities in [0, 1] of a template in RAS.

    Cerebellum and brainstem are parted from the cerebrum by a watershed from fixed seeds: the CSF
    of the tentorium is the ridge. The ventricles are the CSF around the lateral ventricles deeper
    than 12 mm. Deep grey matter is the grey matter within a box around basal ganglia and thalamus.
    Every other voxel of the brain belongs to the nearest of these, if that is within 3 mm.
    """
    solid = (grey + white >= 0.5) & brain
    part = _parts(solid, affine)
    x, y, z = (apply_affine(affine, np.indices(brain.shape).reshape(3, -1).T).T).reshape(
        3, *brain.shape
    )
    cerebrum = part == _CORTEX
    cortex = cerebrum & (grey >= white)
    deep = cortex & _within(np.abs(x), y, z)
    labels = np.select(
        [deep, cortex, cerebrum, part == _CEREBELLUM, part == _BRAINSTEM],
        [_DEEP, _CORTEX, _WHITE, _CEREBELLUM, _BRAINSTEM],
        0,
    )
    labels[ventricles(grey, white, brain, affine)] = _VENTRICLES
    labels *= brain
    labels += (labels > 0) & (labels < _BRAINSTEM) & (x > 0)
    return filled(Atlas("tissue", labels.astype(np.int32), affine, TISSUE), BEYOND_MM)


def _within(*coordinates: np.ndarray) -> np.ndarray:
    inside = [
        (low <= c) & (c <= high) for c, (low, high) in zip(coordinates, _DEEP_BOX_MM, strict=True)
    ]
    return np.logical_and.reduce(inside)


def _parts(solid: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Cerebrum, cerebellum and brainstem of brain tissue, by their labels."""
    centres = apply_affine(affine, np.argwhere(solid))
    tree = cKDTree(centres)
    markers = np.zeros(len(centres), dtype=np.int32)
    for label, points in _SEEDS.items():
        both = [(side * x, y, z) for x, y, z in points for side in (1, -1)]
        for near in tree.query_ball_point(both, SEED_MM):
            markers[near] = label
    seeds = np.zeros(solid.shape, dtype=np.int32)
    seeds[solid] = markers
    depth = ndimage.distance_transform_edt(solid, sampling=voxel_sizes(affine))
    return watershed(-depth, seeds, mask=solid)


def _voxels(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return np.rint(apply_affine(np.linalg.inv(affine), points)).astype(int)


def ventricles(
    grey: np.ndarray, white: np.ndarray, brain: np.ndarray, affine: np.ndarray
) -> np.ndarray:
    """Mask of the lateral (and third) ventricles of a template: deep CSF at (+-8, -8, 20) mm."""
    depth = ndimage.distance_transform_edt(brain, sampling=voxel_sizes(affine))
    fluid = (grey + white <= 0.5) & (depth > VENTRICLE_DEPTH_MM)
    labels, _ = ndimage.label(fluid)
    seeds = _voxels(np.array([(8, -8, 20), (-8, -8, 20)]), affine)
    wanted = labels[tuple(seeds.T)]
    return np.isin(labels, wanted[wanted > 0])


def distance_at(points: np.ndarray, mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Distance (mm) of points to the nearest voxel centre of a mask; NaN for an empty mask."""
    points = np.asarray(points, dtype=float).reshape(-1, 3)
    if not mask.any():
        return np.full(len(points), np.nan)
    centres = apply_affine(affine, np.argwhere(mask))
    return cKDTree(centres).query(points)[0]


@dataclass(frozen=True, eq=False)
class Voxels:
    """Lesion voxels: number of their lesion (n), and where they are in MNI mm (n x 3)."""

    lesion: np.ndarray
    points: np.ndarray


def hemispheres(voxels: Voxels, count: int) -> list[str]:
    """``left``, ``right`` or ``both`` for lesions 1..count, by the share of voxels on each side.

    Voxels on x = 0 count for neither side.
    """
    x = voxels.points[:, 0]
    left, right = (
        np.bincount(voxels.lesion[side], minlength=count + 1)[1:] for side in (x < 0, x > 0)
    )
    share = np.divide(left, left + right, out=np.full(count, 0.5), where=left + right > 0)
    return ["left" if s >= ONE_SIDED else "right" if s <= 1 - ONE_SIDED else "both" for s in share]


def hemisphere(voxels: Voxels) -> str:
    """Hemisphere of all lesions as one; ``n/a`` without any."""
    if not len(voxels.lesion):
        return NA
    return hemispheres(Voxels(np.ones_like(voxels.lesion), voxels.points), 1)[0]


def counts(voxels: Voxels, labels: np.ndarray, count: int, regions: int) -> np.ndarray:
    """Voxels of each lesion in each region, as an array [count, regions + 1]; column 0 is none."""
    flat = (voxels.lesion - 1) * (regions + 1) + labels
    return np.bincount(flat, minlength=count * (regions + 1)).reshape(count, regions + 1)


def main_region(voxels: Voxels, atlas: Atlas, count: int) -> list[str]:
    """Name of the region that holds most voxels of each lesion.

    Of equally large shares the region with the lower number wins. A lesion of which less than a
    tenth lies in the atlas has none (``n/a``): a fringe does not tell where the rest is.
    """
    table = counts(voxels, atlas.at(voxels.points), count, max(atlas.names, default=0))
    inside = _inside(table)
    best = table[:, 1:].argmax(axis=1) + 1 if table.shape[1] > 1 else np.zeros(count, int)
    return [
        atlas.names.get(int(b), NA) if known else NA for b, known in zip(best, inside, strict=True)
    ]


def _inside(table: np.ndarray) -> np.ndarray:
    """Which lesions lie in an atlas by at least ``INSIDE_SHARE`` of their voxels (``counts``)."""
    known = table[:, 1:].sum(axis=1)
    return (known > 0) & (known >= INSIDE_SHARE * table.sum(axis=1))


def depths(voxels: Voxels, tissue: Atlas, count: int) -> list[str]:
    """``cortical``, ``deep`` or ``infratentorial`` for each lesion, by ``tissue_atlas``.

    Infratentorial where most of it lies in cerebellum or brainstem; cortical where at least 5 % of
    it is cortex; else deep; ``n/a`` where less than a tenth of it lies in the template's brain.
    """
    table = counts(voxels, tissue.at(voxels.points), count, max(TISSUE))
    total = np.maximum(table.sum(axis=1), 1)
    below = table[:, _CEREBELLUM : _BRAINSTEM + 1].sum(axis=1) / total
    cortex = table[:, _CORTEX : _CORTEX + 2].sum(axis=1) / total
    found = np.select(
        [below > 0.5, cortex >= CORTICAL_SHARE], ["infratentorial", "cortical"], "deep"
    )
    return [str(name) for name in np.where(_inside(table), found, NA)]


def ventricle_distances(voxels: Voxels, tissue: Atlas, count: int) -> list[float]:
    """Smallest distance (mm) of each lesion's voxel centres to the ventricles of the template."""
    far = distance_at(voxels.points, tissue.labels == _VENTRICLES, tissue.affine)
    order = np.argsort(voxels.lesion, kind="stable")
    starts = np.searchsorted(voxels.lesion[order], np.arange(1, count + 1))
    nearest = np.minimum.reduceat(far[order], starts) if count else np.zeros(0)
    return [round(float(d), 1) for d in nearest]


COLUMNS = {
    "hemisphere": "Hemisphere that holds at least 90 % of the lesion, else both; by x = 0 of the "
    "template.",
    "lobe": "Lobe, or insula, cingulate, deep grey matter, cerebellum, brainstem, that holds most "
    "of the lesion; without an atlas of lobes only cerebellum and brainstem are told; n/a where "
    "less than a tenth of the lesion lies in the atlas (so in all columns of regions).",
    "region": "Region of the anatomical atlas that holds most of the lesion.",
    "depth": "infratentorial: mostly in cerebellum or brainstem; cortical: at least 5 % in "
    "cerebral cortex; else deep; n/a where less than a tenth lies in the template's brain.",
    "super_region": "Super-region R1 to R4 of Mohapatra et al. that holds most of the lesion: R1 "
    "inferior frontal and deep grey matter, R2 cerebellum and brainstem, R3 superior frontal, "
    "occipital and parietal, R4 temporal, limbic and fronto-mesial.",
    "territory": "Arterial territory that holds most of the lesion, by the atlas given as "
    "territory.",
    "ventricle_distance_mm": "Smallest distance of the lesion to the lateral or third ventricle of "
    "the template, in template millimetres.",
}


def infratentorial_names(atlas: Atlas) -> Atlas:
    """Cerebellum and brainstem of ``tissue_atlas``, sides joined: all that it knows of lobes."""
    lookup = np.zeros(max(TISSUE) + 1, dtype=np.int32)
    lookup[_CEREBELLUM : _CEREBELLUM + 2], lookup[_BRAINSTEM] = 1, 2
    names = {1: "cerebellum", 2: "brainstem"}
    return Atlas("lobe", lookup[atlas.labels], atlas.affine, names)


def with_cerebellum(super_regions: Atlas, tissue: Atlas) -> Atlas:
    """Super-regions with R2 wherever ``tissue_atlas`` has cerebellum or brainstem, on its grid.

    The atlas of Talairach gyri leaves most of the brainstem without a name.
    """
    shape = tissue.labels.shape
    labels = super_regions.on_grid(Grid((shape[0], shape[1], shape[2]), tissue.affine))
    below = np.isin(tissue.labels, (_CEREBELLUM, _CEREBELLUM + 1, _BRAINSTEM))
    second = next(i for i, name in super_regions.names.items() if name == "R2")
    labels[below] = second
    labels[~below & (labels == second) & (tissue.labels > 0)] = 0
    return Atlas(super_regions.name, labels, tissue.affine, super_regions.names)


def locate(voxels: Voxels, count: int, tissue: Atlas, columns: Mapping[str, Atlas]) -> pd.DataFrame:
    """One row for each lesion 1..count with the columns of ``COLUMNS``.

    ``columns`` gives the atlas of ``lobe``, ``region``, ``super_region`` and ``territory``; without
    one the column is ``n/a``.
    """
    named = {
        name: main_region(voxels, columns[name], count) if name in columns else [NA] * count
        for name in ("lobe", "region", "super_region", "territory")
    }
    found = {
        "hemisphere": hemispheres(voxels, count),
        "depth": depths(voxels, tissue, count),
        "ventricle_distance_mm": ventricle_distances(voxels, tissue, count),
        **named,
    }
    return pd.DataFrame({name: found[name] for name in COLUMNS})


SHARE_COLUMNS = {
    "atlas": "Atlas of the region.",
    "region": "Name of the region.",
    "region_volume_mm3": "Volume of the region on the template's grid in cubic millimetres.",
    "lesion_volume_mm3": "Volume of the lesions in it, in template space.",
    "lesioned_share": "Share of the region that is lesioned, from 0 to 1.",
    "lesion_share": "Share of all lesioned volume that lies in the region, from 0 to 1.",
}


def region_shares(
    lesion: np.ndarray, labels: np.ndarray, atlas: Atlas, affine: np.ndarray
) -> pd.DataFrame:
    """How much of each region of an atlas is lesioned, with the columns of ``SHARE_COLUMNS``.

    ``lesion`` (0 or more) and ``labels`` (of the atlas) lie on one grid [x, y, z].
    """
    voxel = voxel_volume_mm3(affine)
    index = np.array(sorted(atlas.names))
    size = int(max(labels.max(initial=0), index.max(initial=0))) + 1
    region = np.bincount(labels.ravel(), minlength=size)[index] * voxel
    touched = np.bincount(labels[lesion != 0], minlength=size)[index] * voxel
    total = np.count_nonzero(lesion) * voxel
    return pd.DataFrame(
        {
            "atlas": atlas.name,
            "region": [atlas.names[i] for i in index],
            "region_volume_mm3": region,
            "lesion_volume_mm3": touched,
            "lesioned_share": _ratio(touched, region),
            "lesion_share": _ratio(touched, np.full(len(index), total)),
        }
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
