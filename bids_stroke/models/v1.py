"""Import of nnU-Net v1 models: plans and weights of v1 become a model folder of nnU-Net v2.

Both files of v1 are pickles, so they are read by restricted unpicklers. The weights map one to one
when all kernels of a network are equal; what can't map is refused with the reason. Every conversion
is checked: all parameters used once, and equal outputs on a seeded patch.

v1 averages and resamples probabilities where v2 takes logits: its descriptor must say
``resample = "probabilities"``. v1 normalises after resampling, v2 before.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bids_stroke.core.files import write_json
from bids_stroke.errors import InputMissing, UnusableData
from bids_stroke.models.architecture import plain_conv_unet
from bids_stroke.models.v1_network import forward
from bids_stroke.models.weights import (
    canonical,
    load_checkpoint,
    load_plain_pickle,
    save_checkpoint,
    with_aliases,
)

CHECKPOINTS = ("model_final_checkpoint.model", "model_best.model", "model_latest.model")
CONFIGURATION = "3d_fullres"
TOLERANCE = 1e-5
_SEED = 20260712
_DEEPEST = 64  # the check's patch has twice this side: more would fill the memory

_NORMALIZATION = {
    "nonCT": "ZScoreNormalization",
    "CT": "CTNormalization",
    "noNorm": "NoNormalization",
}
_INTENSITIES = {  # v2's name: v1's name
    "max": "mx",
    "mean": "mean",
    "median": "median",
    "min": "mn",
    "percentile_00_5": "percentile_00_5",
    "percentile_99_5": "percentile_99_5",
    "std": "sd",
}
_RESAMPLING_ORDER = {"GenericPreprocessor": 3, "GenericPreprocessor_linearResampling": 1}
# Trainers of v1 that change the network or its output; their weights look like those of others.
_OTHER_NETWORKS = re.compile(
    r"ReLU|GeLU|Mish|_FRN|_GN|_BN|NoNorm|Resenc|Regions|Cascade|slope|independentScale_sigmoid",
    re.IGNORECASE,
)
_BLOCK = r"blocks\.(\d+)\.(conv|instnorm)\.(weight|bias)"
_ENCODER = re.compile(rf"conv_blocks_context\.(\d+)\.{_BLOCK}")
_BOTTOM = re.compile(rf"conv_blocks_context\.(\d+)\.([01])\.{_BLOCK}")
_DECODER = re.compile(rf"conv_blocks_localization\.(\d+)\.([01])\.{_BLOCK}")
_UP = re.compile(r"tu\.(\d+)\.weight")
_HEAD = re.compile(r"seg_outputs\.(\d+)\.(weight|bias)")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network of v1, as its plans and its weights tell it."""

    channels: int
    classes: int
    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    pools: tuple[tuple[int, ...], ...]
    convs: int

    def plans(self) -> dict[str, Any]:
        """The section ``architecture`` of plans of v2."""
        return plain_conv_unet(
            features=self.features,
            kernels=self.kernels,
            strides=[(1, 1, 1), *self.pools],
            encoder_convs=[self.convs] * len(self.features),
            decoder_convs=[self.convs] * len(self.pools),
        )


@dataclass(frozen=True, kw_only=True)
class Check:
    """What the self-check of one fold saw."""

    fold: str
    parameters: int
    largest_difference: float


# Files


def find_checkpoints(folder: Path, name: str = "") -> dict[str, Path]:
    """Checkpoints of a v1 model folder by fold (``"0"``, ``"all"``); ``name`` picks among several.

    Looks in the folder itself (one fold, or the name of its fold) and in ``fold_*`` and ``all``.
    """
    places = [folder, *sorted(folder.glob("fold_*")), folder / "all"]
    found = [(_fold_of(place), _pick(place, name)) for place in places if place.is_dir()]
    return {fold: path for fold, path in found if path}


