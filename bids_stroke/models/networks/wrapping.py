"""What a network of another library needs to be called as nnU-Net calls one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import torch
from torch import nn

from bids_stroke.errors import UsageError


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what a library prints while it builds a network off the screen."""
    with redirect_stdout(StringIO()):
        yield


def one_output(deep_supervision: bool, network: str) -> None:
    """Refuse deep supervision for a network that has one output."""
    if deep_supervision:
        raise UsageError(f"{network} has one output: set deep_supervision = false in the recipe.")


class Wrapped(nn.Module):
    """A network ``net`` with one output, at the size of its input.

    Sizes that are no multiple of ``multiple`` are padded with 0 at the end and the logits cut back.
    """

    def __init__(self, net: nn.Module, multiple: int, deep_supervision: bool) -> None:
        super().__init__()
        one_output(deep_supervision, type(self).__name__)
        self.net = net
        self.multiple = multiple

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits [batch, class, ...] of an image [batch, channel, ...]."""
        size = image.shape[2:]
        output = self.net(padded(image, size, self.multiple))
        if isinstance(output, list):
            output = output[-1]
        return output[(..., *(slice(n) for n in size))]


def padded(image: torch.Tensor, size: Sequence[int], multiple: int) -> torch.Tensor:
    """Image with 0 added at the end of its spatial axes, up to the next multiple."""
    missing = [-n % multiple for n in size]
    if not any(missing):
        return image
    widths = [w for n in reversed(missing) for w in (0, n)]
    return nn.functional.pad(image, widths)
