"""The predictor against nnU-Net's own, and its behaviour at the edges."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bids_stroke.errors import UnusableData
from bids_stroke.models import descriptor, executors, predictor
from bids_stroke.models.channels import with_mirrored
from bids_stroke.models.executors import Executor
from tests.tiny_model import write_model


def head(shape: tuple[int, int, int] = (30, 36, 28), seed: int = 0) -> dict[str, np.ndarray]:
    """Two channels with a brain-like ellipsoid of noise, exactly 0 outside."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.linspace(-1.2, 1.2, n) for n in shape], indexing="ij")
    brain = sum(g**2 for g in grid) < 1
    return {m: np.where(brain, rng.normal(size=shape), 0) for m in ("T1w", "FLAIR")}


def stock(path: Path, channels: dict[str, np.ndarray], spacing: tuple[float, ...], mirror: bool):
    """Probability and segmentation [z, y, x] by nnU-Net's predictor."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    peer = nnUNetPredictor(use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False)
    peer.initialize_from_trained_model_folder(str(path.parent / "tiny"), None)
    stack = np.stack([channels["T1w"], channels["FLAIR"]]).astype(np.float32)
    segmentation, probability = peer.predict_single_npy_array(
        stack.transpose(0, 3, 2, 1), {"spacing": list(spacing)[::-1]}, None, None, True
    )
    return probability[1], segmentation


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("folds", [1, 2])
def test_equals_nnunet(tmp_path: Path, mirror: bool, folds: int) -> None:
    path = write_model(tmp_path, folds=folds)
    channels, spacing = head(), (1.1, 0.9, 1.6)
    model = predictor.load(descriptor.load(path))
    ours = predictor.predict(model, channels, spacing, tta=mirror)
    theirs, segmentation = stock(path, channels, spacing, mirror)
    inside = channels["T1w"] != 0
    # nnU-Net sums in float16: its own error is of this size.
    assert np.abs(ours - theirs.transpose(2, 1, 0))[inside].max() < 0.01
    clear = inside & (np.abs(ours - 0.5) > 0.01)
    assert np.array_equal((ours > 0.5)[clear], segmentation.transpose(2, 1, 0)[clear] == 1)
    assert np.std(ours[inside]) > 0.01


def test_one_window_is_the_plain_network(tmp_path: Path) -> None:
    path = write_model(tmp_path, patch=32, spacing=1.0)
    model = predictor.load(descriptor.load(path))
    image = torch.from_numpy(np.stack(list(head((32, 32, 32)).values()))).float()
    ours = predictor.logits(model, image, mirror_axes=(), step_size=0.5)
    with torch.inference_mode():
        plain = model.network(image[None])[0]
    assert torch.allclose(ours, plain, atol=1e-5)


def test_models_of_v1_average_probabilities(tmp_path: Path) -> None:
    path = write_model(
        tmp_path, folds=2, patch=32, spacing=1.0, inference='resample = "probabilities"'
    )
    model = predictor.load(descriptor.load(path))
    image = torch.from_numpy(np.stack(list(head((32, 32, 32)).values()))).float()
    ours = predictor.logits(model, image, mirror_axes=(2,), step_size=0.5)
    members = []
    with torch.inference_mode():
        for state in model.folds.values():
            model.network.load_state_dict(state)
            members.append(model.network(image[None])[0].softmax(0))
            members.append(model.network(image[None].flip(4))[0].softmax(0).flip(3))
    assert torch.allclose(ours, torch.stack(members).mean(0), atol=1e-6)
    assert torch.allclose(ours.sum(0), torch.ones((32, 32, 32)))
    mean_of_logits = torch.stack([m.log() for m in members]).mean(0).softmax(0)
    assert (ours - mean_of_logits).abs().max() > 1e-4


def test_missing_channel_is_zero(tmp_path: Path) -> None:
    model = predictor.load(descriptor.load(write_model(tmp_path)))
    both = head()
    alone = predictor.predict(model, {"FLAIR": both["FLAIR"]}, (1, 1, 1))
    filled = predictor.predict(model, {**both, "T1w": np.zeros_like(both["T1w"])}, (1, 1, 1))
    assert np.array_equal(alone, filled)
    assert not np.allclose(alone, predictor.predict(model, both, (1, 1, 1)), atol=1e-3)


def test_channels_are_matched_by_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = predictor.load(descriptor.load(write_model(tmp_path / "a")))
    other = predictor.load(descriptor.load(write_model(tmp_path / "b", channels=("FLAIR", "T1w"))))
    images = head()
    swapped = {"T1w": images["FLAIR"], "FLAIR": images["T1w"]}
    assert np.array_equal(
        predictor.predict(one, images, (1, 1, 1)), predictor.predict(other, swapped, (1, 1, 1))
    )


def test_a_mirrored_channel_is_made_where_it_is_not_given(tmp_path: Path) -> None:
    path = write_model(tmp_path, channels=("T1w", "T1w-mirrored"), inputs=(("T1w",),))
    model, spacing = predictor.load(descriptor.load(path)), (5.0, 5.0, 6.0)
    given = {"T1w": head()["T1w"]}
    made = with_mirrored(given, model.descriptor.channels, None, spacing)
    found = predictor.predict(model, given, spacing)
    assert np.array_equal(found, predictor.predict(model, made, spacing))
    without = {**given, "T1w-mirrored": np.zeros_like(given["T1w"])}
    assert np.abs(found - predictor.predict(model, without, spacing)).max() > 1e-3


def test_windows_without_brain_are_background(tmp_path: Path) -> None:
    model = predictor.load(descriptor.load(write_model(tmp_path, patch=16, spacing=1.0)))
    image = torch.zeros((2, 16, 16, 64))
    image[..., :16] = torch.randn((2, 16, 16, 16), generator=torch.Generator().manual_seed(1))
    result = predictor.logits(model, image, mirror_axes=(), step_size=1.0)
    assert result.softmax(0)[1, ..., 16:].max() < 1e-6


def test_refuses_an_empty_brain(tmp_path: Path) -> None:
    model = predictor.load(descriptor.load(write_model(tmp_path)))
    with pytest.raises(UnusableData, match="No brain"):
        predictor.predict(model, {"T1w": np.zeros((20, 20, 20))}, (1, 1, 1))


def test_refuses_a_fold_that_is_not_there(tmp_path: Path) -> None:
    model = descriptor.load(write_model(tmp_path))
    with pytest.raises(UnusableData, match="no fold 3"):
        predictor.load(model, folds=["3"])


@pytest.mark.parametrize(
    "hostile",
    [
        "os.system",
        "torch.nn.modules.module.torch.os.system",
        "torch.nn.Module.__class__",
        "torch.nn.functional.warnings.sys.exit",
        "dynamic_network_architectures.architectures.unet.torch.os.system",
    ],
)
def test_refuses_plans_that_import_something_else(tmp_path: Path, hostile: str) -> None:
    model = descriptor.load(write_model(tmp_path))
    plans = model.model_folder / "plans.json"
    plans.write_text(plans.read_text().replace("torch.nn.LeakyReLU", hostile))
    with pytest.raises(UnusableData, match=re.escape(hostile)):
        predictor.load(model)


def test_loads_once_in_a_process(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    first = predictor.load_cached(path, (), "cpu")
    assert predictor.load_cached(path, (), "cpu") is first
    run = predictor.fold_executor(first, "0")
    assert predictor.fold_executor(first, "0") is run
    assert predictor.load_cached(path, (), "cpu", "bf16") is not first


def test_memory_of_the_windows_goes_back_after_each_fold(tmp_path: Path) -> None:
    model = predictor.load(descriptor.load(write_model(tmp_path, folds=2)))
    released: list[str] = []
    for fold in model.folds:
        run = predictor.fold_executor(model, fold)
        model.executors[fold] = replace(run, release=lambda fold=fold: released.append(fold))
    predictor.predict(model, head(), (1.1, 0.9, 1.6))
    assert released == list(model.folds)


def test_a_changed_model_is_loaded_again(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    first = predictor.load_cached(path, (), "cpu")
    checkpoint = tmp_path / "tiny" / "fold_0" / "checkpoint_final.pth"
    os.utime(checkpoint, ns=(1, 1))
    assert predictor.load_cached(path, (), "cpu") is not first


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("mirror", [False, True])
def test_fast_is_exact(tmp_path: Path, mirror: bool) -> None:
    """OpenVINO's map against torch's, over all the steps."""
    model = descriptor.load(write_model(tmp_path, folds=2))
    channels = head()
    maps = [
        predictor.predict(predictor.load(model, exact=e), channels, (1.1, 0.9, 1.6), tta=mirror)
        for e in (False, True)
    ]
    assert np.abs(maps[0] - maps[1]).max() < 1e-4
    assert maps[0].std() > 0.01


def test_a_gpu_that_is_too_small_hands_over_to_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is needed: the device is a name, and its executor raises what torch raises."""
    loaded = predictor.load(descriptor.load(write_model(tmp_path)))
    expected = predictor.predict(loaded, head(), (1, 1, 1))
    asked = []

    def build(network: torch.nn.Module, shape: tuple[int, ...], **options: Any) -> Executor:
        asked.append(options["device"].type)
        if asked[-1] == "cpu":
            return executors.executor(network, shape, **options)

        def run(windows: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        return Executor(run, "fake", "fp16", torch.device("cpu"), batch=4)

    monkeypatch.setattr(predictor, "executor", build)
    on_gpu = replace(loaded, device=torch.device("cuda"), executors={})
    result = predictor.predict(on_gpu, head(), (1, 1, 1))
    assert asked == ["cuda", "cpu"]
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_batches_of_windows_and_mirrored_copies_change_nothing(tmp_path: Path, batch: int) -> None:
    loaded = predictor.load(descriptor.load(write_model(tmp_path)), exact=True)
    expected = predictor.predict(loaded, head(), (1, 1, 1), tta=True)
    run = predictor.fold_executor(loaded, "0")
    loaded.executors["0"] = replace(run, batch=batch)
    result = predictor.predict(loaded, head(), (1, 1, 1), tta=True)
    assert np.abs(result - expected).max() < 1e-6


def test_whole_heads_are_equal_in_the_brain_with_fewer_windows(tmp_path: Path) -> None:
    path = write_model(tmp_path, patch=16, spacing=1.0)
    loaded = predictor.load(descriptor.load(path))
    rng = np.random.default_rng(0)
    channels = {m: rng.normal(size=(40, 44, 48)).astype(np.float32) for m in ("T1w", "FLAIR")}
    brain = np.zeros((40, 44, 48), dtype=np.uint8)
    brain[4:14, 6:15, 25:40] = 1
    calls = []
    run = predictor.fold_executor(loaded, "0")

    def counted(windows: torch.Tensor) -> torch.Tensor:
        calls.append(len(windows))
        return run.run(windows)

    loaded.executors["0"] = replace(run, run=counted)
    everywhere = predictor.predict(loaded, channels, (1.2, 1, 0.9))
    of_all = len(calls)
    inside = predictor.predict(loaded, channels, (1.2, 1, 0.9), brain=brain)
    assert np.array_equal(inside[brain == 1], everywhere[brain == 1])
    assert len(calls) - of_all < of_all / 2
    assert inside[brain == 0].max() <= everywhere.max()


def test_refuses_a_preprocessor_of_others(tmp_path: Path) -> None:
    model = descriptor.load(write_model(tmp_path))
    plans = model.model_folder / "plans.json"
    plans.write_text(plans.read_text().replace("DefaultPreprocessor", "OtherPreprocessor"))
    with pytest.raises(UnusableData, match="OtherPreprocessor"):
        predictor.load(model)
