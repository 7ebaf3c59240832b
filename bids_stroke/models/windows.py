"""Windows that cover an image: where they lie, how they are run in batches, weighted and summed.

Weights as in nnU-Net (Gaussian, sigma an eighth of the window); the sum is in float32.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice, product
from typing import Any

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)

from bids_stroke.models.executors import Executor, run_split

Window = tuple[slice, ...]


@dataclass(frozen=True, kw_only=True)
class Cover:
    """How an image is covered: ``step`` is a share of the patch, ``mirror_axes`` those of the
    patch. With ``centre`` there is only the window in the middle. ``copy`` asks for that one of
    the mirrored copies (axes to flip, ``()`` for the image as it is) instead of all.
    """

    patch: tuple[int, ...]
    step: float
    mirror_axes: tuple[int, ...] = ()
    centre: bool = False
    copy: tuple[int, ...] | None = None

    @property
    def copies(self) -> list[tuple[int, ...]]:
        """Axes to flip for each mirrored copy that is run."""
        return mirrored(self.mirror_axes) if self.copy is None else [self.copy]


def windows(shape: Sequence[int], cover: Cover) -> Iterator[Window]:
    """Windows that cover an image [z, y, x], slice by slice with a 2-D patch."""
    slices = len(shape) - len(cover.patch)
    inner = tuple(shape[slices:])
    if cover.centre:
        starts = [[(n - p) // 2] for n, p in zip(inner, cover.patch, strict=True)]
    else:
        starts = compute_steps_for_sliding_window(inner, cover.patch, cover.step)
    size = (1,) * slices + cover.patch
    for corner in product(*map(range, shape[:slices]), *starts):
        yield tuple(slice(c, c + p) for c, p in zip(corner, size, strict=True))


def mirrored(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All combinations of axes to flip, the empty one first."""
    return list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))


def averaged(
    executor: Executor,
    image: torch.Tensor,
    seen: torch.Tensor,
    cover: Cover,
    finish: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean [class, z, y, x] over windows of what ``finish`` makes of network outputs.

    Windows of the ``image`` [channel, z, y, x] that hold nothing of ``seen`` [z, y, x] are skipped;
    the second result says which voxels no window looked at. Both are on the CPU.
    """
    padded, unpad = pad_nd_image(image, cover.patch, "constant", {"value": 0}, True, None)
    marked = pad_nd_image(seen[None], cover.patch, "constant", {"value": 0}, False, None)[0]
    places = [place for place in windows(marked.shape, cover) if marked[place].any()]
    padded = _uploaded(padded, executor.device)
    total, weights = _sums(executor, padded, places, cover, finish)
    inner = tuple(unpad[1:])
    unseen = (weights == 0)[inner]
    total = total[(slice(None), *inner)]
    total /= weights[inner].clamp(min=torch.finfo(torch.float32).tiny)
    return total.cpu(), unseen.cpu()


def _uploaded(image: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The whole image on the device, once, so that no window waits for a copy."""
    if device.type != "cuda":
        return image.to(device)
    return image.pin_memory().to(device, non_blocking=True)


def _sums(
    executor: Executor,
    image: torch.Tensor,
    places: Sequence[Window],
    cover: Cover,
    finish: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sum of outputs [class, z, y, x] and of the weights [z, y, x].

    nnU-Net's weights fall off from a window's centre; where there is one window, they cancel out.
    """
    alone = torch.ones(cover.patch, device=executor.device)
    weight = _gaussian(cover.patch, executor.device) if len(places) > 1 else alone
    weights = torch.zeros(image.shape[1:], device=executor.device)
    total = torch.zeros((1, *image.shape[1:]), device=executor.device)
    for jobs in _batches(product(places, cover.copies), executor.batch):
        inputs = [_flipped(_flat(image[:, *at], cover.patch), axes) for at, axes in jobs]
        outputs = finish(run_split(executor, torch.stack(inputs)))
        if len(total) != outputs.shape[1]:
            total = total.expand(outputs.shape[1], -1, -1, -1).clone()
        for (at, axes), output in zip(jobs, outputs, strict=True):
            part = total[:, *at]
            part += (_flipped(output, axes) * weight).reshape(part.shape)
            weights[at] += weight.reshape(weights[at].shape)
    return total, weights


def _gaussian(patch: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return compute_gaussian(
        patch, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=device
    )


def _flat(window: torch.Tensor, patch: tuple[int, ...]) -> torch.Tensor:
    """Window [channel, ...] as the network wants it: a 2-D one sees a slice without its z axis."""
    return window.reshape(len(window), *patch)


def _flipped(window: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    return torch.flip(window, [axis + 1 for axis in axes]) if axes else window


def _batches(jobs: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(jobs, size)):
        yield batch
