"""Random smooth fields, and what scanners do to an image: warps, bias, noise, thick slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Float3D = NDArray[np.float32]

# White noise on knots h apart, blurred by cubic B-splines, has the autocorrelation B7 (variance
# 2/3 h^2): it falls to 1/e at 1.155 h.
_KNOTS_PER_LENGTH = 1.0 / 1.155


def _bspline(distance: NDArray[np.floating]) -> NDArray[np.float32]:
    """Cubic B-spline at a distance in knots."""
    d = np.abs(distance)
    inner = 2.0 / 3.0 - d**2 + d**3 / 2.0
    outer = np.clip(2.0 - d, 0.0, None) ** 3 / 6.0
    return np.where(d < 1.0, inner, outer).astype(np.float32)


def _bspline_basis(length: int, spacing: float, offset: float) -> NDArray[np.float32]:
    """Matrix (length, knots) that carries knot values to voxels."""
    positions = np.arange(length) / spacing + 1.0 + offset
    knots = np.arange(int(np.ceil(positions[-1])) + 3)
    return _bspline(positions[:, None] - knots[None, :])


def _along(volume: NDArray[np.floating], matrix: NDArray[np.floating], axis: int) -> Float3D:
    """Multiply ``volume`` along ``axis`` by ``matrix`` (new length, old length)."""
    if axis == volume.ndim - 1:
        return volume @ matrix.T
    before, after = volume.shape[:axis], volume.shape[axis + 1 :]
    rows = matrix @ volume.reshape(*before, volume.shape[axis], -1)
    return rows.reshape(*before, len(matrix), *after)


def smooth_field(shape: Sequence[int], rng: np.random.Generator, scale: float) -> Float3D:
    """Draw a Gaussian random field.

    Parameters
    ----------
    shape : voxels along each axis.
    rng : source of randomness.
    scale : correlation length in voxels (distance at which the autocorrelation is 1/e), > 0.

    Returns
    -------
    float32 array of ``shape``; its mean is 0 and its standard deviation 1.

    Raises
    ------
    ValueError
        If ``scale`` is not positive.
    """
    if scale <= 0:
        raise ValueError(f"The correlation length must be positive, not {scale}.")
    spacing = max(scale * _KNOTS_PER_LENGTH, 0.5)
    bases = [_bspline_basis(n, spacing, rng.uniform()) for n in shape]
    field = rng.standard_normal([basis.shape[1] for basis in bases], dtype=np.float32)
    for axis, basis in enumerate(bases):
        field = _along(field, basis, axis)
    field = field - field.mean(dtype=np.float64)
    return (field / max(float(field.std(dtype=np.float64)), 1e-6)).astype(np.float32)


def bias_field(
    shape: Sequence[int], rng: np.random.Generator, *, strength: float, scale: float
) -> Float3D:
    """Draw a multiplicative intensity non-uniformity: positive, of mean 1.

    ``strength`` is the standard deviation of the log field (.1 to .4 is usual), ``scale`` its
    correlation length in voxels.
    """
    field = np.exp(strength * smooth_field(shape, rng, scale))
    return (field / field.mean(dtype=np.float64)).astype(np.float32)


def displacement(
    shape: Sequence[int], rng: np.random.Generator, *, amplitude: float, scale: float
) -> NDArray[np.float32]:
    """Draw a smooth displacement (3, \\*shape) in voxels.

    ``amplitude`` is the standard deviation of each component, ``scale`` the correlation length,
    both in voxels. Amplitudes under a fifth of the scale hardly ever fold.
    """
    return np.stack([amplitude * smooth_field(shape, rng, scale) for _ in range(3)])


def warp(
    volume: NDArray[np.generic], displacement: NDArray[np.floating], order: int = 1
) -> Float3D:
    """Pull a volume through a displacement: ``out[x] = volume[x + displacement[:, x]]``.

    ``displacement`` (3, \\*shape) is in voxels; the output has its shape. Outside the volume the
    nearest voxel counts. ``order`` is the spline order (0 for labels).
    """
    axes = np.ogrid[tuple(slice(n) for n in displacement.shape[1:])]
    points = [axis + step for axis, step in zip(axes, displacement, strict=True)]
    return ndimage.map_coordinates(volume, points, output=np.float32, order=order, mode="nearest")


def rician(volume: NDArray[np.floating], rng: np.random.Generator, sigma: float) -> Float3D:
    """Magnitude of the volume with complex Gaussian noise of ``sigma`` (units of the volume)."""
    noise = rng.standard_normal((2, *volume.shape), dtype=np.float32) * np.float32(sigma)
    noise[0] += volume
    return np.sqrt(noise[0] ** 2 + noise[1] ** 2)


def _slice_matrix(length: int, factor: float) -> NDArray[np.float32]:
    """Matrix (length, length): averages over slabs of ``factor`` voxels, then linear back."""
    count = max(int(round(length / factor)), 1)
    edges = np.linspace(0.0, length, count + 1)
    voxels = np.arange(length)
    overlap = np.minimum(edges[1:, None], voxels + 1) - np.maximum(edges[:-1, None], voxels)
    average = np.clip(overlap, 0.0, None)
    average /= average.sum(axis=1, keepdims=True)
    position = np.clip((voxels + 0.5) * count / length - 0.5, 0.0, count - 1.0)
    hat = np.clip(1.0 - np.abs(position[:, None] - np.arange(count)), 0.0, None)
    return (hat @ average).astype(np.float32)


def thick_slices(volume: NDArray[np.floating], axis: int, factor: float) -> Float3D:
    """Blur a volume as if it had slices ``factor`` voxels thick, on the same grid.

    Box average over slabs of ``factor`` voxels (may be fractional) along ``axis``, then linear
    interpolation between the slab centres.

    Raises
    ------
    ValueError
        If ``factor`` is under 1.
    """
    if factor < 1:
        raise ValueError(f"Slices can't be thinner than a voxel (factor {factor}).")
    matrix = _slice_matrix(volume.shape[axis], factor)
    return np.ascontiguousarray(_along(volume.astype(np.float32), matrix, axis))
