"""The average head: the brain of the MNI152 2009a template in a skull, a face and a neck.

The template in nilearn's wheel (Fonov et al., 2011) is skull-stripped, so everything around the
brain is grown here: shells at a distance from the brain, and simple solids in MNI millimetres.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_stroke.core.fields import smooth_field
from bids_stroke.errors import InputMissing

Point = tuple[float, float, float]
Float3D = NDArray[np.float32]
Real3D = NDArray[np.floating]

# What the head fills, in MNI mm; the cut at the bottom goes through the neck and the lower jaw.
_LOW, _HIGH = np.array([-97.0, -134.0, -146.0]), np.array([97.0, 124.0, 104.0])
_SHELL_MM = 2.0  # the shells are smooth, so their distances are computed on a coarser grid


class Tissue(IntEnum):
    """What a voxel of the head is made of; in BRAIN the fractions of the maps tell."""

    AIR = 0
    BRAIN = 1
    CSF = 2
    BONE = 3
    MARROW = 4
    FAT = 5
    MUSCLE = 6
    SKIN = 7
    VITREOUS = 8
    MUCOSA = 9
    CORD = 10
    BLOOD = 11
    DURA = 12


@dataclass(frozen=True)
class Head:
    """A head on a grid: one tissue a voxel, and grey and white matter fractions in the brain.

    ``labels`` uint8, ``grey`` and ``white`` float32 in [0, 1], all [x, y, z]; the rest of a BRAIN
    voxel is CSF. ``affine`` is RAS+ in mm (MNI space for the average head).
    """

    labels: NDArray[np.uint8]
    grey: Float3D
    white: Float3D
    affine: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y and z."""
        x, y, z = self.labels.shape
        return x, y, z

    @property
    def brain(self) -> NDArray[np.bool_]:
        """The brain with its ventricles and sulci, as extraction tools define it."""
        return self.labels == Tissue.BRAIN

    @property
    def voxel_mm(self) -> float:
        """Edge of the isotropic voxels."""
        return float(self.affine[0, 0])


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid along the axes of the head."""

    centre: Point
    radii: Point

    def bounds(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Corners of the bounding box in mm."""
        return np.subtract(self.centre, self.radii), np.add(self.centre, self.radii)

    def distance(self, axes: list[Float3D]) -> Real3D:
        """Signed distance in mm, negative inside (first order; exact on a sphere)."""
        steps = [axis - c for axis, c in zip(axes, self.centre, strict=True)]
        scaled = sum((s / r) ** 2 for s, r in zip(steps, self.radii, strict=True))
        slope = sum((s / r**2) ** 2 for s, r in zip(steps, self.radii, strict=True))
        k = np.sqrt(scaled)
        return k * (k - 1.0) / np.maximum(np.sqrt(slope), 1e-6)

    def mirrored(self) -> Ellipsoid:
        """The same on the other side of the midline."""
        return Ellipsoid((-self.centre[0], *self.centre[1:]), self.radii)


