"""Resampling as nnU-Net does it, as products with one small matrix an axis, in float32.

nnU-Net's splines are separable, so that an axis is a matrix: the spline of the unit vectors. The
result differs from nnU-Net's, which is in float64, by rounding only, and takes a tenth of the time.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis
from scipy import ndimage

Resample = Callable[[torch.Tensor, Sequence[int], Sequence[float], Sequence[float]], torch.Tensor]

NNUNET = "resample_data_or_seg_to_shape"
"""nnU-Net's name for the function that ``resample`` equals."""
_OPTIONS = {"is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"}


def resampler(table: Mapping[str, Any], which: str, stock: Callable[..., Any]) -> Resample:
    """The fast form of a resampling function of plans, else ``stock``, nnU-Net's own.

    ``table`` is a configuration of the plans and ``which`` is ``data`` or ``probabilities``.
    """
    options = table[f"resampling_fn_{which}_kwargs"]
    known = table[f"resampling_fn_{which}"] == NNUNET and set(options) <= _OPTIONS
    if not known or options.get("is_seg"):
        return lambda *a: torch.as_tensor(np.asarray(stock(*a), dtype=np.float32))
    chosen = {key: value for key, value in options.items() if key != "is_seg"}
    return lambda *a: resample(*a, **chosen)


def is_linear(table: Mapping[str, Any]) -> bool:
    """Whether probabilities are resampled by a linear function, so that classes can be merged."""
    options = table["resampling_fn_probabilities_kwargs"]
    known = table["resampling_fn_probabilities"] == NNUNET
    return known and max(options.get("order", 3), options.get("order_z", 0)) <= 1


def resample(
    data: torch.Tensor,
    shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    *,
    order: int = 3,
    order_z: int = 0,
    force_separate_z: bool | None = False,
    separate_z_anisotropy_threshold: float = 3.0,
) -> torch.Tensor:
    """Bring images [channel, z, y, x] to ``shape`` [z, y, x], as float32.

    Spacings (mm) only decide whether the thick axis is resampled by itself, with ``order_z``.
    Results stay within the range of what was resampled together: a channel, or a slice of it.
    Source: ``resample_data_or_seg_to_shape`` of nnU-Net v2 (Isensee et al. 2021).
    """
    if tuple(data.shape[1:]) == tuple(shape):
        return data
    apart, thick = determine_do_sep_z_and_axis(
        force_separate_z, spacing, new_spacing, separate_z_anisotropy_threshold
    )
    together = [axis for axis in range(3) if not apart or axis != thick]
    data = data.float()
    low, high = (f(data, [a + 1 for a in together]) for f in (torch.amin, torch.amax))
    for axis in sorted(together, key=lambda a: shape[a] / data.shape[a + 1]):  # shrink first
        if data.shape[axis + 1] != shape[axis]:
            data = _along(data, _spline(data.shape[axis + 1], int(shape[axis]), order), axis)
    for axis in sorted(together):
        low, high = low.unsqueeze(axis + 1), high.unsqueeze(axis + 1)
    data = data.clamp(low, high)
    if not apart:
        return data
    return _along(data, _points(data.shape[thick + 1], int(shape[thick]), order_z), thick)


def _along(data: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """Product of a matrix [new, old] with one axis (0, 1, 2) of [channel, z, y, x]."""
    if axis == 2:
        return data @ matrix.T
    if axis == 1:
        return matrix @ data
    channels, z, y, x = data.shape
    return (matrix @ data.reshape(channels, z, y * x)).reshape(channels, -1, y, x)


@lru_cache(maxsize=32)
def _spline(old: int, new: int, order: int) -> torch.Tensor:
    """Matrix [new, old] of scikit-image's ``resize`` with edges repeated."""
    matrix = ndimage.zoom(np.eye(old), (new / old, 1), order=order, mode="nearest", grid_mode=True)
    return torch.from_numpy(matrix.astype(np.float32))


@lru_cache(maxsize=32)
def _points(old: int, new: int, order: int) -> torch.Tensor:
    """Matrix [new, old] of scipy's ``map_coordinates`` at the centres of the new voxels."""
    rows = old / new * (np.arange(new) + 0.5) - 0.5
    places = np.meshgrid(rows, np.arange(old), indexing="ij")
    matrix = ndimage.map_coordinates(np.eye(old), places, order=order, mode="nearest")
    return torch.from_numpy(matrix.astype(np.float32))
