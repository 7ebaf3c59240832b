"""Phantom people: the average head varied, its tissues given a contrast, and scanned.

Everything here is synthetic. The anatomy is that of the MNI152 average, so it is smoother than
any person's. Lesions are painted otherwise than in ``core.synthesis``, on purpose: a network that
was trained on those must not meet its own recipe here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_stroke.core.fields import bias_field, displacement, rician, smooth_field, warp
from bids_stroke.core.geometry import Grid, bounding_box, resample
from bids_stroke.core.head import Head, Point, Tissue

Float3D = NDArray[np.float32]
Matrix = NDArray[np.float64]
Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Signal of each tissue, relative to the brightest of the brain (about 1).

    ``others`` holds the tissues outside the brain; a missing one gives no signal. ``infarct`` is
    the signal of subacute tissue, ``gliosis`` that of the rim of a chronic cavity.
    """

    grey: float
    white: float
    csf: float
    infarct: float
    gliosis: float
    others: Mapping[Tissue, float]


T1W = Contrast(
    grey=0.56,
    white=0.82,
    csf=0.2,
    infarct=0.43,
    gliosis=0.42,
    others={
        Tissue.CSF: 0.19,
        Tissue.BONE: 0.06,
        Tissue.MARROW: 0.7,
        Tissue.FAT: 1.05,
        Tissue.MUSCLE: 0.46,
        Tissue.SKIN: 0.6,
        Tissue.VITREOUS: 0.16,
        Tissue.MUCOSA: 0.5,
        Tissue.CORD: 0.7,
        Tissue.BLOOD: 0.32,
        Tissue.DURA: 0.3,
    },
)
FLAIR = Contrast(
    grey=0.66,
    white=0.52,
    csf=0.08,
    infarct=0.98,
    gliosis=0.92,
    others={
        Tissue.CSF: 0.08,
        Tissue.BONE: 0.05,
        Tissue.MARROW: 0.42,
        Tissue.FAT: 0.62,
        Tissue.MUSCLE: 0.36,
        Tissue.SKIN: 0.5,
        Tissue.VITREOUS: 0.07,
        Tissue.MUCOSA: 0.72,
        Tissue.CORD: 0.52,
        Tissue.BLOOD: 0.15,
        Tissue.DURA: 0.3,
    },
)


@dataclass(frozen=True)
class Lesion:
    """A lesion on the grid of a head: its mask, and how much of each voxel is cavity (0 to 1)."""

    mask: NDArray[np.bool_]
    cavity: Float3D


def vary(head: Head, rng: np.random.Generator) -> Head:
    """Make another person's head out of one: size, proportions, ventricles and local shape.

    The grid stays; the midline stays near x = 0, and the two sides come to differ.
    """
    step = _growth(head, rng)
    step += _local(head, rng)
    labels = warp(head.labels, step, order=0).astype(np.uint8)
    # Grey and white matter are needed in the brain alone, which is a third of the grid.
    box = bounding_box(head.brain | (labels == Tissue.BRAIN), round(12 / head.voxel_mm))
    grey, white = np.zeros_like(head.grey), np.zeros_like(head.white)
    average = [warp(part[box], step[:, *box]) for part in (head.grey, head.white)]
    grey[box], white[box] = _fold(average[0], average[1], rng, head.voxel_mm)
    return replace(head, labels=labels, grey=grey, white=white)


def _fold(
    grey: Float3D, white: Float3D, rng: np.random.Generator, voxel_mm: float
) -> tuple[Float3D, Float3D]:
    """Turn the fractions of an average of many people into those of one person.

    Where the average is undecided, a random field decides, so that borders get as sharp and as
    crooked as a person's.
    """
    scale = 2.6 / voxel_mm
    noise = [np.exp(0.45 * smooth_field(grey.shape, rng, scale)) for _ in range(3)]
    other = np.clip(1.0 - grey - white, 0.0, 1.0)
    grey, white, other = (
        (part * n) ** 2.5 for part, n in zip((grey, white, other), noise, strict=True)
    )
    total = np.maximum(grey + white + other, 1e-6)
    return grey / total, white / total


def _local(head: Head, rng: np.random.Generator) -> NDArray[np.float32]:
    """Elastic displacement (voxels): broad changes of shape, and fine ones of the gyri."""
    mm = head.voxel_mm
    broad = displacement(head.shape, rng, amplitude=2.4 / mm, scale=45.0 / mm)
    fine = displacement(head.shape, rng, amplitude=1.2 / mm, scale=11.0 / mm)
    fine *= ndimage.gaussian_filter(head.brain.astype(np.float32), 3.0 / mm)
    return broad + fine


