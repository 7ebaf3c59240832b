"""N4 bias field correction (Tustison et al. 2010) by separable matrix products."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK
from numpy.fft import fft, ifft
from threadpoolctl import threadpool_limits

from bids_stroke.core.geometry import Box, bounding_box
from bids_stroke.core.warps import place_in_space

BINS = 200
FWHM = 0.15
"""Width of the Gaussian by which a bias field is taken to blur the histogram of the logarithm."""
NOISE = 0.01
ORDER = 3
_PADDED = 512  # the bins with zeros around them, for the transform
_FIRST = (_PADDED - BINS) // 2

Axes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""An array for each of x, y, z."""


@dataclass(frozen=True, eq=False)
class _Level:
    """B-splines of one level: on the voxels of the box, and on the image's full grid."""

    coarse: Axes
    full: Axes


def n4(
    image: np.ndarray,
    mask: np.ndarray,
    affine: np.ndarray,
    *,
    shrink: int = 4,
    levels: int = 4,
    iterations: int = 50,
    tolerance: float = 1e-7,
) -> np.ndarray:
    """``image`` [x, y, z] divided by its bias field, as float32, outside the mask as well.

    The field is found where ``mask`` is not 0 and the image is above 0, on every ``shrink``-th
    voxel of an axis; each of ``levels`` has B-splines on twice the mesh of the one before, from one
    span an axis, and at most ``iterations``. It is the algorithm of ``N4BiasFieldCorrection`` in
    ANTs with its defaults, and agrees with it to its float32, where all of the mask is above 0 (ITK
    takes the logarithm of other values to be the value). On a grid, fit and evaluation of tensor
    products of splines are three matrix products each. The affine (RAS+ mm) only tells which voxels
    ITK would keep.
    """
    image = np.asarray(image, dtype=np.float32)
    taken = kept_by_itk(image.shape, affine, shrink)
    coarse = image[np.ix_(*taken)]
    inside = (np.asarray(mask)[np.ix_(*taken)] != 0) & (coarse > 0)
    if not inside.any():
        return image.copy()
    box = bounding_box(inside)
    inside = inside[box]
    logarithm = np.log(coarse[box][inside].astype(np.float64))
    meshes = [_level(image.shape, taken, box, 2**n) for n in range(levels)]
    with threadpool_limits(1, user_api="blas"):  # equal bytes, whatever the number of threads
        field = _field(logarithm, inside, meshes, iterations, tolerance)
    return np.asarray(image / np.exp(field))


def _field(
    logarithm: np.ndarray,
    inside: np.ndarray,
    levels: Sequence[_Level],
    iterations: int,
    tolerance: float,
) -> np.ndarray:
    """Logarithm of the bias field on the full grid, from that of the image inside the mask."""
    found = np.zeros_like(logarithm)
    total = np.zeros([len(matrix) for matrix in levels[0].full], dtype=np.float32)
    for level in levels:
        fit = _fit(level.coarse, inside)
        points = np.zeros([matrix.shape[1] for matrix in level.coarse])
        for _ in range(iterations):
            corrected = logarithm - found
            added = fit(corrected - sharpened(corrected))
            points += added
            step = _products(level.coarse, added)[inside]
            found += step
            if _variation(step) <= tolerance:
                break
        total += _products(level.full, points)
    return total


def kept_by_itk(shape: tuple[int, ...], affine: np.ndarray, shrink: int) -> Axes:
    """Indices along each axis of the voxels that ITK's ``ShrinkImageFilter`` keeps.

    It starts at the voxel nearest to the first point of the smaller grid. With an even factor that
    point lies in the middle of two voxels, where on oblique grids the rounding of ITK's own
    arithmetic decides: so it is ITK that is asked.
    """
    grid = SimpleITK.Image([int(size) for size in shape], SimpleITK.sitkUInt8)
    place_in_space(grid, affine)
    smaller = SimpleITK.Shrink(grid, [shrink] * 3)
    first = np.maximum(grid.TransformPhysicalPointToIndex(smaller.GetOrigin()), 0)
    counted = zip(first, smaller.GetSize(), strict=True)
    x, y, z = (start + shrink * np.arange(count) for start, count in counted)
    return x, y, z