def _fold_of(place: Path) -> str:
    if place.name == "all":
        return "all"
    number = place.name.removeprefix("fold_")
    return number if number.isdecimal() else "0"


def _pick(place: Path, name: str) -> Path | None:
    """The checkpoint of one fold: the one that is named, else the best known, else the only one."""
    there = sorted(p for p in place.glob("*.model") if p.is_file())
    if name:
        return next((p for p in there if p.name == name), None)
    for known in CHECKPOINTS:
        if place / known in there:
            return place / known
    if len(there) > 1:
        names = ", ".join(p.name for p in there)
        raise UnusableData(f"{place} has several checkpoints: name one by --checkpoint ({names}).")
    return there[0] if there else None


def read_plans(checkpoint: Path) -> dict[str, Any]:
    """Plans that belong to a v1 checkpoint: its own ``.pkl``, else ``plans.pkl`` of the model.

    Two more keys tell of the training: ``trainer`` and ``stage``.
    """
    beside = checkpoint.with_name(f"{checkpoint.name}.pkl")
    folders = (checkpoint.parent, checkpoint.parent.parent)
    plans_file = next((f / "plans.pkl" for f in folders if (f / "plans.pkl").is_file()), None)
    if not beside.is_file() and plans_file is None:
        raise InputMissing(f"{beside} is not there, nor plans.pkl: copy the whole model folder.")
    info = load_plain_pickle(beside) if beside.is_file() else {}
    info = info if isinstance(info, Mapping) else {}
    plans = info.get("plans") or (load_plain_pickle(plans_file) if plans_file else None)
    if not isinstance(plans, Mapping) or "plans_per_stage" not in plans:
        raise UnusableData(f"{beside} holds no plans of nnU-Net v1: copy the whole model folder.")
    init = info.get("init", ())
    stage = init[5] if len(init) > 5 and isinstance(init[5], int) else max(plans["plans_per_stage"])
    return {**plans, "trainer": str(info.get("name", "")), "stage": stage}


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Weights of a v1 checkpoint by their names, in float32."""
    state = load_checkpoint(checkpoint, "state_dict")["state_dict"]
    return {name.removeprefix("module."): tensor.float() for name, tensor in state.items()}


# The network


def architecture(plans: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Architecture:
    """The network of plans and weights; raises UnusableData, with all reasons, if it can't map."""
    stage = plans["plans_per_stage"][plans["stage"]]
    kernels = tuple(tuple(int(k) for k in kernel) for kernel in stage["conv_kernel_sizes"])
    pools = tuple(tuple(int(p) for p in pool) for pool in stage["pool_op_kernel_sizes"])
    reasons = [*_plan_reasons(plans, kernels, pools), *_weight_reasons(plans, state, kernels)]
    if reasons:
        raise UnusableData(
            "This model of nnU-Net v1 can't be converted exactly: " + "; ".join(reasons) + "."
        )
    first = [f"conv_blocks_context.{d}.blocks.0.conv.weight" for d in range(len(pools))]
    first.append(f"conv_blocks_context.{len(pools)}.0.blocks.0.conv.weight")
    return Architecture(
        channels=state[first[0]].shape[1],
        classes=state["seg_outputs.0.weight"].shape[0],
        features=tuple(state[name].shape[0] for name in first),
        kernels=kernels,
        pools=pools,
        convs=int(plans.get("conv_per_stage", 2)),
    )


