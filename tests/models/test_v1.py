"""Import of nnU-Net v1: against the original classes, and what is refused."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bids_stroke.core.files import read_json
from bids_stroke.errors import InputMissing, UnusableData
from bids_stroke.models import v1
from bids_stroke.models.v1_network import forward
from tests import v1_model

MMSTROKENET = (32, 64, 128, 256, 320, 320)


def convert(folder: Path, target: Path, channels: tuple[str, ...] = ("T1w",), **more: Any) -> Any:
    return v1.convert(folder, target, channels, **more)


def original(channels: int, features: int, pools: int) -> torch.nn.Module:
    """The network as nnU-Net 1.7.1 makes it, with seeded random weights, the biases included."""
    pytest.importorskip("nnunet", reason="pip install --no-deps nnunet==1.7.1")
    from nnunet.network_architecture.generic_UNet import Generic_UNet
    from nnunet.network_architecture.initialization import InitWeights_He
    from torch import nn

    torch.manual_seed(7)
    network = Generic_UNet(
        channels,
        features,
        2,
        pools,
        2,
        2,
        nn.Conv3d,
        nn.InstanceNorm3d,
        {"eps": 1e-5, "affine": True},
        nn.Dropout3d,
        {"p": 0, "inplace": True},
        nn.LeakyReLU,
        {"negative_slope": 1e-2, "inplace": True},
        True,
        False,
        lambda x: x,
        InitWeights_He(1e-2),
        [[2, 2, 2]] * pools,
        [[3, 3, 3]] * (pools + 1),
        False,
        True,
        True,
    )
    for name, parameter in network.named_parameters():
        if "instnorm" in name or name.endswith("bias"):
            nn.init.normal_(parameter, float(name.endswith("instnorm.weight")), 0.2)
    network.do_ds = False
    return network.eval()


def v2_network(folder: Path) -> torch.nn.Module:
    """The network that nnU-Net v2's own predictor makes of a model folder."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from bids_stroke.models.torchvision_shim import ensure_torchvision

    ensure_torchvision()
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), None)
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    return predictor.network.eval()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("channels", [("FLAIR", "T1w"), ("T1w",)])
@torch.inference_mode()
def test_equals_the_original_at_the_architecture_of_mmstrokenet(
    tmp_path: Path, channels: tuple[str, ...]
) -> None:
    network = original(len(channels), 32, 5)
    state = network.state_dict()
    names = [f"{c.lower()}_brain" for c in channels]
    table = v1_model.plans(names, stages=6, patch=128)
    folder = v1_model.write(tmp_path / "v1", state, table)
    (check,) = convert(folder, tmp_path / "v2", channels)
    assert check.parameters == sum(t.numel() for t in state.values())
    assert check.largest_difference <= 1e-5
    image = torch.randn((1, len(channels), 64, 64, 64), generator=torch.Generator().manual_seed(3))
    expected = network(image)
    assert expected.std() > 0.1
    assert torch.allclose(v2_network(tmp_path / "v2")(image), expected, atol=1e-5)
    plans = read_json(tmp_path / "v2" / "plans.json")
    kwargs = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert tuple(kwargs["features_per_stage"]) == MMSTROKENET
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [128, 128, 128]


@pytest.mark.filterwarnings("ignore")
@torch.inference_mode()
def test_plain_network_is_the_original() -> None:
    network = original(2, 8, 3)
    image = torch.randn((2, 2, 16, 24, 32), generator=torch.Generator().manual_seed(4))
    plain = forward(network.state_dict(), image, [(2, 2, 2)] * 3)
    assert torch.allclose(plain, network(image), atol=1e-5)


def test_our_stand_in_has_the_names_of_the_original() -> None:
    state = original(2, 8, 3).state_dict()
    ours = v1_model.weights(2, (8, 16, 32, 64))
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in state.items()}