def _growth(head: Head, rng: np.random.Generator) -> NDArray[np.float32]:
    """Pull displacement (voxels) of a global size and of wider ventricles.

    The template is larger than most heads, hence the sizes under 1.
    """
    axes = _coordinates(head)
    size = rng.uniform(0.89, 0.95) * rng.uniform(0.98, 1.02, 3)
    widening = np.float32(rng.uniform(0.0, 0.3))
    away = [axis - np.float32(c) for axis, c in zip(axes, (0.0, -12.0, 12.0), strict=True)]
    x, y, z = (np.exp(-(a**2) / (2 * 24.0**2)) for a in away)
    reach = widening * x * y * z
    step = np.empty((3, *head.shape), dtype=np.float32)
    for out, axis, a, ratio in zip(step, axes, away, size, strict=True):
        out[:] = (axis * np.float32(1.0 / ratio - 1.0) - reach * a) / np.float32(head.voxel_mm)
    return step


def _coordinates(head: Head) -> list[Float3D]:
    """Open grid of the head's coordinates in mm."""
    axes = np.ogrid[tuple(slice(n) for n in head.shape)]
    origin = head.affine[:3, 3]
    return [(a * head.voxel_mm + o).astype(np.float32) for a, o in zip(axes, origin, strict=True)]


def render(head: Head, contrast: Contrast, rng: np.random.Generator) -> Float3D:
    """Give the tissues their signal: a clean image (about 0 to 1.1) on the head's grid.

    A faint texture keeps the tissues from being flat.
    """
    table = np.zeros(len(Tissue), dtype=np.float32)
    for tissue, signal in contrast.others.items():
        table[tissue] = signal
    image = table[head.labels]
    inside = head.brain
    grey, white = head.grey[inside], head.white[inside]
    csf = np.clip(1.0 - grey - white, 0.0, 1.0)
    image[inside] = contrast.grey * grey + contrast.white * white + contrast.csf * csf
    image *= 1.0 + 0.03 * smooth_field(image.shape, rng, 4.0 / head.voxel_mm)
    return ndimage.gaussian_filter(image, 0.55 / head.voxel_mm)


def receive(image: Float3D, head: Head, rng: np.random.Generator, *, strength: float) -> Float3D:
    """Multiply by the sensitivity of the coil: a smooth bias, and a fall towards the neck."""
    height = _coordinates(head)[2]
    fall = 1.0 / (1.0 + np.exp(-(height + 108.0) / 9.0))
    bias = bias_field(image.shape, rng, strength=strength, scale=70.0 / head.voxel_mm)
    return image * bias * fall