def _plan_reasons(
    plans: Mapping[str, Any], kernels: Sequence[Sequence[int]], pools: Sequence[Sequence[int]]
) -> Iterable[str]:
    """What in the plans has no equal in v2."""
    if any(len(kernel) != 3 for kernel in kernels):
        yield "it is two-dimensional"
        return
    if len(kernels) != len(pools) + 1:
        yield f"it has {len(kernels)} kernels for {len(pools) + 1} stages"
        return
    if any(np.prod([pool[axis] for pool in pools]) > _DEEPEST for axis in range(3)):
        yield f"it shrinks the image more than {_DEEPEST} times"
    if wrong := sorted({k for kernel in kernels for k in kernel} - {1, 3}):
        yield f"v1 pads kernels of {wrong[0]} otherwise than v2"
    for stage in range(len(pools)):
        old, new = kernels[-(stage + 1)], kernels[-(stage + 2)]
        if tuple(old) != tuple(new):
            yield f"decoder stage {stage} has the kernel {old} in v1 and would have {new} in v2"
    if _OTHER_NETWORKS.search(plans["trainer"]):
        yield f"its trainer {plans['trainer']} makes another network than nnUNetTrainerV2"
    if plans.get("preprocessor_name", "GenericPreprocessor") not in _RESAMPLING_ORDER:
        yield f"its preprocessor {plans['preprocessor_name']} has no equal in v2"
    for scheme in plans["normalization_schemes"].values():
        if scheme not in _NORMALIZATION:
            yield f"its normalization {scheme} has no equal in v2"


def _weight_reasons(
    plans: Mapping[str, Any], state: Mapping[str, torch.Tensor], kernels: Sequence[Sequence[int]]
) -> Iterable[str]:
    """What in the weights has no place in v2."""
    unknown = [name for name in state if not _known_layer(name)]
    if unknown:
        yield f"its layers {', '.join(unknown[:5])} have no place in v2"
        return
    wanted = {"conv_blocks_context.0.blocks.0.conv.weight", "seg_outputs.0.weight", "tu.0.weight"}
    stages = [f"conv_blocks_context.{d}.blocks.0.conv.weight" for d in range(len(kernels) - 1)]
    bottom = f"conv_blocks_context.{len(kernels) - 1}.0.blocks.0.conv.weight"
    if missing := sorted({*wanted, *stages, bottom} - set(state)):
        yield f"its layers {', '.join(missing[:5])} are missing"
        return
    channels, planned = state[stages[0]].shape[1], int(plans["num_modalities"])
    if channels != planned:
        yield f"it takes {channels} channels where its plans have {planned} (a cascade?)"


def _known_layer(name: str) -> bool:
    return any(p.fullmatch(name) for p in (_ENCODER, _BOTTOM, _DECODER, _UP, _HEAD))


def to_v2_name(name: str, convs: int) -> str:
    """Name in v2 of a layer of v1; ``convs`` is the number of convolutions a stage."""
    if match := _ENCODER.fullmatch(name):
        stage, block, kind, parameter = match.groups()
        return f"encoder.stages.{stage}.0.convs.{block}.{_kind(kind)}.{parameter}"
    if match := _BOTTOM.fullmatch(name):
        stage, part, block, kind, parameter = match.groups()
        number = int(block) + (convs - 1) * int(part)
        return f"encoder.stages.{stage}.0.convs.{number}.{_kind(kind)}.{parameter}"
    if match := _DECODER.fullmatch(name):
        stage, part, block, kind, parameter = match.groups()
        number = int(block) + (convs - 1) * int(part)
        return f"decoder.stages.{stage}.convs.{number}.{_kind(kind)}.{parameter}"
    if match := _UP.fullmatch(name):
        return f"decoder.transpconvs.{match[1]}.weight"
    if match := _HEAD.fullmatch(name):
        return f"decoder.seg_layers.{match[1]}.{match[2]}"
    raise UnusableData(f"The layer {name} of nnU-Net v1 has no place in v2.")


def _kind(kind: str) -> str:
    return "norm" if kind == "instnorm" else kind