def test_plans_and_dataset_are_converted(tmp_path: Path) -> None:
    table = v1_model.plans(["flair", "t1"])
    table["use_mask_for_norm"][1] = True
    table["plans_per_stage"][0]["current_spacing"] = np.array([3.0, 0.75, 0.5])
    table["transpose_forward"], table["transpose_backward"] = [2, 0, 1], [1, 2, 0]
    folder = v1_model.write(tmp_path / "v1", v1_model.weights(2), table)
    convert(folder, tmp_path / "v2", ("FLAIR", "T1w"))
    plans = read_json(tmp_path / "v2" / "plans.json")
    fullres = plans["configurations"]["3d_fullres"]
    assert fullres["spacing"] == [3.0, 0.75, 0.5]
    assert fullres["use_mask_for_norm"] == [False, True]
    assert fullres["normalization_schemes"] == ["ZScoreNormalization"] * 2
    assert fullres["resampling_fn_data_kwargs"]["order"] == 3
    assert fullres["architecture"]["arch_kwargs"]["strides"] == [[1] * 3, [2] * 3, [2] * 3]
    assert (plans["transpose_forward"], plans["transpose_backward"]) == ([2, 0, 1], [1, 2, 0])
    intensities = plans["foreground_intensity_properties_per_channel"]["1"]
    assert (intensities["std"], intensities["max"]) == (0.5, 3.0)
    dataset = read_json(tmp_path / "v2" / "dataset.json")
    assert dataset["channel_names"] == {"0": "FLAIR", "1": "T1w"}
    assert dataset["labels"] == {"background": 0, "lesion": 1}


def test_folds_and_names_of_checkpoints(tmp_path: Path) -> None:
    folder, table = tmp_path / "v1", v1_model.plans()
    v1_model.write(folder, v1_model.weights(seed=1), table, fold="fold_2")
    v1_model.write(folder, v1_model.weights(seed=2), table, fold="all", checkpoint="model_best")
    v1_model.write(folder, v1_model.weights(seed=3), table, fold="fold_2", checkpoint="model_best")
    found = v1.find_checkpoints(folder)
    assert {f: p.name for f, p in found.items()} == {
        "2": "model_final_checkpoint.model",
        "all": "model_best.model",
    }
    best = v1.find_checkpoints(folder, "model_best.model")
    assert {p.name for p in best.values()} == {"model_best.model"}
    convert(folder, tmp_path / "v2")
    assert sorted(p.name for p in (tmp_path / "v2").glob("fold_*")) == ["fold_2", "fold_all"]


def test_a_checkpoint_alone_is_enough(tmp_path: Path) -> None:
    folder = v1_model.write(tmp_path, v1_model.weights(), v1_model.plans(), fold="given")
    (folder / "plans.pkl").unlink()
    (check,) = convert(folder / "given", tmp_path / "v2")
    assert check.fold == "0"


def test_layers_of_data_parallel_and_biases_of_heads_are_taken(tmp_path: Path) -> None:
    state = {f"module.{name}": t for name, t in v1_model.weights().items()}
    state["module.seg_outputs.1.bias"] = torch.tensor([0.5, -0.5])
    convert(v1_model.write(tmp_path / "v1", state, v1_model.plans()), tmp_path / "v2")
    saved = torch.load(tmp_path / "v2" / "fold_0" / "checkpoint_final.pth", weights_only=True)
    head = saved["network_weights"]["decoder.seg_layers.1.bias"]
    assert torch.equal(head, torch.tensor([0.5, -0.5]))


def refused(tmp_path: Path, reason: str, *, trainer: str = "nnUNetTrainerV2", **change: Any) -> str:
    """Convert after changes of the plans' stage (``stage_*``) or of the plans; must be refused."""
    table = v1_model.plans(**change.pop("plans", {}))
    for key, value in change.items():
        place = table["plans_per_stage"][0] if key.startswith("stage_") else table
        place[key.removeprefix("stage_")] = value
    folder = v1_model.write(tmp_path / "v1", v1_model.weights(), table, trainer=trainer)
    with pytest.raises(UnusableData, match=reason) as error:
        convert(folder, tmp_path / "v2")
    assert not (tmp_path / "v2").exists()
    return str(error.value)


