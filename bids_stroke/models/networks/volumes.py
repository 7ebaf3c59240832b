"""The 3-D networks of Lhermitte et al. (ISBI 2024): MONAI's U-Net, and one over Med3D's ResNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from bids_stroke.errors import UnusableData
from bids_stroke.models.networks.wrapping import Wrapped
from bids_stroke.models.weights import load_checkpoint


class UNet3d(Wrapped):
    """3-D U-Net with as many levels as ``features``: MONAI's UNet.

    The paper says five levels and no more; widths and two residual units a level are those of
    MONAI's own tutorial for it.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        features: Sequence[int] = (16, 32, 64, 128, 256),
        residual_units: int = 2,
        deep_supervision: bool = False,
    ) -> None:
        from monai.networks.nets import UNet

        net = UNet(
            spatial_dims=3,
            in_channels=input_channels,
            out_channels=num_classes,
            channels=features,
            strides=[2] * (len(features) - 1),
            num_res_units=residual_units,
        )
        super().__init__(net, 2 ** (len(features) - 1), deep_supervision)


class ResNetUNet3d(Wrapped):
    """U-Net over a 3-D ResNet whose layers are those of Med3D: MONAI's FlexibleUNet."""

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        encoder: str = "resnet10",
        decoder_features: Sequence[int] = (256, 128, 64, 32, 16),
        deep_supervision: bool = False,
    ) -> None:
        from monai.networks.nets import FlexibleUNet

        net = FlexibleUNet(
            in_channels=input_channels,
            out_channels=num_classes,
            backbone=encoder,
            decoder_channels=tuple(decoder_features),
            spatial_dims=3,
        )
        super().__init__(net, 32, deep_supervision)

    def load_encoder(self, file: Path) -> tuple[str, ...]:
        """Copy the weights of Med3D (Chen et al. 2019) into the encoder; returns what was left out.

        ``file`` is ``resnet_10_23dataset.pth`` or another of that project; it is read as plain
        tensors. Its first convolution sees one channel: it is repeated over the channels and
        divided by their number. Its own head (``conv_seg``, ``fc``) is left out. Raises
        UnusableData when a layer of the encoder is missing or of another shape.
        """
        state = load_checkpoint(file, key="state_dict")["state_dict"]
        given = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        encoder = self.net.get_submodule("encoder")
        counter = "num_batches_tracked"  # files of old versions of PyTorch may lack it
        wanted = {n: t for n, t in encoder.state_dict().items() if not n.endswith(counter)}
        given["conv1.weight"] = _channels(given.get("conv1.weight"), wanted["conv1.weight"])
        wrong = [n for n, t in wanted.items() if n not in given or given[n].shape != t.shape]
        if wrong:
            raise UnusableData(
                f"{file} does not hold this ResNet: {', '.join(wrong[:5])} differ or are missing."
            )
        encoder.load_state_dict({name: given[name] for name in wanted}, strict=False)
        return tuple(sorted(n for n in set(given) - set(wanted) if not n.endswith(counter)))


def _channels(given: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor:
    """First convolution for ``wanted``'s channels from that of one channel; else as it is."""
    if given is None or given.ndim != wanted.ndim or given.shape[1] != 1:
        return wanted.new_empty(0) if given is None else given
    channels = wanted.shape[1]
    return given.repeat(1, channels, *[1] * (given.ndim - 2)) / channels


def find_encoder(network: nn.Module) -> ResNetUNet3d:
    """The network whose encoder takes Med3D's weights, out of what wraps it; UnusableData else."""
    for module in network.modules():
        if isinstance(module, ResNetUNet3d):
            return module
    raise UnusableData("encoder_weights is for the network ResNetUNet3d: leave it out.")
