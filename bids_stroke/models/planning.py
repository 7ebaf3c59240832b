"""Plans of nnU-Net v2 for a recipe: nnU-Net's own or those of a model, and what the recipe says."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from bids_stroke.core.files import read_json
from bids_stroke.errors import UsageError
from bids_stroke.models.dataset import Places
from bids_stroke.models.descriptor import Descriptor
from bids_stroke.models.recipe import PLANS_KEY, Recipe, Stage, plain

BASE_FEATURES, MOST_FEATURES = 32, {2: 512, 3: 320}
SMALLEST_MAP = 4
NNUNET_NETWORKS = "dynamic_network_architectures."
"""Package of the networks that nnU-Net plans."""


def base_plans(recipe: Recipe, places: Places, pretrained: Descriptor | None) -> dict[str, Any]:
    """Plans of the dataset with one configuration: those of a pretrained model, else nnU-Net's own.

    Raises UsageError when the dataset can't be planned for.
    """
    name = recipe.plan.configuration
    plans = _of_model(pretrained, name) if pretrained else _planned(recipe, places)
    settings = plans["configurations"][name]
    channels = len(recipe.channels)
    scheme = settings["normalization_schemes"][0] if pretrained else recipe.plan.normalization
    settings["normalization_schemes"] = [scheme] * channels
    settings["use_mask_for_norm"] = [True] * channels  # images are brains on 0
    settings["data_identifier"] = f"arrays_{name}"
    return {
        **plans,
        "dataset_name": places.dataset,
        "configurations": {name: settings},
        "foreground_intensity_properties_per_channel": {str(i): {} for i in range(channels)},
    }


def check_start(recipe: Recipe, model: Descriptor) -> None:
    """Can the recipe go on from the model's network? Raises UsageError with what it wants."""
    start = f"The recipe '{recipe.name}' goes on from"
    if model.format != "nnunetv2":
        raise UsageError(
            f"{start} a network, and the model '{model.name}' is none ({model.format}): name "
            "another model by --pretrained."
        )
    settings = _of_model(model, recipe.plan.configuration)["configurations"]
    there = settings[recipe.plan.configuration]["architecture"]["network_class_name"]
    wanted = recipe.network.class_name
    if there == wanted or (not wanted and there.startswith(NNUNET_NETWORKS)):
        return
    kind = f"a {wanted.rpartition('.')[2]}" if wanted else "a U-Net of nnU-Net"
    raise UsageError(
        f"{start} {kind}, but the network of the model '{model.name}' is a "
        f"{there.rpartition('.')[2]}: name another model by --pretrained."
    )


def _of_model(model: Descriptor, configuration: str) -> dict[str, Any]:
    plans = read_json(model.model_folder / "plans.json")
    if configuration not in plans["configurations"]:
        there = ", ".join(plans["configurations"])
        raise UsageError(
            f"The pretrained model '{model.name}' has no configuration '{configuration}', but "
            f"{there}: correct plan.configuration of the recipe."
        )
    plans["configurations"] = {configuration: deepcopy(plans["configurations"][configuration])}
    return plans