@dataclass(frozen=True)
class Capsule:
    """A tube with round ends between two points."""

    start: Point
    end: Point
    radius: float

    def bounds(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Corners of the bounding box in mm."""
        ends = np.array([self.start, self.end])
        return ends.min(axis=0) - self.radius, ends.max(axis=0) + self.radius

    def distance(self, axes: list[Float3D]) -> Real3D:
        """Signed distance in mm, negative inside."""
        steps = [axis - s for axis, s in zip(axes, self.start, strict=True)]
        way = np.subtract(self.end, self.start)
        along = sum(s * w for s, w in zip(steps, way, strict=True)) / (way @ way)
        along = np.clip(along, 0.0, 1.0)
        rest = [s - along * w for s, w in zip(steps, way, strict=True)]
        return np.sqrt(sum(r**2 for r in rest)) - self.radius

    def mirrored(self) -> Capsule:
        """The same on the other side of the midline."""
        return Capsule(
            (-self.start[0], *self.start[1:]), (-self.end[0], *self.end[1:]), self.radius
        )


Solid = Ellipsoid | Capsule


@dataclass(frozen=True)
class Part:
    """A solid of one tissue; ``paired`` parts exist on both sides."""

    tissue: Tissue
    solid: Solid
    paired: bool = False

    def solids(self) -> Iterator[Solid]:
        """The solid, and its mirror image where it is paired."""
        yield self.solid
        if self.paired:
            yield self.solid.mirrored()


def _e(tissue: Tissue, centre: Point, radii: Point, paired: bool = False) -> Part:
    return Part(tissue, Ellipsoid(centre, radii), paired)


def _c(tissue: Tissue, start: Point, end: Point, radius: float, paired: bool = False) -> Part:
    return Part(tissue, Capsule(start, end, radius), paired)


# Joined with the cranium by a smooth union, these make the surface of the head.
_SURFACE: tuple[tuple[Solid, bool], ...] = (
    (Ellipsoid((0, 40, -62), (62, 54, 62)), False),  # face
    (Ellipsoid((0, 62, -112), (44, 36, 34)), False),  # jaw
    (Ellipsoid((0, 86, -124), (18, 12, 14)), False),  # chin
    (Ellipsoid((0, 92, -92), (22, 10, 10)), False),  # lips
    (Capsule((0, 90, -44), (0, 104, -70), 6.0), False),  # bridge of the nose
    (Ellipsoid((0, 106, -74), (13, 11, 8)), False),  # tip of the nose
    (Ellipsoid((58, 20, -14), (18, 44, 36)), True),  # temple
    (Capsule((0, -34, -70), (0, -44, -180), 57.0), False),  # neck
    (Ellipsoid((24, -60, -120), (34, 32, 70)), True),  # nape
    (Ellipsoid((82, -30, -42), (7, 15, 29)), True),  # ear
)

# Later parts overwrite earlier ones; the cranial cavity overwrites all but the eyes' nerves.
_T = Tissue
_DEEP: tuple[Part, ...] = (
    _e(_T.MUSCLE, (0, 50, -104), (21, 32, 14)),  # tongue
    _e(_T.FAT, (40, 46, -78), (9, 16, 16), True),  # fat of the cheek
    # lower jaw
    _c(_T.BONE, (48, 2, -62), (47, 18, -112), 6.0, True),
    _c(_T.BONE, (47, 18, -112), (26, 66, -124), 6.5, True),
    _c(_T.BONE, (26, 66, -124), (0, 80, -124), 6.5, True),
    _c(_T.MARROW, (48, 6, -70), (47, 18, -110), 3.2, True),
    _c(_T.MARROW, (47, 20, -113), (26, 65, -125), 3.8, True),
    _c(_T.MARROW, (26, 65, -125), (0, 79, -125), 3.8, True),
    # upper jaw, palate, teeth, cheek bone
    _e(_T.BONE, (0, 66, -82), (30, 22, 9)),
    _e(_T.MARROW, (0, 68, -82), (26, 18, 5)),
    _c(_T.BONE, (24, 60, -92), (12, 80, -92), 4.0, True),
    _c(_T.BONE, (12, 80, -92), (0, 84, -92), 4.0, True),
    _c(_T.BONE, (24, 58, -109), (12, 77, -111), 4.0, True),
    _c(_T.BONE, (12, 77, -111), (0, 81, -111), 4.0, True),
    _c(_T.BONE, (38, 66, -58), (62, 36, -52), 6.0, True),
    _c(_T.BONE, (62, 36, -52), (68, -6, -46), 3.2, True),
    _c(_T.MARROW, (41, 63, -58), (58, 40, -53), 3.4, True),
    # skull base: body of the sphenoid and clivus
    _e(_T.BONE, (0, 14, -44), (18, 20, 13)),
    _c(_T.BONE, (0, -8, -44), (0, -22, -68), 7.0),
    _c(_T.MARROW, (0, -8, -46), (0, -22, -66), 4.5),
    _e(_T.BONE, (54, -28, -48), (16, 18, 20), True),  # petrous bone and mastoid
    _e(_T.MARROW, (40, -20, -46), (9, 6, 5), True),
    # orbits
    _e(_T.BONE, (31, 52, -36), (21, 32, 20), True),
    _e(_T.FAT, (32, 54, -36), (18.5, 32, 17.5), True),
    _c(_T.MUSCLE, (21, 66, -36), (16, 28, -33), 2.0, True),
    _c(_T.MUSCLE, (45, 66, -36), (22, 28, -34), 2.0, True),
    _c(_T.MUSCLE, (33, 66, -24), (20, 28, -31), 2.0, True),
    _c(_T.MUSCLE, (33, 66, -48), (20, 28, -37), 2.0, True),
    _c(_T.CSF, (32, 54, -36), (15, 22, -32), 3.0, True),
    _c(_T.CORD, (32, 54, -36), (8, 12, -28), 1.8, True),  # optic nerve
    _e(_T.MUSCLE, (33, 66, -36), (13, 13, 13), True),  # sclera
    _e(_T.VITREOUS, (33, 66, -36), (11.8, 11.8, 11.8), True),
    _e(_T.MUSCLE, (33, 75, -36), (5, 2.2, 5), True),  # lens
    # airways
    _e(_T.MUCOSA, (28, 56, -66), (15, 17, 17), True),
    _e(_T.AIR, (28, 56, -66), (13.6, 15.6, 15.6), True),  # maxillary sinus
    _e(_T.MUCOSA, (0, 58, -64), (15, 38, 22)),
    _c(_T.AIR, (5, 88, -74), (5, 34, -72), 2.2, True),
    _c(_T.AIR, (7, 84, -62), (6, 34, -62), 1.8, True),
    _c(_T.AIR, (3, 80, -52), (3, 36, -54), 1.6, True),
    _c(_T.AIR, (6, 104, -80), (5, 86, -74), 3.4, True),  # nostril
    _e(_T.AIR, (7, 50, -42), (4.6, 20, 8), True),  # ethmoid cells
    _e(_T.AIR, (7, 15, -44), (6, 13, 9), True),  # sphenoid sinus
    _c(_T.AIR, (0, 24, -68), (0, 10, -86), 8.0),
    _c(_T.AIR, (0, 8, -88), (0, 4, -124), 6.5),  # throat
    _c(_T.AIR, (0, 4, -124), (0, 8, -180), 8.0),
    _c(_T.MUSCLE, (0, 26, -86), (0, 14, -98), 4.5),  # soft palate
    _e(_T.MUSCLE, (0, 20, -118), (12, 5, 10)),  # root of the tongue
    _e(_T.AIR, (0, 54, -92), (17, 26, 2.0)),  # mouth
    _c(_T.AIR, (86, -22, -46), (58, -20, -44), 3.0, True),  # ear canal
    # spine
    _c(_T.BONE, (0, -30, -74), (0, -32, -180), 12.0),
    _c(_T.BONE, (15, -36, -78), (17, -44, -180), 8.0, True),
    _c(_T.MARROW, (15, -36, -80), (17, -44, -180), 5.0, True),
    _e(_T.MARROW, (0, -28, -78), (6, 5, 8)),
    _e(_T.MARROW, (0, -30, -96), (10, 8, 7.5)),
    _e(_T.MARROW, (0, -31, -113), (10.5, 8, 7)),
    _e(_T.MARROW, (0, -32, -130), (10.5, 8, 7)),
    _e(_T.MUCOSA, (0, -31, -104.6), (10, 8, 1.6)),
    _e(_T.MUCOSA, (0, -32, -121.6), (10, 8, 1.6)),
    _c(_T.BONE, (0, -62, -84), (0, -74, -88), 4.5),
    _c(_T.BONE, (0, -64, -102), (0, -84, -108), 5.0),
    _c(_T.MARROW, (0, -66, -102), (0, -84, -108), 3.0),
    _c(_T.BONE, (0, -64, -120), (0, -82, -127), 4.5),
    _c(_T.MARROW, (0, -66, -120), (0, -82, -127), 2.6),
    # vessels of the neck
    _c(_T.BLOOD, (27, -10, -62), (30, -6, -180), 3.0, True),
    _c(_T.BLOOD, (36, -18, -66), (38, -12, -180), 4.6, True),
    _c(_T.BLOOD, (26, -38, -80), (24, -32, -180), 1.8, True),
)
# The canal and the cord, from the template's cut through the medulla downwards.
_CANAL: tuple[Part, ...] = (
    _c(_T.DURA, (0, -49, -70), (0, -52, -180), 10.5),
    _c(_T.CSF, (0, -49, -66), (0, -52, -180), 9.5),
    _c(_T.CORD, (0, -48, -66), (0, -50, -84), 6.8),
    _c(_T.CORD, (0, -50, -84), (0, -52, -180), 5.6),
)
_FRONTAL_SINUS = Part(_T.AIR, Ellipsoid((9, 82, -24), (10, 4, 10)), paired=True)
_MASTOID = Part(_T.AIR, Ellipsoid((56, -34, -50), (10, 12, 15)), paired=True)


def _wheel() -> Path:
    """Folder of nilearn's data, found without the seconds that importing nilearn takes."""
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise InputMissing("The phantom needs the templates in the package nilearn: install it.")
    return Path(spec.origin).parent / "datasets" / "data"


def _template(name: str) -> tuple[Float3D, NDArray[np.float64]]:
    """Data and affine of a 1 mm template in nilearn's wheel: ``t1``, ``gm`` or ``wm``."""
    file = f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    image = nib.nifti1.Nifti1Image.from_filename(_wheel() / file)
    return np.asarray(image.dataobj, dtype=np.float32), image.affine


def _grid(voxel_mm: float) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape and affine of the head's grid."""
    x, y, z = (int(n) + 1 for n in np.ceil((_HIGH - _LOW) / voxel_mm))
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = _LOW
    return (x, y, z), affine


def _axes(shape: tuple[int, ...], affine: NDArray[np.floating]) -> list[NDArray[np.float32]]:
    """Open grid of coordinates in mm of an unrotated grid."""
    steps = np.ogrid[tuple(slice(n) for n in shape)]
    return [(s * affine[i, i] + affine[i, 3]).astype(np.float32) for i, s in enumerate(steps)]


def _on_grid(
    data: Float3D,
    source: NDArray,
    shape: tuple[int, ...],
    target: NDArray,
    *,
    mode: str = "constant",
) -> Float3D:
    """Interpolate linearly between two unrotated grids, averaging first when it gets coarser.

    Beyond the source there is nothing, or with ``mode="nearest"`` its edge.
    """
    ratio = target[0, 0] / source[0, 0]
    if ratio > 1.0:
        data = ndimage.gaussian_filter(data, 0.4 * ratio)
    offset = (target[:3, 3] - source[:3, 3]) / source[0, 0]
    scale = np.diag([ratio] * 3)
    return ndimage.affine_transform(
        data, scale, offset, output_shape=shape, output=np.float32, order=1, mode=mode
    )


def _solid(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest body in a mask, without threads and holes."""
    opened = ndimage.binary_opening(mask, iterations=2)
    labels, _ = ndimage.label(opened)
    return ndimage.binary_fill_holes(labels == 1 + np.argmax(np.bincount(labels.flat)[1:]))


def _signed_distance(inside: NDArray[np.bool_], voxel_mm: float) -> Float3D:
    """Distance in mm to the border of a region, negative inside, slightly smoothed."""
    distance = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    return ndimage.gaussian_filter((distance * voxel_mm).astype(np.float32), 1.0)


def _closed(inside: NDArray[np.bool_], radius_vox: float) -> NDArray[np.bool_]:
    """Morphological closing by a ball; beyond the edge of the array counts as outside."""
    pad = int(np.ceil(radius_vox)) + 1
    padded = np.pad(inside, pad)
    grown = ndimage.distance_transform_edt(~padded) <= radius_vox
    closed = ndimage.distance_transform_edt(grown) > radius_vox
    return closed[pad:-pad, pad:-pad, pad:-pad] | inside


def _smooth_union(a: Real3D, b: Real3D, width: float) -> Real3D:
    """Union of two signed distances whose seam is rounded over ``width`` mm."""
    blend = np.clip(0.5 + 0.5 * (b - a) / width, 0.0, 1.0)
    return b + (a - b) * blend - width * blend * (1.0 - blend)


def _skull_mm(axes: list[Float3D]) -> Real3D:
    """Thickness of the skull: thin at the temples, thick at the forehead and the occiput."""
    x, y, z = axes
    temple = np.exp(-(((np.abs(x) - 70) / 25) ** 2) - ((y - 5) / 45) ** 2 - ((z + 20) / 30) ** 2)
    occiput = np.exp(-((x / 40) ** 2) - ((y + 112) / 30) ** 2 - ((z + 10) / 35) ** 2)
    return 7.0 - 3.0 * temple + 2.5 * occiput


def _shells(brain: Float3D, affine: NDArray[np.floating]) -> tuple[Float3D, Float3D]:
    """Signed distances to the cranial cavity and to the surface of the head.

    ``brain`` is the brain's fraction on the grid of the head; both come on the same grid.
    """
    shape, coarse = _grid(_SHELL_MM)
    inside = _on_grid(brain, affine, shape, coarse) > 0.5
    cavity = _signed_distance(_closed(inside, 10.0 / _SHELL_MM), _SHELL_MM) - 2.5
    axes = _axes(shape, coarse)
    surface: Real3D = cavity - _skull_mm(axes) - 5.5
    for solid, paired in _SURFACE:
        for one in (solid, solid.mirrored()) if paired else (solid,):
            width = 4.0 if solid.bounds()[1][0] > 88 else 14.0
            surface = _smooth_union(one.distance(axes), surface, width)
    surface = _signed_distance(surface < 0, _SHELL_MM)
    return (
        _on_grid(cavity, coarse, brain.shape, affine, mode="nearest"),
        _on_grid(surface, coarse, brain.shape, affine, mode="nearest"),
    )


def _paint(labels: NDArray[np.uint8], affine: NDArray[np.floating], part: Part) -> None:
    """Write a part into the labels where it lies on the grid."""
    for solid in part.solids():
        corners = (np.array(solid.bounds()) - affine[:3, 3]) / affine[0, 0]
        low = np.clip(np.floor(corners[0]), 0, labels.shape).astype(int)
        high = np.clip(np.ceil(corners[1]) + 1, 0, labels.shape).astype(int)
        box = labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        corner = affine.copy()
        corner[:3, 3] += low * affine[0, 0]
        box[solid.distance(_axes(box.shape, corner)) < 0] = part.tissue


def _soft_tissue(surface: Float3D, voxel_mm: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Muscles with planes of fat between them, under fat of uneven thickness, under skin."""
    labels = np.where(surface < 0, _T.MUSCLE, _T.AIR).astype(np.uint8)
    planes = smooth_field(surface.shape, rng, 8.0 / voxel_mm)
    labels[(np.abs(planes) < 0.14) & (surface < -4.0)] = _T.FAT
    thickness = 5.0 + 1.2 * smooth_field(surface.shape, rng, 18.0 / voxel_mm)
    labels[(surface < 0) & (surface > -thickness)] = _T.FAT
    return labels


def _grow_skull(labels: NDArray[np.uint8], cavity: Float3D, affine: NDArray[np.floating]) -> None:
    """Two dark tables with bright diploe between them, around the cranial cavity."""
    thickness = _skull_mm(_axes(labels.shape, affine))
    table = np.maximum(0.27 * thickness, 0.5)
    labels[(cavity >= 0) & (cavity < thickness)] = _T.BONE
    diploe = (cavity >= table) & (cavity < thickness - table) & (thickness > 4.5)
    labels[diploe] = _T.MARROW


def _fill_cavity(labels: NDArray[np.uint8], cavity: Float3D, affine: NDArray[np.floating]) -> None:
    """Cerebrospinal fluid within the dura, and the superior sagittal sinus."""
    x, y, z = _axes(labels.shape, affine)
    labels[cavity < 0.6] = _T.DURA
    labels[cavity < -0.4] = _T.CSF
    roof = (np.abs(cavity) < 2.8) & (np.abs(x) < 4.0 - 0.8 * np.abs(cavity))
    labels[roof & ((z > 30) | (y < -80)) & (z > -20)] = _T.BLOOD


@lru_cache(maxsize=2)
def average_head(voxel_mm: float = 1.0) -> Head:
    """Build the average head in MNI space on an isotropic grid (from the neck to the vertex).

    Always the same for one ``voxel_mm``. Takes some seconds at 1 mm.
    """
    rng = np.random.default_rng(0)
    shape, affine = _grid(voxel_mm)
    t1w, source = _template("t1")
    solid = _solid(t1w > 0).astype(np.float32)
    brain = _on_grid(solid, source, shape, affine)
    grey, white = (
        _on_grid(_template(name)[0] / 255.0, source, shape, affine) for name in ("gm", "wm")
    )
    cavity, surface = _shells(brain, affine)
    labels = _soft_tissue(surface, voxel_mm, rng)
    _grow_skull(labels, cavity, affine)
    for part in (*_DEEP, _FRONTAL_SINUS):
        _paint(labels, affine, part)
    labels[(cavity >= 0) & (cavity < max(1.5, voxel_mm / 2))] = _T.BONE  # nothing opens it
    aerated = labels.copy()
    _paint(aerated, affine, _MASTOID)
    cells = smooth_field(shape, rng, 2.5 / voxel_mm) > 0.1
    labels[cells] = aerated[cells]
    _fill_cavity(labels, cavity, affine)
    for part in _CANAL:
        _paint(labels, affine, part)
    labels[(surface > -1.8) & (labels != _T.AIR)] = _T.SKIN
    labels[surface >= 0] = _T.AIR
    labels[brain > 0.5] = _T.BRAIN
    return Head(labels, grey, white, affine)