def convert_weights(
    state: Mapping[str, torch.Tensor], network: nn.Module, convs: int
) -> dict[str, torch.Tensor]:
    """Weights under the names of v2, for a network of v2, aliases included.

    Biases that v1 does not have are zeros. Raises UnusableData when a layer is not used exactly
    once, is missing, or has another shape.
    """
    target = network.state_dict()
    shapes = {canonical(name): tensor.shape for name, tensor in target.items()}
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        new = to_v2_name(name, convs)
        if new in renamed or new not in shapes or shapes[new] != tensor.shape:
            raise UnusableData(
                f"The layer {name} of shape {tuple(tensor.shape)} does not fit the network of the "
                "plans: the files do not belong together."
            )
        renamed[new] = tensor
    absent = [name for name in shapes if name not in renamed]
    if lost := [name for name in absent if not _is_bias_without_v1(name)]:
        raise UnusableData(f"The weights lack {', '.join(lost[:5])}: the file is not complete.")
    renamed |= {name: torch.zeros(shapes[name]) for name in absent}
    return with_aliases(renamed, target)


def _is_bias_without_v1(name: str) -> bool:
    return bool(re.fullmatch(r"decoder\.(transpconvs|seg_layers)\.\d+\.bias", name))


def build(design: Architecture) -> nn.Module:
    """The network of v2 for an architecture, without deep supervision, to be filled."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    section = design.plans()
    return get_network_from_plans(
        section["network_class_name"],
        section["arch_kwargs"],
        section["_kw_requires_import"],
        design.channels,
        design.classes,
        allow_init=False,
        deep_supervision=False,
    ).eval()


@torch.inference_mode()
def largest_difference(
    state: Mapping[str, torch.Tensor], network: nn.Module, design: Architecture
) -> float:
    """Largest difference of logits between v1 and v2 on a seeded patch, relative to the largest.

    The patch is the smallest that leaves two voxels a side at the bottom.
    """
    sides = [2 * int(np.prod([pool[axis] for pool in design.pools])) for axis in range(3)]
    patch = torch.randn(
        (1, design.channels, *sides), generator=torch.Generator().manual_seed(_SEED)
    )
    old, new = forward(state, patch, design.pools), network(patch)
    scale = max(1.0, float(old.abs().max()))
    return float((old - new).abs().max()) / scale


# Plans and dataset


def convert_plans(plans: Mapping[str, Any], design: Architecture, name: str) -> dict[str, Any]:
    """Plans of v2 from plans of v1: spacing, patch, transposition, normalization, resampling."""
    stage = plans["plans_per_stage"][plans["stage"]]
    spacing = _floats(stage["current_spacing"])
    return {
        "dataset_name": name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": _floats(stage.get("original_spacing", spacing)),
        "original_median_shape_after_transp": _ints(stage["median_patient_size_in_voxels"]),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": _ints(plans["transpose_forward"]),
        "transpose_backward": _ints(plans["transpose_backward"]),
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": _intensities(plans),
        "configurations": {CONFIGURATION: _configuration(plans, stage, design, spacing, name)},
    }


def _configuration(
    plans: Mapping[str, Any],
    stage: Mapping[str, Any],
    design: Architecture,
    spacing: list[float],
    name: str,
) -> dict[str, Any]:
    order = _RESAMPLING_ORDER[plans.get("preprocessor_name", "GenericPreprocessor")]
    export = plans.get("segmentation_export_params") or {}
    data = {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}
    probabilities = {
        "is_seg": False,
        "order": int(export.get("interpolation_order", 1)),
        "order_z": int(export.get("interpolation_order_z", 0)),
        "force_separate_z": export.get("force_separate_z"),
    }
    channels = range(design.channels)
    return {
        "data_identifier": f"{name}_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": int(stage["batch_size"]),
        "patch_size": _ints(stage["patch_size"]),
        "median_image_size_in_voxels": _ints(stage["median_patient_size_in_voxels"]),
        "spacing": spacing,
        "normalization_schemes": [
            _NORMALIZATION[plans["normalization_schemes"][c]] for c in channels
        ],
        "use_mask_for_norm": [bool(plans["use_mask_for_norm"][c]) for c in channels],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": data,
        "resampling_fn_seg_kwargs": {**data, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": probabilities,
        "architecture": design.plans(),
        "batch_dice": True,
    }


def _floats(values: Iterable[Any]) -> list[float]:
    return [float(v) for v in values]


def _ints(values: Iterable[Any]) -> list[int]:
    return [round(float(v)) for v in values]


def _intensities(plans: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Intensities of the foreground by channel, which only the normalization of CT needs."""
    properties = plans.get("dataset_properties") or {}
    table = properties.get("intensityproperties") or {}
    return {
        str(c): {new: float(table[c][old]) for new, old in _INTENSITIES.items()}
        if c in table
        else {}
        for c in range(int(plans["num_modalities"]))
    }


