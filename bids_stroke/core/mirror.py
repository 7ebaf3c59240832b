"""The other side of a brain: its mirror image by its own midsagittal plane.

What an eye uses to see a large grey infarct among grey cortex is the other hemisphere. Arrays are
[x, y, z] with RAS+ mm affines, x closest to left and right.
"""

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage, optimize

COARSE_MM = 4.0
"""Voxels at which the plane is looked for."""
_UNIT_RAD = 1 / 40
"""Angle that moves the side of a brain about as far as the unit of the distance, a millimetre."""
_STARTS_RAD = (0.0, -0.25, 0.25)


def reflection(normal: np.ndarray, point: np.ndarray) -> np.ndarray:
    """4 x 4 matrix (mm) that reflects points at the plane through ``point``."""
    unit = np.asarray(normal, dtype=float) / np.linalg.norm(normal)
    matrix = np.eye(4)
    matrix[:3, :3] -= 2 * np.outer(unit, unit)
    matrix[:3, 3] = 2 * unit * (unit @ point)
    return matrix


def midsagittal_reflection(image: np.ndarray, brain: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Reflection (4 x 4, RAS+ mm) by which a brain is most like itself.

    It has the highest correlation of the image, blurred to 4 mm, with its mirror over the brain
    mask, which must not be empty; yaw, roll and shift of the plane are found by Powell's method.
    (For symmetry planes of brains in general: Ardekani et al. 1997, IEEE TMI 16:947.) One of a few
    voxels is cut in its middle, left from right.
    """
    coarse, inside, grid = _coarse(image, brain, affine)
    if not inside.any():
        middle = apply_affine(affine, np.argwhere(brain)).mean(axis=0)
        return reflection(np.array([1.0, 0, 0]), middle)
    voxels = np.argwhere(inside)
    points, here = apply_affine(grid, voxels), coarse[inside]
    centre, to_voxels = points.mean(axis=0), np.linalg.inv(grid)

    def unlike(plane: np.ndarray) -> float:
        where = apply_affine(to_voxels @ _of_plane(plane, centre), points)
        there = ndimage.map_coordinates(coarse, where.T, order=1)
        return -_correlation(here, there)

    start = min(
        ([yaw / _UNIT_RAD, roll / _UNIT_RAD, 0.0] for yaw in _STARTS_RAD for roll in _STARTS_RAD),
        key=lambda plane: unlike(np.array(plane)),
    )
    found = optimize.minimize(unlike, start, method="Powell", options={"xtol": 0.02, "ftol": 1e-5})
    return _of_plane(found.x, centre)


def mirrored(image: np.ndarray, brain: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The brain's mirror image on its own grid, float32, linearly interpolated; 0 outside it.

    ``brain`` is a mask that is not empty; what lies outside it in ``image`` has no part.
    """
    bare = np.where(brain, image, 0).astype(np.float32)
    there = _pulled(bare, affine, midsagittal_reflection(bare, brain, affine))
    return np.where(brain, there, np.float32(0))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; 0 where an array has one value only."""
    if not (one.std() and other.std()):
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _coarse(
    image: np.ndarray, brain: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image blurred and thinned to about 4 mm, the brain there, and their affine."""
    sizes = voxel_sizes(affine)
    step = np.maximum(1, np.round(COARSE_MM / sizes)).astype(int)
    thin = tuple(slice(None, None, int(n)) for n in step)
    blurred = ndimage.gaussian_filter(np.asarray(image, np.float32), COARSE_MM / 2 / sizes)
    return blurred[thin], np.asarray(brain)[thin] > 0, affine @ np.diag([*step, 1.0])


def _of_plane(plane: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Reflection at a plane of yaw and roll (in units of 1/40 rad) and distance (mm)."""
    yaw, roll = np.asarray(plane[:2]) * _UNIT_RAD
    normal = np.array([np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)])
    return reflection(normal, centre + plane[2] * normal)


def _pulled(data: np.ndarray, affine: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    voxels = np.linalg.inv(affine) @ matrix @ affine
    return ndimage.affine_transform(data, voxels[:3, :3], voxels[:3, 3], order=1)