def _level(shape: tuple[int, ...], taken: Sequence[np.ndarray], box: Box, spans: int) -> _Level:
    coarse = [splines(len(t), spans)[side] for t, side in zip(taken, box, strict=True)]
    full = [splines(size, spans).astype(np.float32) for size in shape]
    return _Level((coarse[0], coarse[1], coarse[2]), (full[0], full[1], full[2]))


def splines(size: int, spans: int) -> np.ndarray:
    """Uniform cubic B-splines at ``size`` even points over ``spans`` spans, [point, spline]."""
    place = np.linspace(0, spans, size) if size > 1 else np.zeros(1)
    span = np.minimum(place.astype(int), spans - 1)
    t = place - span
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * (t + t**2 - t**3), t**3)
    matrix = np.zeros((size, spans + ORDER))
    for offset, weight in enumerate(weights):
        matrix[np.arange(size), span + offset] = weight / 6
    return matrix


def _products(matrices: Axes, values: np.ndarray) -> np.ndarray:
    """Apply one matrix to each axis."""
    for axis, matrix in enumerate(matrices):
        values = np.moveaxis(np.tensordot(matrix, values.astype(matrix.dtype), (1, axis)), 0, axis)
    return values


def _fit(matrices: Axes, inside: np.ndarray) -> "_Fit":
    squares = [m**2 for m in matrices]
    cubes = [m**3 / s.sum(1, keepdims=True) for m, s in zip(matrices, squares, strict=True)]
    weight = _products((squares[0].T, squares[1].T, squares[2].T), inside.astype(float))
    return _Fit((cubes[0].T, cubes[1].T, cubes[2].T), weight, inside)


@dataclass(frozen=True, eq=False)
class _Fit:
    """Approximation of scattered values by B-splines (Lee et al. 1997), for values on a grid."""

    cubes: Axes
    weight: np.ndarray
    inside: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Control points for the values inside the mask."""
        grid = np.zeros(self.inside.shape)
        grid[self.inside] = values
        seen = self.weight > 0
        return np.where(seen, _products(self.cubes, grid) / np.where(seen, self.weight, 1), 0)


def _variation(step: np.ndarray) -> float:
    """Coefficient of variation of the change of the field."""
    change = np.exp(step)
    return float(change.std(ddof=1) / change.mean()) if change.size > 1 else 0.0


def sharpened(values: np.ndarray) -> np.ndarray:
    """Values as they would be with a sharper histogram: its Gaussian blur is deconvolved."""
    low, high = values.min(), values.max()
    if low == high:
        return values
    width = (high - low) / (BINS - 1)
    place = (values - low) / width
    index = np.minimum(place.astype(int), BINS - 1)
    share = place - index
    counts = np.bincount(index, 1 - share, BINS + 1) + np.bincount(index + 1, share, BINS + 1)
    expected = _expectation(counts[:BINS], low, width)
    return np.interp(place, np.arange(BINS), expected)


def _expectation(counts: np.ndarray, low: float, width: float) -> np.ndarray:
    """Expected true value for each bin of a blurred histogram (Sled et al. 1998)."""
    padded = np.zeros(_PADDED)
    padded[_FIRST : _FIRST + BINS] = counts
    blur = fft(_gaussian(FWHM / width))
    wiener = np.conj(blur) / (np.conj(blur) * blur + NOISE)
    sharp = np.maximum(ifft(fft(padded) * wiener.real).real, 0)
    centres = low + (np.arange(_PADDED) - _FIRST) * width
    above = ifft(fft(centres * sharp) * blur).real
    below = ifft(fft(sharp) * blur).real
    expected = np.where(below != 0, above / np.where(below != 0, below, 1), 0)
    return np.asarray(expected[_FIRST : _FIRST + BINS])


def _gaussian(fwhm: float) -> np.ndarray:
    """A Gaussian around bin 0, whose ends meet, of the width ``fwhm`` in bins."""
    distance = np.minimum(np.arange(_PADDED), _PADDED - np.arange(_PADDED))
    height = 2 * np.sqrt(np.log(2) / np.pi) / fwhm
    return np.asarray(height * np.exp(-4 * np.log(2) * (distance / fwhm) ** 2))
