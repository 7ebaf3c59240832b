"""The 3-D residual U-Net of Tomita et al. (NeuroImage Clin 2020), after their figure 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from bids_stroke.models.networks.wrapping import one_output


class ResidualBlock(nn.Module):
    """ReLU, then twice convolution, GroupNorm and ReLU; the input is added.

    The input is brought to the number of output channels without weights: channels of zeros are put
    before it, or its first ones left out.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.added = outputs - inputs

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features [b, outputs, z, y, x] of [b, inputs, z, y, x]."""
        hidden = self.norm1(self.conv1(functional.relu(image))).relu()
        hidden = self.norm2(self.conv2(hidden)).relu()
        return hidden + functional.pad(image, [0] * 6 + [self.added, 0])


def _blocks(inputs: int, outputs: int, number: int, groups: int) -> nn.Sequential:
    sizes = [inputs] + [outputs] * number
    return nn.Sequential(*(ResidualBlock(sizes[i], sizes[i + 1], groups) for i in range(number)))


def _up(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose3d(inputs, outputs, 2, stride=2), nn.GroupNorm(groups, outputs), nn.ReLU()
    )


class ResidualUNet3d(nn.Module):
    """Residual U-Net with GroupNorm: one block at full size, two on the levels below, four lowest.

    With the published four levels of 32, 64, 128 and 256 features these are 52 layers: 28
    convolutions and 14 sums in 14 residual blocks, 3 poolings, 3 up-convolutions, 3 concatenations
    and the last convolution. The paper does not say how it counts; of the widths 16 to 256 in the
    authors' list their network uses those from 32. Sizes that a pooling rounds down are
    interpolated back (trilinear). The paper's one sigmoid output is here the difference of two
    logits, which is the same function.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        features: Sequence[int] = (32, 64, 128, 256),
        groups: int = 8,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        one_output(deep_supervision, type(self).__name__)
        levels = list(zip([input_channels, *features[:-1]], features, strict=True))
        self.encoder = nn.ModuleList(
            _blocks(low, high, 2 if level else 1, groups)
            for level, (low, high) in enumerate(levels)
        )
        self.bottom = _blocks(features[-1], features[-1], 2, groups)
        self.up = nn.ModuleList(_up(high, low, groups) for low, high in levels[1:])
        self.decoder = nn.ModuleList(
            _blocks(2 * width, width, 2 if level else 1, groups)
            for level, width in enumerate(features[:-1])
        )
        self.head = nn.Conv3d(features[0], num_classes, 1)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """He-normal weights by fan out, as the authors have it."""
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits [b, class, z, y, x] of an image [b, channel, z, y, x]."""
        skips = []
        for level, blocks in enumerate(self.encoder):
            image = blocks(functional.max_pool3d(image, 2) if level else image)
            skips.append(image)
        image = self.bottom(skips.pop())
        for up, blocks in zip(reversed(self.up), reversed(self.decoder), strict=True):
            image = blocks(_joined(up(image), skips.pop()))
        return self.head(image)


def _joined(image: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    if image.shape[2:] != skip.shape[2:]:
        image = functional.interpolate(image, skip.shape[2:], mode="trilinear")
    return torch.cat((image, skip), dim=1)