def _planned(recipe: Recipe, places: Places) -> dict[str, Any]:
    """What nnU-Net's ExperimentPlanner makes of the raw dataset and its fingerprint."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )
    from nnunetv2.utilities.json_export import recursive_fix_for_json_export

    plan = recipe.plan
    spacing = _full_spacing(plan.spacing, plan.configuration, places)
    stated = any((spacing, plan.patch, recipe.network.class_name))
    with places.entered():
        planner = ExperimentPlanner(
            places.dataset,
            gpu_memory_target_in_gb=plan.gpu_memory_gb,
            overwrite_target_spacing=spacing,
            suppress_transpose=stated,  # what the recipe states is in the order z, y, x
        )
        plans = planner.plan_experiment()
    recursive_fix_for_json_export(plans)
    if plan.configuration not in plans["configurations"]:
        raise UsageError(f"nnU-Net plans no '{plan.configuration}' for this dataset.")
    if plan.patch:
        settings = plans["configurations"][plan.configuration]
        settings["architecture"]["arch_kwargs"].update(_topology(settings["spacing"], plan.patch))
    return plans


def _full_spacing(
    spacing: Sequence[float] | None, configuration: str, places: Places
) -> list[float] | None:
    """Spacing of three axes; 0 is the median of the dataset."""
    if not spacing:
        return None
    table = read_json(places.preprocessed / "dataset_fingerprint.json")
    median = np.median(table["spacings"], axis=0)
    if len(spacing) != 3:
        raise UsageError(f"plan.spacing of a recipe with {configuration} must have 3 numbers.")
    return [float(s or m) for s, m in zip(spacing, median, strict=True)]


def stage_plans(base: Mapping[str, Any], recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """Plans of one stage: its patch, batch, network and channels, and the recipe for the trainer.

    Raises UsageError when the patch does not fit the network.
    """
    own = recipe.of_stage(stage)
    plans = deepcopy(dict(base))
    settings = plans["configurations"][own.plan.configuration]
    channels = len(own.channels)
    for key in ("normalization_schemes", "use_mask_for_norm"):
        settings[key] = settings[key][:channels]
    if own.plan.patch:
        _set_patch(settings, own.plan.patch)
    if own.plan.batch_size:
        settings["batch_size"] = own.plan.batch_size
    if own.plan.batch_dice is not None:
        settings["batch_dice"] = own.plan.batch_dice
    settings["architecture"] = _architecture(settings["architecture"], own)
    plans["plans_name"] = stage.name
    plans[PLANS_KEY] = plain(own)
    _check_patch(settings, stage.name)
    return plans


def check_division(batch: int, ranks: int, stage: str) -> None:
    """Can the ranks get equal parts of a batch? Raises UsageError where they can't."""
    if batch % ranks:
        parts = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
        raise UsageError(
            f"The batch of {batch} of the stage '{stage}' can't be divided over {ranks}: "
            f"--gpus-per-fold can be {parts}."
        )


def known_batch(recipe: Recipe, stage: Stage, pretrained: Descriptor | None) -> int | None:
    """Size of a stage's batch, as far as it is known before nnU-Net plans."""
    own = recipe.of_stage(stage)
    if own.plan.batch_size or pretrained is None:
        return own.plan.batch_size
    name = own.plan.configuration
    return int(_of_model(pretrained, name)["configurations"][name]["batch_size"])


def _set_patch(settings: dict[str, Any], patch: Sequence[int]) -> None:
    if len(patch) != len(settings["patch_size"]):
        raise UsageError(f"plan.patch must have {len(settings['patch_size'])} numbers.")
    settings["patch_size"] = list(patch)


def _topology(spacing: Sequence[float], patch: Sequence[int]) -> dict[str, Any]:
    """Depth, strides, kernels and features of nnU-Net's U-Net for a patch, by nnU-Net's rule."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import (
        get_pool_and_conv_props,
    )

    _, strides, kernels, _, _ = get_pool_and_conv_props(spacing, list(patch), SMALLEST_MAP, 999_999)
    stages, most = len(strides), MOST_FEATURES[len(patch)]
    return {
        "n_stages": stages,
        "features_per_stage": [min(BASE_FEATURES * 2**i, most) for i in range(stages)],
        "strides": [[int(s) for s in stride] for stride in strides],
        "kernel_sizes": [[int(k) for k in kernel] for kernel in kernels],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }


def _architecture(planned: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    network = recipe.network
    imports = [name for name in network.imports if name in network.kwargs]
    if not network.class_name:
        return {
            **planned,
            "arch_kwargs": {**planned["arch_kwargs"], **network.kwargs},
            "_kw_requires_import": list(dict.fromkeys([*planned["_kw_requires_import"], *imports])),
        }
    return {
        "network_class_name": network.class_name,
        "arch_kwargs": dict(network.kwargs),
        "_kw_requires_import": imports,
    }


def _check_patch(settings: Mapping[str, Any], stage: str) -> None:
    strides = settings["architecture"]["arch_kwargs"].get("strides")
    if not strides:
        return
    steps = [math.prod(axis) for axis in zip(*strides, strict=True)]
    patch = settings["patch_size"]
    if any(size % step for size, step in zip(patch, steps, strict=True)):
        raise UsageError(
            f"The patch {patch} of stage '{stage}' must be a multiple of {steps}: correct the "
            "recipe."
        )
