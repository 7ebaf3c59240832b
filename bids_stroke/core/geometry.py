"""Grids, affines and resampling: where a voxel is, and what another grid sees there.

Arrays are [x, y, z] in voxel order and affines are RAS+ in mm, as in nibabel. ITK files are LPS.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from nibabel.spatialimages import SpatialImage
from scipy import ndimage
from scipy.io import loadmat

from bids_stroke.core.files import write_text

Box = tuple[slice, slice, slice]

BESIDE_BRAIN_VOX = 2
"""Voxels that are kept around a brain when an image is cut to it."""
_EXACT_VOX = 1e-3
"""Two voxel centres closer than this are one: float32 headers are no better on a whole head."""
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Grid:
    """A voxel grid: the shape [x, y, z] and the 4 x 4 affine from voxels to RAS+ mm."""

    shape: tuple[int, int, int]
    affine: np.ndarray


def grid_of(image: SpatialImage) -> Grid:
    """Grid of the first three dimensions of a nibabel image."""
    x, y, z = image.shape[:3]
    return Grid((x, y, z), np.asarray(image.affine, dtype=float))


def corners(shape: tuple[int, ...]) -> np.ndarray:
    """Voxel indices of the eight corner voxels, as an 8 x 3 array."""
    return np.array(list(product(*((0, size - 1) for size in shape))), dtype=float)


def same_grid(a: Grid, b: Grid, tolerance_mm: float = 1e-3) -> bool:
    """True when both grids have one shape and no corner lies further apart than the tolerance."""
    if a.shape != b.shape:
        return False
    here, there = (nib.affines.apply_affine(grid.affine, corners(grid.shape)) for grid in (a, b))
    return bool(np.linalg.norm(here - there, axis=1).max() <= tolerance_mm)


def voxel_volume_mm3(affine: np.ndarray) -> float:
    """Volume of a voxel in mm3: the absolute determinant of the affine."""
    return float(abs(np.linalg.det(affine[:3, :3])))


def resample(
    data: np.ndarray,
    source: Grid,
    target: Grid,
    *,
    transform: np.ndarray | None = None,
    order: int = 1,
    cval: float = 0.0,
    within: np.ndarray | None = None,
) -> np.ndarray:
    """Values of ``data`` at the voxel centres of another grid, as float32.

    ``transform`` is a 4 x 4 matrix in RAS+ mm that takes points of the target's world to the
    source's world (ITK's pull convention); None is the identity. ``order`` is that of the spline:
    0 for labels, 1 for soft masks, 3 for images, which is clipped to the range of ``data``
    because splines overshoot. As in ITK, a point belongs to the source up to half a voxel beyond
    the outermost centres; everything further out is ``cval``. When the target's voxels fall on
    the source's, values are copied, not interpolated. Outside the box around a mask ``within`` on
    the target's grid, values are ``cval`` too, and cost nothing.
    """
    if within is not None and np.any(within):
        out = np.full(target.shape, cval, dtype=np.float32)
        box = bounding_box(within)
        part, affine = crop(out, target.affine, box)
        small = Grid(part.shape, affine)
        out[box] = resample(data, source, small, transform=transform, order=order, cval=cval)
        return out
    matrix = _to_source(source, target, transform)
    exact = _signed_permutation(matrix, target.shape)
    if exact is not None:
        return _copy(data, *exact, target.shape, cval)
    out = np.full(target.shape, cval, dtype=np.float32)
    reached = _reached(matrix, target.shape, data.shape)
    part = out[reached]
    if part.size:
        start = from_matvec(np.eye(3), [side.start for side in reached])
        part[...] = _interpolate(data, matrix @ start, part.shape, order, cval)
    return out


def is_copied(source: Grid, target: Grid, transform: np.ndarray | None = None) -> bool:
    """True when the target's voxels fall on the source's, so that ``resample`` copies values."""
    return _signed_permutation(_to_source(source, target, transform), target.shape) is not None


def _to_source(source: Grid, target: Grid, transform: np.ndarray | None) -> np.ndarray:
    """Matrix from voxel indices of the target to those of the source."""
    world = np.eye(4) if transform is None else transform
    return np.linalg.inv(source.affine) @ world @ target.affine


def _signed_permutation(
    matrix: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Integer rotation and offset when the map moves every voxel onto a voxel, else None."""
    rounded = np.rint(matrix)
    drift = np.abs((matrix - rounded)[:3] @ np.c_[corners(shape), np.ones(8)].T)
    rotation = rounded[:3, :3].astype(int)
    one_each = (np.abs(rotation).sum(0) == 1).all() and (np.abs(rotation).sum(1) == 1).all()
    if drift.max() > _EXACT_VOX or not one_each:
        return None
    return rotation, rounded[:3, 3].astype(int)


def _copy(
    data: np.ndarray,
    rotation: np.ndarray,
    offset: np.ndarray,
    shape: tuple[int, int, int],
    cval: float,
) -> np.ndarray:
    """Copy voxels through a signed permutation of axes with an integer offset."""
    order = np.abs(rotation).argmax(axis=0)
    moved = data.transpose(order)
    read, write = [], []
    for axis, origin in enumerate(order):
        step = int(rotation[origin, axis])
        index = step * np.arange(shape[axis]) + offset[origin]
        inside = np.flatnonzero((index >= 0) & (index < moved.shape[axis]))
        first, last = (int(inside[0]), int(inside[-1])) if inside.size else (0, -1)
        write.append(slice(first, last + 1))
        end = int(index[last]) + step
        read.append(slice(int(index[first]), end if end >= 0 else None, step))
    out = np.full(shape, cval, dtype=np.float32)
    if all(part.stop > part.start for part in write):
        out[tuple(write)] = moved[tuple(read)]
    return out


