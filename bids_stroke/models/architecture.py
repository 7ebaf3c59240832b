"""The section ``architecture`` of nnU-Net v2 plans, for the one network that we write ourselves."""

from collections.abc import Sequence
from typing import Any

Triple = Sequence[int]


def plain_conv_unet(
    *,
    features: Sequence[int],
    kernels: Sequence[Triple],
    strides: Sequence[Triple],
    encoder_convs: Sequence[int],
    decoder_convs: Sequence[int],
) -> dict[str, Any]:
    """A 3-D PlainConvUNet with InstanceNorm and LeakyReLU, as nnU-Net's planner writes it.

    ``features``, ``kernels``, ``strides`` and ``encoder_convs`` have one entry a stage, the first
    stride being 1; ``decoder_convs`` has one fewer. Axes are in the network's order.
    """
    kwargs = {
        "n_stages": len(features),
        "features_per_stage": list(features),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [list(kernel) for kernel in kernels],
        "strides": [list(stride) for stride in strides],
        "n_conv_per_stage": list(encoder_convs),
        "n_conv_per_stage_decoder": list(decoder_convs),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
