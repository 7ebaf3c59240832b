"""The transforms: nnU-Net's own unless the recipe says otherwise, and ours."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from bids_stroke.models.augmentation import (
    BiasField,
    ChannelDropout,
    Motion,
    drawn_size,
    mirror_axes,
    rotation,
    training_transforms,
)
from bids_stroke.models.recipe import Augmentation

ANGLES = (-math.pi / 6, math.pi / 6)


def transforms(settings: Augmentation, **changed: Any) -> Any:
    given = {
        "patch": (16, 16, 16),
        "angles": ANGLES,
        "mirrored": (0, 1, 2),
        "in_plane": False,
        "use_mask_for_norm": [True, True],
        "deep_supervision_scales": None,
    }
    return training_transforms(settings, **{**given, **changed})


def described(composed: Any) -> list[tuple[str, str, float]]:
    """Kind, settings and probability of each transform."""
    found = []
    for transform in composed.transforms:
        inner = getattr(transform, "transform", transform)
        share = getattr(transform, "apply_probability", 1.0)
        plain = {k: v for k, v in vars(inner).items() if isinstance(v, int | float | tuple | bool)}
        found.append((type(inner).__name__, str(sorted(plain.items())), share))
    return found


@pytest.mark.parametrize("in_plane", [False, True])
@pytest.mark.parametrize("scales", [None, [[1, 1, 1], [0.5, 0.5, 0.5]]])
def test_without_settings_they_are_nnunets(in_plane: bool, scales: Any) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    theirs = nnUNetTrainer.get_training_transforms(
        (16, 16, 16), ANGLES, scales, (0, 1, 2), in_plane, use_mask_for_norm=[True, True]
    )
    ours = transforms(Augmentation(), in_plane=in_plane, deep_supervision_scales=scales)
    assert [row[:2] for row in described(ours)] == [row[:2] for row in described(theirs)]
    shares = [[row[2] for row in described(rows)] for rows in (ours, theirs)]
    assert shares[0] == pytest.approx(shares[1])


def test_settings_of_the_recipe_reach_the_transforms() -> None:
    settings = Augmentation(
        scale=(0.85, 1.25),
        scale_probability=0.4,
        rotation_probability=0.3,
        elastic_probability=0.1,
        gamma=(0.8, 1.2),
        gamma_probability=0.6,
        noise_probability=0.0,
        blur_probability=0.0,
        low_resolution_probability=0.0,
        dropout=0.5,
    )
    found = transforms(settings, mirrored=(2,)).transforms
    spatial = found[0]
    assert (spatial.p_scaling, spatial.scaling) == (0.4, (0.85, 1.25))
    assert (spatial.p_rotation, spatial.p_elastic_deform) == (0.3, 0.1)
    names = [row[0] for row in described(transforms(settings))]
    assert "GaussianNoiseTransform" not in names
    assert "GaussianBlurTransform" not in names
    assert "SimulateLowResolutionTransform" not in names
    assert "ChannelDropout" in names
    shares = [row[2] for row in described(transforms(settings)) if row[0] == "GammaTransform"]
    assert shares == pytest.approx([0.2, 0.6])
    mirror = next(t for t in found if type(t).__name__ == "MirrorTransform")
    assert mirror.allowed_axes == (2,)


def test_no_augmentation_changes_nothing_in_the_brain() -> None:
    image = torch.randn(2, 16, 16, 16)
    label = torch.randint(0, 2, (1, 16, 16, 16)).to(torch.int16)
    settings = Augmentation(set="none")
    result = transforms(settings, mirrored=())(image=image.clone(), segmentation=label.clone())
    assert torch.equal(result["image"], image)
    assert torch.equal(result["segmentation"], label)


@pytest.mark.parametrize(
    ("settings", "dimensions", "expected"),
    [
        (Augmentation(), 3, (0, 1, 2)),
        (Augmentation(), 2, (0, 1)),
        (Augmentation(mirror_axes=(2,)), 3, (2,)),
        (Augmentation(mirror_axes=(2,)), 2, (1,)),
        (Augmentation(mirror_axes=(0,)), 2, ()),
        (Augmentation(mirror_axes=()), 3, ()),
        (Augmentation(set="none"), 3, ()),
    ],
)
def test_axes_are_counted_as_z_y_x(
    settings: Augmentation, dimensions: int, expected: tuple[int, ...]
) -> None:
    assert mirror_axes(settings, dimensions) == expected


def test_the_range_of_rotations_is_given_in_degrees() -> None:
    assert rotation(Augmentation(rotation_deg=15.0), ANGLES) == pytest.approx(
        (-math.pi / 12, math.pi / 12)
    )
    assert rotation(Augmentation(), ANGLES) == ANGLES


def test_larger_patches_are_drawn_where_they_are_moved() -> None:
    moved = drawn_size(Augmentation(), (16, 16, 16), ANGLES, in_plane=False)
    assert (moved > 16).all()
    assert drawn_size(Augmentation(), (16, 16, 16), ANGLES, in_plane=True)[0] == 16
    still = Augmentation(rotation_probability=0.0, scale_probability=0.0)
    assert drawn_size(still, (16, 16, 16), ANGLES, in_plane=False).tolist() == [16, 16, 16]


def test_channels_are_dropped_and_one_with_content_is_kept() -> None:
    torch.manual_seed(0)
    dropout = ChannelDropout(0.9)
    image = torch.ones(2, 4, 4, 4)
    kept = [dropout(image=image)["image"].flatten(1).any(1) for _ in range(200)]
    assert all(row.any() for row in kept)
    assert sum(int(row.sum()) == 1 for row in kept) > 150
    assert image.all()  # the given image is left as it is
    alone = torch.stack([torch.ones(4, 4, 4), torch.zeros(4, 4, 4)])
    assert all(dropout(image=alone)["image"][0].all() for _ in range(50))


@pytest.mark.parametrize("artefact", [BiasField(), Motion()])
@pytest.mark.parametrize("shape", [(2, 12, 12, 12), (1, 16, 16)])
def test_artefacts_change_the_brain_and_leave_the_outside_at_0(
    artefact: Any, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    image = torch.rand(shape) + 1
    image[..., :4] = 0
    before = image.clone()
    after = artefact(image=image)["image"]
    assert after.shape == shape
    assert after.dtype == torch.float32
    assert not after[..., :4].any()
    assert not torch.allclose(after[..., 4:], before[..., 4:], atol=1e-3)


def test_a_bias_field_is_smooth_and_multiplies() -> None:
    torch.manual_seed(2)
    image = torch.ones(1, 24, 24, 24)
    field = BiasField()(image=image)["image"][0].numpy()
    assert (field > 0).all()
    assert np.abs(np.diff(field, axis=0)).max() < 0.5 * np.ptp(field)
