"""Label images in template space: looking points up, filling gaps, grouping regions.

All coordinates are those of the MNI152 family in RAS+ mm; arrays are [x, y, z].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from bids_stroke.core.geometry import Grid

PROBABILITY = 0.25
"""A voxel belongs to the most probable region where that has at least this probability."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """Numbered regions: 0 is outside of all. ``affine`` leads from voxels to MNI152 mm."""

    name: str
    labels: np.ndarray
    affine: np.ndarray
    names: Mapping[int, str]

    def at(self, points: np.ndarray) -> np.ndarray:
        """Labels of the voxels that points (n x 3, mm) fall in; 0 beyond the image."""
        inside = np.linalg.inv(self.affine)
        index = np.rint(apply_affine(inside, np.asarray(points).reshape(-1, 3))).astype(int)
        known = ((index >= 0) & (index < self.labels.shape)).all(axis=1)
        found = np.zeros(len(index), dtype=np.int32)
        found[known] = self.labels[tuple(index[known].T)]
        return found

    def on_grid(self, grid: Grid) -> np.ndarray:
        """Labels at the voxel centres of another grid, int32."""
        points = apply_affine(grid.affine, np.indices(grid.shape).reshape(3, -1).T)
        return self.at(points).reshape(grid.shape)


def from_probabilities(probabilities: np.ndarray, threshold: float = PROBABILITY) -> np.ndarray:
    """Labels 1..r from maps [x, y, z, r] in [0, 1]: the most probable one, if it is enough.

    Of equally probable regions the first wins.
    """
    best = probabilities.argmax(axis=3) + 1
    enough = probabilities.max(axis=3) >= threshold
    return np.where(enough, best, 0).astype(np.int32)


def filled(atlas: Atlas, reach_mm: float) -> Atlas:
    """The atlas with each unlabelled voxel given its nearest label, up to a distance.

    The image grows by that distance on all sides, so that its box is no border.
    """
    sides = voxel_sizes(atlas.affine)
    width = np.ceil(reach_mm / sides).astype(int)
    labels = np.pad(atlas.labels, [(w, w) for w in width])
    affine = np.array(atlas.affine, dtype=float)
    affine[:3, 3] = apply_affine(affine, -width)
    distance, nearest = ndimage.distance_transform_edt(
        labels == 0, sampling=sides, return_indices=True
    )
    grown = np.where(distance <= reach_mm, labels[tuple(nearest)], 0)
    return replace(atlas, labels=grown, affine=affine)


def grouped(atlas: Atlas, group_of: Callable[[str], str | None], name: str) -> Atlas:
    """Atlas of groups of regions; regions of no group (None) become 0.

    Groups are numbered by their names in alphabetical order.
    """
    groups = {index: group_of(region) for index, region in atlas.names.items()}
    ordered = sorted({group for group in groups.values() if group})
    number = {group: i for i, group in enumerate(ordered, 1)}
    lookup = np.zeros(max(int(atlas.labels.max(initial=0)), *atlas.names) + 1, dtype=np.int32)
    for index, group in groups.items():
        lookup[index] = number.get(group or "", 0)
    names = {i: group for group, i in number.items()}
    return Atlas(name, lookup[atlas.labels], atlas.affine, names)


TALAIRACH_FROM_MNI = np.array(
    [
        [0.9357, 0.0029, -0.0072, -1.0423],
        [-0.0065, 0.9396, -0.0726, -1.3940],
        [0.0103, 0.0752, 0.8967, 3.6475],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""icbm2tal for templates of neither SPM nor FSL: Lancaster et al. 2007, doi:10.1002/hbm.20345."""


def from_talairach(affine: np.ndarray) -> np.ndarray:
    """Affine to MNI152 mm of an image whose own affine leads to Talairach mm."""
    return np.linalg.inv(TALAIRACH_FROM_MNI) @ affine


SUPER_REGIONS = {
    "R1": (
        "inferior frontal", "inf frontal", "lentiform", "putamen", "pallid", "caudate",
        "thalam", "insula", "claustrum", "extra-nuclear", "sub-lobar", "hypothalam",
        "red nucleus", "substania",
    ),
    "R2": (
        "cerebell", "semi-lunar", "inf semi", "tonsil", "pyramis", "uvula", "tuber", "nodule",
        "culmen", "declive", "fastigium", "dentate", "brainstem", "midbrain", "pons", "medulla",
    ),
    "R4": (
        "temporal", "fusiform", "cingulate", "uncus", "parahippocampal", "hippocampus",
        "amygdala", "medial frontal", "med frontal", "rectal", "subcallosal", "orbital", "limbic",
    ),
    "R3": (
        "superior frontal", "sup frontal", "middle frontal", "mid frontal", "precentral",
        "paracentral", "postcentral", "cuneus", "lingual", "occipital", "parietal",
        "supramarginal", "angular", "frontal lobe",
    ),
}  # fmt: skip
"""Parts of Talairach names by super-region of Mohapatra et al. (S3), in the order of the search.

R1 inferior frontal and deep grey matter, R2 cerebellum and brainstem, R3 superior frontal,
occipital and parietal, R4 temporal, cingulate and limbic, fronto-mesial. The paper does not place
the middle frontal, precentral and orbital gyri: the first two go with R3, the last with R4.
"""


SUPER_REGION_NAMES = dict(enumerate(sorted(SUPER_REGIONS), start=1))
"""Their numbers in an atlas."""


def super_region(talairach_name: str) -> str | None:
    """Super-region of a Talairach region, or None where its name says nothing (sub-gyral)."""
    plain = talairach_name.lower().replace("_", " ")
    for region, parts in SUPER_REGIONS.items():
        if any(part in plain for part in parts):
            return region
    return None


_DESIKAN_LOBES = {
    "frontal": (
        "superiorfrontal", "middlefrontal", "parsopercularis", "parstriangularis", "parsorbitalis",
        "orbitofrontal", "precentral", "paracentral", "frontalpole",
    ),
    "parietal": (
        "superiorparietal", "inferiorparietal", "supramarginal", "postcentral", "precuneus",
    ),
    "temporal": (
        "temporal", "bankssts", "fusiform", "entorhinal", "parahippocampal", "hippocampus",
        "amygdala",
    ),
    "occipital": ("lateraloccipital", "lingual", "pericalcarine", "cuneus"),
    "cingulate": ("cingulate",),
    "insula": ("insula",),
    "deep grey matter": ("thalamus", "caudate", "putamen", "pallidum", "accumbens", "ventraldc"),
    "cerebellum": ("cerebellum",),
    "brainstem": ("brain-stem",),
}  # fmt: skip


def desikan_lobe(name: str) -> str | None:
    """Lobe of a region of FreeSurfer's ``aparc+aseg``, or None (white matter, ventricles).

    Source: the lobes of FreeSurfer's wiki for the atlas of Desikan et al. 2006, with insula and
    cingulate on their own, hippocampus and amygdala with the temporal lobe.
    """
    plain = name.lower()
    for lobe, parts in _DESIKAN_LOBES.items():
        if any(part in plain for part in parts):
            return lobe
    return None