def _interpolate(
    data: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...], order: int, cval: float
) -> np.ndarray:
    """Spline interpolation of ``data`` at ``matrix`` times the voxel index of the output."""
    source = np.asarray(data, dtype=np.float32)
    out = ndimage.affine_transform(
        source, matrix[:3, :3], matrix[:3, 3], shape, np.float32, order=order, mode="nearest"
    )
    if order > 1:
        np.clip(out, source.min(), source.max(), out=out)
    out[~_inside(matrix, shape, source.shape)] = cval
    return out


def _reached(
    matrix: np.ndarray, shape: tuple[int, ...], source: tuple[int, ...]
) -> tuple[slice, ...]:
    """Box of the output voxels that may fall on the source; it may be empty."""
    ends = [(-0.5 - _EXACT_VOX, size - 0.5 + _EXACT_VOX) for size in source]
    found = apply_affine(np.linalg.inv(matrix), list(product(*ends)))
    first = np.clip(np.floor(found.min(axis=0)), 0, shape).astype(int)
    after = np.clip(np.ceil(found.max(axis=0)) + 1, first, shape).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in zip(first, after, strict=True))


def _inside(matrix: np.ndarray, shape: tuple[int, ...], source: tuple[int, ...]) -> np.ndarray:
    """Mask of the output voxels that fall within half a voxel of the source's outermost centres."""
    i, j, k = np.ogrid[tuple(slice(size) for size in shape)]
    mask = np.ones(shape, dtype=bool)
    for row, size in zip(matrix[:3], source, strict=True):
        index = (row[0] * i + row[3]) + row[1] * j + row[2] * k  # one array of the whole grid
        mask &= (index >= -0.5 - _EXACT_VOX) & (index <= size - 0.5 + _EXACT_VOX)
    return mask


def is_ras(affine: np.ndarray) -> bool:
    """True when the axes run closest to right, anterior, superior: ``to_ras`` changes nothing."""
    return bool((io_orientation(affine) == [[0, 1], [1, 1], [2, 1]]).all())


def to_ras(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn the array so that its axes run closest to right, anterior, superior.

    Voxels are moved and never interpolated; an oblique affine stays oblique.
    """
    orientation = io_orientation(affine)
    turned = np.ascontiguousarray(apply_orientation(data, orientation))
    return turned, affine @ inv_ornt_aff(orientation, data.shape)


def bounding_box(mask: np.ndarray, margin_vox: int | Sequence[int] = 0) -> Box:
    """Slices of the smallest box around the true voxels, grown by a margin within the array.

    The margin is one for all axes, or one for each.

    Raises ValueError when no voxel is true.
    """
    if not np.any(mask):
        raise ValueError("an empty mask has no bounding box")
    sides = ndimage.find_objects((mask != 0).view(np.uint8))[0]
    x, y, z = (
        slice(max(side.start - margin, 0), min(side.stop + margin, size))
        for side, margin, size in zip(
            sides, np.broadcast_to(margin_vox, 3), mask.shape, strict=True
        )
    )
    return x, y, z


def crop(data: np.ndarray, affine: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """The part of the array inside the box, with the affine of its first voxel."""
    moved = np.array(affine, dtype=float)
    moved[:3, 3] = nib.affines.apply_affine(affine, [side.start for side in box])
    return np.ascontiguousarray(data[box]), moved


def read_itk_affine(path: Path) -> np.ndarray:
    """Read a linear ITK transform (``.txt``, or ``.mat`` as ANTs writes it) as a RAS+ mm matrix.

    The 4 x 4 matrix takes points of the fixed image to the moving one, as ITK means it. Raises
    ValueError when the file holds anything but one transform of twelve parameters.
    """
    path = Path(path)
    parameters, centre = _read_mat(path) if path.suffix == ".mat" else _read_txt(path)
    if parameters.size != 12 or centre.size != 3:
        raise ValueError(f"{path} is not one affine transform of ITK with twelve parameters")
    linear, translation = parameters[:9].reshape(3, 3), parameters[9:]
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = translation + centre - linear @ centre
    return _LPS @ matrix @ _LPS


def _read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and centre of a transform in MATLAB's version 4 format."""
    try:
        content = loadmat(path)
    except Exception as error:  # noqa: BLE001 - scipy raises a dozen kinds
        kind = type(error).__name__
        raise ValueError(f"{path} is no file of MATLAB's version 4 ({kind})") from error
    parameters = [content[key] for key in content if "Transform" in key]
    centre = content.get("fixed", np.zeros(0))
    return np.concatenate([np.zeros(0), *(p.ravel() for p in parameters)]), centre.ravel()


def _read_txt(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and centre of a transform in ITK's text format."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    values: dict[str, list[str]] = {"Parameters": [], "FixedParameters": []}
    for key, _, value in (line.partition(":") for line in lines):
        if key in values:
            values[key] += value.split()
    parameters, centre = (np.array(numbers, dtype=float) for numbers in values.values())
    return parameters, centre


def write_itk_affine(matrix: np.ndarray, path: Path) -> Path:
    """Write a RAS+ mm matrix (fixed to moving points) as ITK's text format; return the path."""
    lps = _LPS @ matrix @ _LPS
    parameters = " ".join(repr(float(value)) for value in (*lps[:3, :3].ravel(), *lps[:3, 3]))
    lines = [
        "#Insight Transform File V1.0",
        "#Transform 0",
        "Transform: AffineTransform_double_3_3",
        f"Parameters: {parameters}",
        "FixedParameters: 0 0 0",
    ]
    return write_text(Path(path), "\n".join(lines) + "\n")
