"""What is done to training patches: nnU-Net's transforms with the settings of a recipe.

Transforms are those of batchgeneratorsv2; bias field and motion are TorchIO's. A setting that the
recipe does not give is nnU-Net's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import (
    DownsampleSegForDSTransform,
)
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import (
    Convert2DTo3DTransform,
    Convert3DTo2DTransform,
)
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

from bids_stroke.models.recipe import Augmentation

_MARGIN_SCALE = (
    0.85,
    1.25,
)  # nnU-Net draws patches large enough for this range, whatever it scales


class ChannelDropout(ImageOnlyTransform):
    """Set whole channels to 0 with a probability each; one that has content is always kept."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Channels to clear."""
        image = data_dict["image"]
        filled = [i for i, channel in enumerate(image) if channel.any()]
        cleared = [i for i in filled if torch.rand(1).item() < self.probability]
        if cleared and len(cleared) == len(filled):
            cleared.pop(int(torch.randint(len(cleared), (1,)).item()))
        return {"cleared": cleared}

    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        kept = torch.ones(len(img), *[1] * (img.ndim - 1))
        kept[params["cleared"]] = 0
        return img * kept


class _TorchIO(ImageOnlyTransform):
    """A random transform of TorchIO on an image [c, z, y, x]; 0 stays 0 outside the brain."""

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__()
        self.name, self.settings = name, settings

    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        import torchio

        transform = getattr(torchio, self.name)(**self.settings)
        changed = transform(img if img.ndim == 4 else img[..., None])
        return torch.where(img != 0, changed.reshape(img.shape).to(img.dtype), img)


class BiasField(_TorchIO):
    """Smooth multiplicative field, a polynomial of order 3 with coefficients up to .5 (TorchIO)."""

    def __init__(self) -> None:
        super().__init__("RandomBiasField", coefficients=0.5, order=3)


class Motion(_TorchIO):
    """Motion by up to 10 degrees and 10 voxels at two moments of the acquisition (TorchIO)."""

    def __init__(self) -> None:
        super().__init__("RandomMotion", degrees=10, translation=10, num_transforms=2)


def _or(settings: Augmentation, key: str, default: Any) -> Any:
    """A setting, or nnU-Net's where the recipe leaves it open."""
    value = getattr(settings, key)
    return default if value is None else value


def rotation(settings: Augmentation, default: tuple[float, float]) -> tuple[float, float]:
    """Range of rotations in radians."""
    degrees = settings.rotation_deg
    return default if degrees is None else (-math.radians(degrees), math.radians(degrees))


def mirror_axes(settings: Augmentation, dimensions: int) -> tuple[int, ...]:
    """Axes that are mirrored, counted in the patch: recipes count z, y, x, also for slices."""
    if settings.set == "none":
        return ()
    axes = _or(settings, "mirror_axes", (0, 1, 2)[3 - dimensions :])
    return tuple(axis - (3 - dimensions) for axis in axes if axis >= 3 - dimensions)


def moves(settings: Augmentation) -> bool:
    """Whether patches are rotated, scaled or deformed, so that larger ones must be drawn."""
    if settings.set == "none":
        return False
    shares = (
        _or(settings, "rotation_probability", 0.2),
        _or(settings, "scale_probability", 0.2),
        _or(settings, "elastic_probability", 0.0),
    )
    return max(shares) > 0


def drawn_size(
    settings: Augmentation, patch: Sequence[int], angles: tuple[float, float], in_plane: bool
) -> np.ndarray:
    """Size in voxels of the patch that is drawn, before it is rotated and scaled to ``patch``."""
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size

    if not moves(settings):
        return np.array(patch)
    size = get_patch_size(patch, angles, angles, angles, _MARGIN_SCALE)
    if in_plane:
        size[0] = patch[0]
    return size


