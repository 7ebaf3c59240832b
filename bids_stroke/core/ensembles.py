"""Several predictions made into one, and how far they disagree.

Arrays are [x, y, z] on one grid; ``members`` are probabilities in [0, 1], ``masks`` are boolean.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SEEN_SHARE = 0.1
"""A member sees a lesion when it marks this share of the lesion's voxels, as in lesion-wise F1."""

Array = NDArray[np.generic]
Mask = NDArray[np.bool_]


def weighted_mean(
    probabilities: Sequence[NDArray[np.floating]], weights: Sequence[float] | None = None
) -> NDArray[np.float32]:
    """Mean of probability maps; ``weights`` (default: equal) count relative to their sum.

    Raises ValueError for no map, maps of different shapes, a wrong number of weights, a negative
    one, or weights that are all 0. Source: Meddahi et al. 2024.
    """
    _check_shapes(probabilities)
    given = [1.0] * len(probabilities) if weights is None else [float(w) for w in weights]
    if len(given) != len(probabilities):
        raise ValueError(f"{len(probabilities)} maps need as many weights, not {len(given)}.")
    if not np.isfinite(given).all() or min(given) < 0 or sum(given) == 0:
        raise ValueError("Weights must not be negative, and not all 0.")
    total = np.zeros(probabilities[0].shape, dtype=np.float64)
    for probability, weight in zip(probabilities, given, strict=True):
        total += weight / sum(given) * probability
    return np.clip(total, 0, 1).astype(np.float32)


def stack(masks: Sequence[Array]) -> Mask:
    """Voxels that every mask holds (Mohapatra et al. 2023, "stacking").

    Raises ValueError for no mask or masks of different shapes.
    """
    _check_shapes(masks)
    return np.logical_and.reduce([mask != 0 for mask in masks])


def union(masks: Sequence[Array]) -> Mask:
    """Voxels that any mask holds; raises ValueError as ``stack`` does."""
    _check_shapes(masks)
    return np.logical_or.reduce([mask != 0 for mask in masks])


def agreement_window(masks: Sequence[Array], window: int, share: float, stride: int = 1) -> Mask:
    """Union of the masks where they agree, empty elsewhere (Mohapatra et al. 2023).

    A cube of ``window`` voxels is moved by ``stride`` voxels along each axis from the first voxel,
    the last cube of an axis lying flush with its end. In each cube the agreement is the number of
    voxels in all masks over the number of voxels in any mask (the denominator is ours: the paper
    states none). A voxel of the union is kept when it lies in at least one cube whose agreement is
    greater than ``share``. The paper "convolves" the window, hence the stride of 1; a stride of
    ``window`` tiles the volume. A cube is cut to an axis that is shorter.

    Raises ValueError unless 1 <= stride <= window and 0 <= share < 1, and as ``stack`` does.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"The stride must lie between 1 and the window ({window}), not {stride}.")
    if not 0 <= share < 1:
        raise ValueError(f"The share must lie in [0, 1), not {share}.")
    common, either = stack(masks), union(masks)
    starts = [_starts(size, window, stride) for size in common.shape]
    agreed, predicted = (_window_sums(m, starts, window) for m in (common, either))
    return either & _covered(agreed > share * predicted, starts, common.shape, window)


def _check_shapes(arrays: Sequence[Array]) -> None:
    if len({array.shape for array in arrays}) != 1:
        raise ValueError("An ensemble needs one or more arrays, all of one shape.")


def _starts(size: int, window: int, stride: int) -> NDArray[np.intp]:
    last = max(size - window, 0)
    return np.unique(np.r_[np.arange(0, last + 1, stride), last])


def _window_sums(mask: Mask, starts: Sequence[NDArray[np.intp]], window: int) -> NDArray[np.int32]:
    """Number of voxels of a mask in each cube, indexed by the cube's place along each axis."""
    sums = mask.astype(np.int32)
    for axis, first in enumerate(starts):
        size = sums.shape[axis]
        before = [(1, 0) if a == axis else (0, 0) for a in range(sums.ndim)]
        running = np.pad(np.cumsum(sums, axis=axis, dtype=np.int32), before)
        stop = np.minimum(first + window, size)
        sums = np.take(running, stop, axis) - np.take(running, first, axis)
    return sums


def _covered(
    passed: Mask, starts: Sequence[NDArray[np.intp]], shape: tuple[int, ...], window: int
) -> Mask:
    """Voxels that lie in a cube that has passed."""
    for axis, (first, size) in enumerate(zip(starts, shape, strict=True)):
        by_axis = np.moveaxis(passed, axis, 0)
        grown = np.zeros((size, *by_axis.shape[1:]), dtype=bool)
        for offset in range(min(window, size)):
            grown[first + offset] |= by_axis
        passed = np.moveaxis(grown, 0, axis)
    return passed


def disagreement(members: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Standard deviation of the probability over members (population: divided by their number).

    From 0, all agree, to .5, half say 0 and half 1. Raises ValueError for fewer than two members.
    """
    _check_shapes(members)
    if len(members) < 2:
        raise ValueError("Disagreement needs two members or more.")
    mean = np.zeros(members[0].shape, dtype=np.float64)
    squares = np.zeros_like(mean)
    for number, member in enumerate(members, start=1):
        step = member - mean
        mean += step / number
        squares += step * (member - mean)
    return np.sqrt(squares / len(members)).astype(np.float32)


def members_share(
    labels: NDArray[np.integer], masks: Sequence[Array], seen_share: float = SEEN_SHARE
) -> NDArray[np.float64]:
    """Share of the members that see each lesion 1..n of ``labels``, in order.

    A member sees a lesion when its own mask holds at least ``seen_share`` of the lesion's voxels.
    """
    count = int(labels.max(initial=0))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    marked = [np.bincount(labels[mask != 0], minlength=count + 1)[1:] for mask in masks]
    return np.mean([found >= seen_share * sizes for found in marked], axis=0)


def lesion_means(labels: NDArray[np.integer], values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean of ``values`` over each lesion 1..n of ``labels``, in order."""
    count = int(labels.max(initial=0))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    sums = np.bincount(labels.ravel(), weights=values.ravel(), minlength=count + 1)[1:]
    return sums / np.maximum(sizes, 1)
