"""Nonlinear ITK transforms: what they do to images and points, and by how much they stretch.

Arrays are [x, y, z] with RAS+ mm affines; SimpleITK, which reads the files, is LPS.
"""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from nibabel.affines import voxel_sizes

from bids_stroke.core.files import atomic_path
from bids_stroke.core.geometry import Grid

_FLIP = np.array([-1.0, -1.0, 1.0])
_INTERPOLATORS = {0: SimpleITK.sitkNearestNeighbor, 1: SimpleITK.sitkLinear}


def read_transform(path: Path) -> Any:
    """Transform of an ITK file (``.h5``, ``.txt``, ``.mat``); ValueError where there is none."""
    try:
        return SimpleITK.ReadTransform(str(path))
    except RuntimeError as error:
        raise ValueError(f"{path} is not a transform of ITK") from error


def drop_times(path: Path) -> Path:
    """Write an HDF5 transform of ITK anew without the times of its parts, and return its path.

    Equal transforms are then equal bytes.
    """
    import h5py

    with atomic_path(path) as temporary, h5py.File(path) as old, h5py.File(temporary, "w") as new:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                kept = {key: getattr(item, key) for key in ("dtype", "chunks", "compression")}
                new.create_dataset(name, data=item[()], track_times=False, **kept)

        old.visititems(copy)
    return path


def to_sitk(data: np.ndarray, affine: np.ndarray) -> SimpleITK.Image:
    """SimpleITK image (float32) of an array [x, y, z] with a RAS+ mm affine."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(data.T, dtype=np.float32))
    place_in_space(image, affine)
    return image


def place_in_space(image: SimpleITK.Image, affine: np.ndarray) -> None:
    """Give an image the origin, spacing and direction of a RAS+ mm affine."""
    sides = voxel_sizes(affine)
    lps = np.diag([*_FLIP, 1.0]) @ affine
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(sides.tolist())
    image.SetDirection((lps[:3, :3] / sides).ravel().tolist())


def warp(
    data: np.ndarray, source: np.ndarray, target: Grid, transform: Any, *, order: int = 1
) -> np.ndarray:
    """Image on another grid through a transform, float32; 0 outside the image.

    ``source`` is the affine of ``data``. As ITK has it, the transform takes points of the target's
    space to the source's. ``order`` is 0 for labels, 1 for probabilities and images.
    """
    reference = to_sitk(np.zeros(target.shape, dtype=np.float32), target.affine)
    kind, dtype = _INTERPOLATORS[order], SimpleITK.sitkFloat32
    moved = SimpleITK.Resample(to_sitk(data, source), reference, transform, kind, 0.0, dtype)
    return np.ascontiguousarray(SimpleITK.GetArrayFromImage(moved).T)


def map_points(points: np.ndarray, transform: Any) -> np.ndarray:
    """Points (n x 3, RAS+ mm) through a transform, as ITK takes points."""
    lps = np.asarray(points, dtype=float).reshape(-1, 3) * _FLIP
    moved = [transform.TransformPoint(point) for point in lps.tolist()]
    return np.array(moved, dtype=float).reshape(-1, 3) * _FLIP


def displacement(grid: Grid, transform: Any) -> np.ndarray:
    """By how many mm (RAS+) a transform moves each voxel centre of a grid: [x, y, z, 3]."""
    reference = to_sitk(np.zeros(grid.shape, dtype=np.float32), grid.affine)
    field = SimpleITK.TransformToDisplacementField(
        transform,
        SimpleITK.sitkVectorFloat64,
        reference.GetSize(),
        reference.GetOrigin(),
        reference.GetSpacing(),
        reference.GetDirection(),
    )
    return SimpleITK.GetArrayFromImage(field).transpose(2, 1, 0, 3) * _FLIP


def jacobian_determinant(displacement_mm: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Determinant of the Jacobian of x -> x + u(x) at each voxel, by central differences.

    ``displacement_mm`` is u, [x, y, z, 3] in RAS+ mm, on the grid of ``affine``. 1 keeps volume,
    2 doubles it, 0 or less is a fold. Outermost voxels use one-sided differences.
    """
    by_voxel = np.stack(np.gradient(displacement_mm, axis=(0, 1, 2)), axis=-1)
    by_mm = by_voxel @ np.linalg.inv(affine[:3, :3])
    return np.linalg.det(by_mm + np.eye(3))