def training_transforms(
    settings: Augmentation,
    *,
    patch: Sequence[int],
    angles: tuple[float, float],
    mirrored: Sequence[int],
    in_plane: bool,
    use_mask_for_norm: Sequence[bool],
    deep_supervision_scales: Sequence[Sequence[float]] | None,
) -> ComposeTransforms:
    """Transforms of a training patch.

    ``settings`` is the recipe's table ``augmentation``. ``in_plane``: rotate and scale in the last
    two axes only, as nnU-Net does for thick slices. The order is nnU-Net's.
    """
    transforms: list[BasicTransform] = []
    if settings.set != "none":
        transforms += _spatial(settings, patch, angles, in_plane)
        transforms += _intensity(settings, in_plane)
        transforms += [MirrorTransform(allowed_axes=tuple(mirrored))] if mirrored else []
    if settings.dropout > 0:
        transforms.append(ChannelDropout(settings.dropout))
    if any(use_mask_for_norm):
        masked = [i for i, used in enumerate(use_mask_for_norm) if used]
        transforms.append(MaskImageTransform(masked, channel_idx_in_seg=0, set_outside_to=0))
    transforms.append(RemoveLabelTansform(-1, 0))
    if deep_supervision_scales is not None:
        transforms.append(DownsampleSegForDSTransform(ds_scales=deep_supervision_scales))
    return ComposeTransforms(transforms)


def _spatial(
    settings: Augmentation, patch: Sequence[int], angles: tuple[float, float], in_plane: bool
) -> list[BasicTransform]:
    if not moves(settings):
        return []
    spatial = SpatialTransform(
        tuple(patch[1:] if in_plane else patch),
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=_or(settings, "elastic_probability", 0),
        p_rotation=_or(settings, "rotation_probability", 0.2),
        rotation=angles,
        p_scaling=_or(settings, "scale_probability", 0.2),
        scaling=tuple(_or(settings, "scale", (0.7, 1.4))),
        p_synchronize_scaling_across_axes=1,
        bg_style_seg_sampling=False,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    return [Convert3DTo2DTransform(), spatial, Convert2DTo3DTransform()] if in_plane else [spatial]


def _intensity(settings: Augmentation, in_plane: bool) -> list[BasicTransform]:
    """Changes of intensity, each with its probability; those of probability 0 are left out."""
    separate: dict[str, Any] = {"synchronize_channels": False, "p_per_channel": 1}
    gamma = BGContrast(tuple(_or(settings, "gamma", (0.7, 1.5))))
    plain_gamma = _or(settings, "gamma_probability", 0.3)
    shares = [
        (settings.bias_field_probability, BiasField()),
        (settings.motion_probability, Motion()),
        (
            _or(settings, "noise_probability", 0.1),
            GaussianNoiseTransform((0, 0.1), p_per_channel=1, synchronize_channels=True),
        ),
        (_or(settings, "blur_probability", 0.2), _blur()),
        (
            _or(settings, "brightness_probability", 0.15),
            MultiplicativeBrightnessTransform(BGContrast((0.75, 1.25)), **separate),
        ),
        (
            _or(settings, "contrast_probability", 0.15),
            ContrastTransform(BGContrast((0.75, 1.25)), preserve_range=True, **separate),
        ),
        (_or(settings, "low_resolution_probability", 0.25), _low_resolution(in_plane)),
        # nnU-Net applies the gamma also to the inverted image, a third as often.
        (plain_gamma / 3, GammaTransform(gamma, p_invert_image=1, p_retain_stats=1, **separate)),
        (plain_gamma, GammaTransform(gamma, p_invert_image=0, p_retain_stats=1, **separate)),
    ]
    return [RandomTransform(transform, apply_probability=p) for p, transform in shares if p > 0]


def _blur() -> BasicTransform:
    return GaussianBlurTransform(
        blur_sigma=(0.5, 1.0),
        synchronize_channels=False,
        synchronize_axes=False,
        p_per_channel=0.5,
        benchmark=True,
    )


def _low_resolution(in_plane: bool) -> BasicTransform:
    return SimulateLowResolutionTransform(
        scale=(0.5, 1),
        synchronize_channels=False,
        synchronize_axes=True,
        ignore_axes=(0,) if in_plane else None,
        allowed_channels=None,
        p_per_channel=0.5,
    )