def grow_lesion(
    head: Head, centre_mm: Point, volume_ml: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Grow one connected, irregular lesion of a given volume in brain tissue.

    It stays in the hemisphere of ``centre_mm`` (RAS mm of the head) and out of the ventricles and
    wide fissures. The same ``rng`` state and centre give nested lesions for different volumes.

    Raises
    ------
    ValueError
        If the tissue around the centre can't hold the volume.
    """
    axes = _coordinates(head)
    away = [(a - c) for a, c in zip(axes, centre_mm, strict=True)]
    reach = 2.2 * (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3) + 6.0
    lumps = smooth_field(head.shape, rng, 9.0 / head.voxel_mm)
    crumbs = smooth_field(head.shape, rng, 3.0 / head.voxel_mm)
    distance = np.sqrt(sum(a**2 for a in away)) * np.exp(0.22 * lumps + 0.07 * crumbs)
    tissue = ndimage.gaussian_filter((head.grey + head.white) * head.brain, 2.0 / head.voxel_mm)
    side = axes[0] * np.sign(centre_mm[0]) > 2.0
    distance[(tissue < 0.55) | ~head.brain | ~side] = np.inf
    return _connected_ball(distance, volume_ml * 1000 / head.voxel_mm**3, reach)


def _connected_ball(distance: Float3D, n_voxels: float, reach: float) -> NDArray[np.bool_]:
    """Largest component of ``distance < t``, filled, with t such that it has ``n_voxels``."""
    box = ndimage.find_objects((distance < reach).astype(np.uint8))
    if not box:
        raise ValueError("There is no brain tissue around the centre of the lesion.")
    mask = np.zeros(distance.shape, dtype=bool)
    low, high = 0.0, reach
    for _ in range(14):
        middle = (low + high) / 2
        part = ndimage.binary_fill_holes(_largest(distance[box[0]] < middle))
        low, high = (middle, high) if part.sum() < n_voxels else (low, middle)
    mask[box[0]] = part
    if part.sum() < 0.9 * n_voxels:
        raise ValueError("The tissue around the centre can't hold a lesion of that volume.")
    return mask


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Largest 26-connected component."""
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return mask
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def age_lesion(
    mask: NDArray[np.bool_], head: Head, rng: np.random.Generator, *, chronic: bool
) -> Lesion:
    """Give a lesion its stage: a chronic one is a cavity with a rim of 1 to 5 mm, else solid."""
    cavity = np.zeros(mask.shape, dtype=np.float32)
    if chronic:
        box = bounding_box(mask, 3)
        depth = (ndimage.distance_transform_edt(mask[box]) - 0.5) * head.voxel_mm
        rim = 2.0 + 0.9 * smooth_field(depth.shape, rng, 6.0 / head.voxel_mm)
        cavity[box] = np.clip((depth - rim) / 1.5, 0.0, 1.0)
    return Lesion(mask, cavity)


def paint(
    image: Float3D, head: Head, lesion: Lesion, contrast: Contrast, rng: np.random.Generator
) -> Float3D:
    """Put a lesion into a rendered image: uneven signal, soft edge, some of the tissue left."""
    box = bounding_box(lesion.mask, 3)
    tissue = ndimage.gaussian_filter(lesion.mask[box].astype(np.float32), 0.8 / head.voxel_mm)
    cavity = lesion.cavity[box]
    signal = contrast.gliosis if lesion.cavity.any() else contrast.infarct
    uneven = signal * (1.0 + 0.07 * smooth_field(tissue.shape, rng, 3.0 / head.voxel_mm))
    painted = image.copy()
    part = painted[box] * (1.0 - 0.8 * tissue) + 0.8 * tissue * uneven
    painted[box] = part * (1.0 - cavity) + cavity * contrast.csf
    return painted


def rigid(rotation_deg: ArrayLike, translation_mm: ArrayLike) -> Matrix:
    """Rigid 4x4 matrix: rotation about the x, y and z axes through the origin, then translation."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", rotation_deg, degrees=True).as_matrix()
    matrix[:3, 3] = translation_mm
    return matrix


def scan_grid(
    shape: Shape,
    zooms: Point,
    *,
    codes: str = "RAS",
    tilt_deg: Point = (0.0, 0.0, 0.0),
    centre_mm: Point = (0.0, 0.0, 0.0),
) -> Grid:
    """Grid whose axes point along ``codes``, tilted, with a given centre.

    ``shape`` and ``zooms`` (mm) are those of the stored axes.
    """
    turn = nib.orientations.axcodes2ornt(tuple(codes))
    linear = np.zeros((3, 3))
    for axis, (world, direction) in enumerate(turn):
        linear[int(world), axis] = direction * zooms[axis]
    affine = np.eye(4)
    affine[:3, :3] = rigid(tilt_deg, (0.0, 0.0, 0.0))[:3, :3] @ linear
    affine[:3, 3] = np.array(centre_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def scan(data: NDArray, head: Head, pose: Matrix, grid: Grid) -> Float3D:
    """Sample a volume of the head on a scanner's grid.

    ``pose`` (4x4) takes the head's mm to the scanner's mm. Each voxel averages over its slice:
    samples about a voxel of the head apart, along the longest edge of the scan's voxel.
    """
    zooms = np.linalg.norm(grid.affine[:3, :3], axis=0)
    axis = int(np.argmax(zooms))
    count = max(int(round(zooms[axis] / head.voxel_mm)), 1)
    thin = np.eye(4)
    thin[axis, axis], thin[axis, 3] = 1.0 / count, 0.5 / count - 0.5
    x, y, z = (n * count if i == axis else n for i, n in enumerate(grid.shape))
    fine = Grid((x, y, z), grid.affine @ thin)
    source = Grid(head.shape, head.affine)
    samples = resample(data, source, fine, transform=np.linalg.inv(pose))
    return samples.reshape(*grid.shape[:axis], -1, count, *grid.shape[axis + 1 :]).mean(axis + 1)


def digitise(image: Float3D, rng: np.random.Generator, *, noise: float) -> NDArray[np.uint8]:
    """Add Rician noise (standard deviation as a share of the brain's signal) and store integers.

    The scale (110 for a signal of 1) is coarse on purpose: noise does not compress.
    """
    return np.clip(np.rint(110.0 * rician(image, rng, noise)), 0, 255).astype(np.uint8)
