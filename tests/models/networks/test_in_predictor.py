"""Our networks, named in plans, are found and run by the predictor: equal to a plain forward."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bids_stroke.core.files import read_json, write_json
from bids_stroke.models import descriptor, predictor
from tests.tiny_model import write_model

PACKAGE = "bids_stroke.models.networks"
PLANAR: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("slices.UNet2d", {"features": [4, 8, 8, 8, 8]}),
    "unetpp": ("slices.UNetPlusPlus2d", {"features": [4, 8, 8, 8, 8]}),
    "resunet": ("slices.ResidualUNet2d", {"features": [4, 8, 8]}),
    "attunet": ("slices.AttentionUNet2d", {"features": [4, 8, 8]}),
    "vnet": ("slices.VNet2d", {}),
    "fcdensenet": ("densenet.FCDenseNet2d", {"layers": [2, 2, 2], "growth": 4, "first": 4}),
}
SOLID: dict[str, tuple[str, dict[str, Any]]] = {
    "tomita": ("tomita.ResidualUNet3d", {"features": [8, 8, 16]}),
    "unet": ("volumes.UNet3d", {"features": [4, 8, 8]}),
    "resunet": ("volumes.ResNetUNet3d", {"decoder_features": [16, 8, 8, 4, 4]}),
}


def model_with(
    folder: Path, name: str, kwargs: dict[str, Any], patch: list[int], **sections: str
) -> predictor.Predictor:
    """A model folder whose plans name one of our networks, loaded by the predictor."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    path = write_model(folder, spacing=1.0, **sections)
    plans = read_json(folder / "tiny" / "plans.json")
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = patch
    architecture = {
        "network_class_name": f"{PACKAGE}.{name}",
        "arch_kwargs": kwargs,
        "_kw_requires_import": [],
    }
    configuration["architecture"] = architecture
    write_json(folder / "tiny" / "plans.json", plans)
    torch.manual_seed(3)
    network = get_network_from_plans(
        architecture["network_class_name"], kwargs, [], 2, 2, deep_supervision=False
    )
    file = folder / "tiny" / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=True)
    torch.save({**checkpoint, "network_weights": network.state_dict()}, file)
    return predictor.load(descriptor.load(path))


def image(*shape: int) -> torch.Tensor:
    return torch.randn((2, *shape), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", PLANAR)
def test_slices_through_the_predictor_are_the_plain_network(tmp_path: Path, kind: str) -> None:
    model = model_with(tmp_path, *PLANAR[kind], patch=[48, 32])
    scan = image(5, 48, 32)
    ours = predictor.logits(model, scan, mirror_axes=(), step_size=0.5)
    with torch.inference_mode():
        plain = torch.stack([model.network(scan[None, :, z])[0] for z in range(5)], dim=1)
    assert ours.shape == (2, 5, 48, 32)
    assert torch.allclose(ours, plain, atol=1e-5)


@pytest.mark.parametrize("kind", SOLID)
def test_volumes_through_the_predictor_are_the_plain_network(tmp_path: Path, kind: str) -> None:
    model = model_with(tmp_path, *SOLID[kind], patch=[32, 32, 32])
    scan = image(32, 32, 32)
    ours = predictor.logits(model, scan, mirror_axes=(), step_size=0.5)
    with torch.inference_mode():
        plain = model.network(scan[None])[0]
    assert torch.allclose(ours, plain, atol=1e-3)


def test_slices_larger_than_the_patch_are_covered_by_windows(tmp_path: Path) -> None:
    model = model_with(tmp_path, *PLANAR["unet"], patch=[32, 32])
    ours = predictor.logits(model, image(3, 50, 41), mirror_axes=(), step_size=0.5)
    assert ours.shape == (2, 3, 50, 41)
    assert (ours[0] < 20).all()  # no voxel is left to the background


def test_slices_can_be_mirrored_from_left_to_right(tmp_path: Path) -> None:
    model = model_with(tmp_path, *PLANAR["unet"], patch=[32, 32])
    scan = image(2, 32, 32)
    ours = predictor.logits(model, scan, mirror_axes=(1,), step_size=0.5)
    flipped = predictor.logits(model, scan.flip(-1), mirror_axes=(1,), step_size=0.5)
    assert torch.allclose(ours, flipped.flip(-1), atol=1e-5)


def test_a_centre_crop_calls_the_rest_negative(tmp_path: Path) -> None:
    name, kwargs = SOLID["tomita"]
    model = model_with(tmp_path, name, kwargs, patch=[16, 16, 16], inference="centre_crop = true")
    scan = image(20, 24, 16)
    ours = predictor.logits(model, scan, mirror_axes=(), step_size=0.5)
    with torch.inference_mode():
        plain = model.network(scan[None, :, 2:18, 4:20])[0]
    assert torch.allclose(ours[:, 2:18, 4:20], plain, atol=1e-5)
    ours = ours.clone()
    ours[:, 2:18, 4:20] = torch.tensor([20.0, 0.0])[:, None, None, None]
    assert ours.softmax(0)[1].max() < 1e-6


def test_a_2d_model_predicts_on_the_grid_of_the_image(tmp_path: Path) -> None:
    model = model_with(tmp_path, *PLANAR["unet"], patch=[32, 32])
    scan = np.zeros((36, 40, 12), np.float32)
    scan[4:-4, 4:-4, 1:-1] = np.random.default_rng(1).normal(size=(28, 32, 10))
    probability = predictor.predict(model, {"T1w": scan, "FLAIR": scan}, (1.2, 0.9, 3.0))
    assert probability.shape == scan.shape
    assert 0 <= probability.min() < probability.max() <= 1
