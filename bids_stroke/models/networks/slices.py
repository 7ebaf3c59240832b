"""The eight 2-D networks of Mohapatra et al. (2023), from MONAI and segmentation-models-pytorch.

The paper names the families; widths and depths are those of each family's own paper. All start from
random weights: nothing is downloaded. ``FCDenseNet2d`` is in ``densenet``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bids_stroke.models.networks.wrapping import Wrapped, quiet
from bids_stroke.models.torchvision_shim import ensure_torchvision

_WIDTHS = (64, 128, 256, 512, 1024)


class UNet2d(Wrapped):
    """U-Net (Ronneberger et al. 2015) with batch norm: MONAI's BasicUNet."""

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        features: Sequence[int] = _WIDTHS,
        deep_supervision: bool = False,
    ) -> None:
        from monai.networks.nets import BasicUNet

        with quiet():
            net = BasicUNet(
                spatial_dims=2,
                in_channels=input_channels,
                out_channels=num_classes,
                features=(*features, features[0]),
                act="relu",
                norm="batch",
            )
        super().__init__(net, 2 ** (len(features) - 1), deep_supervision)


class UNetPlusPlus2d(Wrapped):
    """U-Net++ (Zhou et al. 2018): MONAI's BasicUNetPlusPlus, its last of four outputs.

    The heads of the other three get no gradient without deep supervision, so they are taken out.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        features: Sequence[int] = (32, 64, 128, 256, 512),
        deep_supervision: bool = False,
    ) -> None:
        from monai.networks.nets import BasicUNetPlusPlus

        with quiet():
            net = BasicUNetPlusPlus(
                spatial_dims=2,
                in_channels=input_channels,
                out_channels=num_classes,
                features=(*features, features[0]),
                act="relu",
                norm="batch",
            )
        for unused in ("final_conv_0_1", "final_conv_0_2", "final_conv_0_3"):
            setattr(net, unused, nn.Identity())
        super().__init__(net, 2 ** (len(features) - 1), deep_supervision)


class ResidualUNet2d(Wrapped):
    """Residual U-Net (Zhang et al. 2018; Kerfoot et al. 2019): MONAI's UNet with residual units."""

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        features: Sequence[int] = _WIDTHS,
        deep_supervision: bool = False,
    ) -> None:
        from monai.networks.nets import UNet

        net = UNet(
            spatial_dims=2,
            in_channels=input_channels,
            out_channels=num_classes,
            channels=features,
            strides=[2] * (len(features) - 1),
            num_res_units=2,
            norm="batch",
        )
        super().__init__(net, 2 ** (len(features) - 1), deep_supervision)


class AttentionUNet2d(Wrapped):
    """Attention U-Net (Oktay et al. 2018): MONAI's AttentionUnet."""

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        features: Sequence[int] = _WIDTHS,
        deep_supervision: bool = False,
    ) -> None:
        from monai.networks.nets import AttentionUnet

        net = AttentionUnet(
            spatial_dims=2,
            in_channels=input_channels,
            out_channels=num_classes,
            channels=features,
            strides=[2] * (len(features) - 1),
        )
        super().__init__(net, 2 ** (len(features) - 1), deep_supervision)


class VNet2d(Wrapped):
    """V-Net (Milletari et al. 2016) with 2-D convolutions: MONAI's VNet."""

    def __init__(
        self, input_channels: int, num_classes: int, deep_supervision: bool = False
    ) -> None:
        from monai.networks.nets import VNet

        net = VNet(
            spatial_dims=2, in_channels=input_channels, out_channels=num_classes, dropout_dim=2
        )
        super().__init__(net, 16, deep_supervision)


class EncoderUNet2d(Wrapped):
    """U-Net over a classification network: segmentation-models-pytorch's Unet.

    ``encoder`` is ``resnet34`` (the paper's ResNet), ``vgg16_bn`` (its VGG U-Net) or another name
    that the library knows.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        encoder: str = "resnet34",
        deep_supervision: bool = False,
    ) -> None:
        ensure_torchvision()
        from segmentation_models_pytorch import Unet

        net = Unet(
            encoder_name=encoder,
            encoder_weights=None,
            in_channels=input_channels,
            classes=num_classes,
        )
        super().__init__(net, 32, deep_supervision)