def test_refuses_kernels_that_differ_by_stage_and_lists_them(tmp_path: Path) -> None:
    kernels = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    message = refused(tmp_path, "can't be converted exactly", stage_conv_kernel_sizes=kernels)
    assert "decoder stage 1 has the kernel (3, 3, 3) in v1 and would have (1, 3, 3)" in message
    assert "decoder stage 0" not in message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stage_conv_kernel_sizes": [[3, 3]] * 3}, "two-dimensional"),
        ({"stage_conv_kernel_sizes": [[5, 5, 5]] * 3}, "kernels of 5"),
        ({"stage_conv_kernel_sizes": [[3, 3, 3]] * 4}, "4 kernels for 3 stages"),
        ({"stage_pool_op_kernel_sizes": [[9, 9, 9]] * 2}, "more than 64 times"),
        ({"preprocessor_name": "Preprocessor3DBetterResampling"}, "preprocessor"),
        ({"normalization_schemes": {0: "CT2"}}, "CT2"),
        ({"num_modalities": 2}, "takes 1 channels where its plans have 2"),
        ({"trainer": "nnUNetTrainerV2_ReLU"}, "nnUNetTrainerV2_ReLU"),
        ({"trainer": "nnUNetTrainerV2CascadeFullRes"}, "Cascade"),
        ({"stage_current_spacing": None}, "not complete"),
        ({"plans_per_stage": {}}, "not complete"),
        ({"transpose_forward": "abc"}, "not complete"),
    ],
)
def test_refuses_what_has_no_equal(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    refused(tmp_path, reason, **change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.update({"attention.0.weight": torch.zeros(1)}), "attention"),
        (lambda s: s.pop("tu.0.weight"), r"tu\.0\.weight"),
        (lambda s: s.pop("conv_blocks_localization.0.1.blocks.0.conv.bias"), "lack"),
        (lambda s: s.update({"tu.1.weight": torch.zeros(8, 4, 1, 2, 2)}), r"tu\.1\.weight"),
        (
            lambda s: s.update({"conv_blocks_context.0.blocks.2.conv.bias": torch.zeros(4)}),
            "does not fit",
        ),
        (lambda s: s.clear(), "missing"),
    ],
)
def test_refuses_weights_of_another_network(tmp_path: Path, change: Any, reason: str) -> None:
    state = v1_model.weights()
    change(state)
    folder = v1_model.write(tmp_path / "v1", state, v1_model.plans())
    with pytest.raises(UnusableData, match=reason):
        convert(folder, tmp_path / "v2")
    assert not (tmp_path / "v2").exists()


def test_the_self_check_sees_a_wrong_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = v1_model.write(tmp_path / "v1", v1_model.weights(), v1_model.plans())
    right = v1.to_v2_name
    names = {"norm.weight": "norm.bias", "norm.bias": "norm.weight"}

    def swapped(name: str, convs: int) -> str:
        block, dot, last = right(name, convs).partition("decoder.stages.1.convs.1.")
        return f"{block}{dot}{names.get(last, last)}"

    monkeypatch.setattr(v1, "to_v2_name", swapped)
    with pytest.raises(UnusableData, match="other outputs"):
        convert(folder, tmp_path / "v2")
    assert not (tmp_path / "v2").exists()


class Hostile:
    def __reduce__(self) -> Any:
        return print, ("this must never be printed",)


@pytest.mark.parametrize("where", ["plans.pkl", "fold_0/model_final_checkpoint.model.pkl"])
def test_refuses_a_pickle_that_calls_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    folder = v1_model.write(tmp_path / "v1", v1_model.weights(), v1_model.plans())
    own = folder / "fold_0" / "model_final_checkpoint.model.pkl"
    own.unlink()
    (folder / where).write_bytes(pickle.dumps({"plans": Hostile(), "plans_per_stage": {}}))
    with pytest.raises(UnusableData, match=r"asks for builtins\.print"):
        convert(folder, tmp_path / "v2")
    assert "never" not in capsys.readouterr().out


def test_refuses_weights_that_call_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = v1_model.write(tmp_path / "v1", v1_model.weights(), v1_model.plans())
    checkpoint = folder / "fold_0" / "model_final_checkpoint.model"
    torch.save({"state_dict": OrderedDict(), "plot_stuff": Hostile()}, checkpoint)
    with pytest.raises(UnusableData, match="more than tensors"):
        convert(folder, tmp_path / "v2")
    assert "never" not in capsys.readouterr().out


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="no checkpoint"):
        convert(tmp_path, tmp_path / "v2")
    folder = v1_model.write(tmp_path / "v1", v1_model.weights(), v1_model.plans())
    (folder / "plans.pkl").unlink()
    (folder / "fold_0" / "model_final_checkpoint.model.pkl").unlink()
    with pytest.raises(InputMissing, match="whole model folder"):
        convert(folder, tmp_path / "v2")
    torch.save({"weights": {}}, folder / "fold_0" / "model_best.model")
    folder = v1_model.write(tmp_path / "v1", v1_model.weights(), v1_model.plans())
    with pytest.raises(UnusableData, match="1 channels, but 2 are named"):
        convert(folder, tmp_path / "v2", ("T1w", "FLAIR"))
