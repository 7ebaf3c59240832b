"""FC-DenseNet (Jegou et al., CVPR workshops 2017), which the libraries at hand do not have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from typing import cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bids_stroke.models.networks.wrapping import one_output, padded


def _layer(inputs: int, growth: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, growth, 3, padding=1),
        nn.Dropout2d(dropout),
    )


@torch.compiler.disable  # the compiler does not take the context of the second pass
def _lean(layer: nn.Sequential, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """A layer on joined maps, which are joined anew for the gradient and not kept.

    Kept, the maps of a block grow with the square of its layers (Pleiss et al. 2017,
    arXiv:1707.06990).
    """
    return checkpoint(
        lambda *maps: layer(torch.cat(maps, dim=1)),
        *parts,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _seen_before(cast(nn.BatchNorm2d, layer[0]))),
    )


@contextmanager
def _seen_before(norm: nn.BatchNorm2d) -> Iterator[None]:
    """The second pass of a batch does not move the running statistics of a norm once more."""
    momentum, norm.momentum = norm.momentum, 0.0
    try:
        yield
    finally:
        norm.momentum = momentum


class DenseBlock(nn.Module):
    """Each layer sees the input and what all layers before it gave; ``new`` is what they give."""

    def __init__(self, inputs: int, layers: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _layer(inputs + i * growth, growth, dropout) for i in range(layers)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """New features [b, layers * growth, y, x] of [b, inputs, y, x]."""
        learns = self.training and torch.is_grad_enabled()
        new: list[torch.Tensor] = []
        for layer in self.layers:
            parts = [image, *new]
            new.append(_lean(layer, parts) if learns else layer(torch.cat(parts, dim=1)))
        return torch.cat(new, dim=1)


def _down(channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1),
        nn.Dropout2d(dropout),
        nn.MaxPool2d(2),
    )


class FCDenseNet2d(nn.Module):
    """Fully convolutional DenseNet: dense blocks on the way down, at the bottom and on the way up.

    ``layers`` are those of the blocks down and at the bottom; the way up mirrors them. Defaults are
    the FC-DenseNet103 of its paper, with 9.4 million parameters (its table 1). Up-convolutions
    double the size of the block's new features only. Sizes are padded to a multiple of
    2 ** (len(layers) - 1).
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        layers: Sequence[int] = (4, 5, 7, 10, 12, 15),
        growth: int = 16,
        first: int = 48,
        dropout: float = 0.2,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        one_output(deep_supervision, type(self).__name__)
        self.multiple = 2 ** (len(layers) - 1)
        new = [number * growth for number in layers]
        widths = list(accumulate(new, initial=first))
        self.first = nn.Conv2d(input_channels, first, 3, padding=1)
        self.down = nn.ModuleList(
            DenseBlock(width, number, growth, dropout)
            for width, number in zip(widths, layers, strict=False)
        )
        self.pool = nn.ModuleList(_down(width, dropout) for width in widths[1:-1])
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1)
            for width in new[:0:-1]
        )
        joined = [low + high for low, high in zip(widths[-2:0:-1], new[:0:-1], strict=True)]
        self.up = nn.ModuleList(
            DenseBlock(width, number, growth, dropout)
            for width, number in zip(joined, layers[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(joined[-1] + new[0], num_classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits [b, class, y, x] of an image [b, channel, y, x]."""
        height, width = image.shape[2:]
        image = self.first(padded(image, (height, width), self.multiple))
        skips = []
        for block, pool in zip(self.down, self.pool, strict=False):
            image = torch.cat([image, block(image)], dim=1)
            skips.append(image)
            image = pool(image)
        new = self.down[-1](image)
        for grow, block in zip(self.grow, self.up, strict=True):
            image = torch.cat([grow(new), skips.pop()], dim=1)
            new = block(image)
        return self.head(torch.cat([image, new], dim=1))[..., :height, :width]
