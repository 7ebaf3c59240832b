"""The network of nnU-Net v1, ``Generic_UNet``, written down plainly as a function of its weights.

It serves to check an import: the converted network must give the same numbers. Convolution,
instance norm, leaky ReLU, twice a stage; strided convolutions down, transposed ones up (Isensee et
al. 2021, doi:10.1038/s41592-020-01008-z).
"""

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

State = Mapping[str, torch.Tensor]
Triple = Sequence[int]

NORM_EPSILON = 1e-5
LEAK = 1e-2


def forward(state: State, image: torch.Tensor, pools: Sequence[Triple]) -> torch.Tensor:
    """Logits [b, class, z, y, x] of a v1 network for an image [b, channel, z, y, x].

    ``state`` has the names of v1; ``pools`` are the strides between stages, highest resolution
    first. The image's sides must be divisible by the product of the strides. Raises KeyError for a
    layer that is not there.
    """
    skips: list[torch.Tensor] = []
    features = image
    strides: list[Triple] = [(1, 1, 1), *pools]
    for stage, stride in enumerate(strides[:-1]):
        features = _stack(state, f"conv_blocks_context.{stage}", features, stride)
        skips.append(features)
    bottom = f"conv_blocks_context.{len(pools)}"
    features = _stack(state, f"{bottom}.0", features, strides[-1])
    features = _stack(state, f"{bottom}.1", features, (1, 1, 1))
    for stage, stride in enumerate(reversed(pools)):
        up = state[f"tu.{stage}.weight"]
        features = functional.conv_transpose3d(features, up, stride=tuple(stride))
        features = torch.cat((features, skips[-(stage + 1)]), dim=1)
        for part in (0, 1):
            name = f"conv_blocks_localization.{stage}.{part}"
            features = _stack(state, name, features, (1, 1, 1))
    head = f"seg_outputs.{len(pools) - 1}"
    return functional.conv3d(features, state[f"{head}.weight"], state.get(f"{head}.bias"))


def _stack(state: State, name: str, features: torch.Tensor, stride: Triple) -> torch.Tensor:
    """All blocks of a stack; the first one takes the stride."""
    count = sum(key.startswith(f"{name}.blocks.") for key in state if key.endswith("conv.weight"))
    for block in range(count):
        step = stride if block == 0 else (1, 1, 1)
        features = _block(state, f"{name}.blocks.{block}", features, step)
    return features


def _block(state: State, name: str, features: torch.Tensor, stride: Triple) -> torch.Tensor:
    weight, bias = state[f"{name}.conv.weight"], state[f"{name}.conv.bias"]
    padding = tuple(1 if side == 3 else 0 for side in weight.shape[2:])
    features = functional.conv3d(features, weight, bias, stride=tuple(stride), padding=padding)
    scale, shift = state[f"{name}.instnorm.weight"], state[f"{name}.instnorm.bias"]
    features = functional.instance_norm(features, weight=scale, bias=shift, eps=NORM_EPSILON)
    return functional.leaky_relu(features, LEAK)