def modalities(plans: Mapping[str, Any]) -> tuple[str, ...]:
    """What the plans call the channels, in the network's order."""
    table = plans["modalities"]
    return tuple(str(table[c]) for c in range(int(plans["num_modalities"])))


def convert_dataset(
    plans: Mapping[str, Any], design: Architecture, channels: Sequence[str], name: str
) -> dict[str, Any]:
    """``dataset.json`` of v2; ``channels`` are the modalities in the network's order."""
    labels = {"background": 0, "lesion": 1}
    labels |= {f"class_{number}": number for number in range(2, design.classes)}
    return {
        "name": name,
        "channel_names": {str(i): channel for i, channel in enumerate(channels)},
        "labels": labels,
        "numTraining": len(plans.get("list_of_npz_files", ())),
        "file_ending": ".nii.gz",
    }


# All of it


def convert(
    folder: Path, target: Path, channels: Sequence[str], *, checkpoint: str = ""
) -> list[Check]:
    """Write a v2 model folder from a v1 one, and check it; returns what the checks saw.

    ``channels`` are modalities in the network's order. Raises InputMissing for absent files and
    UnusableData for hostile or damaged ones, for a network that can't be mapped exactly, and for
    one whose outputs differ.
    """
    found = find_checkpoints(folder, checkpoint)
    if not found:
        raise InputMissing(f"There is no checkpoint of nnU-Net v1 in {folder}: check its folds.")
    return [_convert_fold(fold, path, target, channels) for fold, path in found.items()]


def _convert_fold(fold: str, path: Path, target: Path, channels: Sequence[str]) -> Check:
    with _complete(path):
        plans, state = read_plans(path), read_weights(path)
        design = architecture(plans, state)
        if len(channels) != design.channels:
            raise UnusableData(
                f"{path} takes {design.channels} channels, but {len(channels)} are named: "
                "correct --channels."
            )
        network = build(design)
        weights = convert_weights(state, network, design.convs)
        network.load_state_dict(weights)
        difference = largest_difference(state, network, design)
        new_plans = convert_plans(plans, design, target.name)
        dataset = convert_dataset(plans, design, channels, target.name)
    if not difference <= TOLERANCE:
        raise UnusableData(
            f"{path} gives other outputs in nnU-Net v2 (by {difference:.1e}): not imported."
        )
    _write_fold(target / f"fold_{fold}", fold, weights)
    write_json(target / "plans.json", new_plans)
    write_json(target / "dataset.json", dataset)
    return Check(fold=fold, parameters=_count(state), largest_difference=difference)


@contextmanager
def _complete(path: Path) -> Iterator[None]:
    """Say of files that lack something, or hold something odd, what they are: unusable."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise UnusableData(
            f"The plans and weights of {path} are not complete ({error!r}): copy the model again."
        ) from error


def _count(state: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in state.values())


def _write_fold(folder: Path, fold: str, weights: Mapping[str, torch.Tensor]) -> None:
    number = int(fold) if fold.isdecimal() else fold
    checkpoint = {
        "network_weights": dict(weights),
        "init_args": {"configuration": CONFIGURATION, "fold": number},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    save_checkpoint(folder / "checkpoint_final.pth", checkpoint)
