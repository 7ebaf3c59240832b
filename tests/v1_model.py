"""A folder of nnU-Net v1 with seeded random weights, as v1 itself would leave it."""

import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

FEATURES = (4, 8, 8)


def weights(
    channels: int = 1, features: Sequence[int] = FEATURES, kernel: int = 3, seed: int = 0
) -> "OrderedDict[str, torch.Tensor]":
    """State dictionary with the names and shapes of ``Generic_UNet`` (two convolutions a stage)."""
    rng = torch.Generator().manual_seed(seed)
    state: OrderedDict[str, torch.Tensor] = OrderedDict()

    def block(name: str, old: int, new: int) -> None:
        state[f"{name}.conv.weight"] = torch.randn((new, old, *[kernel] * 3), generator=rng) / 9
        state[f"{name}.conv.bias"] = torch.randn(new, generator=rng) / 9
        state[f"{name}.instnorm.weight"] = 1 + torch.randn(new, generator=rng) / 9
        state[f"{name}.instnorm.bias"] = torch.randn(new, generator=rng) / 9

    last = len(features) - 1
    for u, new in enumerate(reversed(features[:-1])):
        block(f"conv_blocks_localization.{u}.0.blocks.0", 2 * new, new)
        block(f"conv_blocks_localization.{u}.1.blocks.0", new, new)
    for d, new in enumerate(features):
        old = features[d - 1] if d else channels
        parts = ("0.blocks.0", "1.blocks.0") if d == last else ("blocks.0", "blocks.1")
        block(f"conv_blocks_context.{d}.{parts[0]}", old, new)
        block(f"conv_blocks_context.{d}.{parts[1]}", new, new)
    for u, new in enumerate(reversed(features[:-1])):
        old = features[last - u]
        state[f"tu.{u}.weight"] = torch.randn((old, new, 2, 2, 2), generator=rng) / 3
        state[f"seg_outputs.{u}.weight"] = torch.randn((2, new, 1, 1, 1), generator=rng)
    return state


def plans(
    names: Sequence[str] = ("t1",), *, stages: int = 3, patch: int = 16, kernel: int = 3
) -> dict[str, Any]:
    """Plans as the planner of v1 pickles them: numpy arrays, ordered dictionaries, integer keys."""
    channels = range(len(names))
    stage = {
        "batch_size": 2,
        "num_pool_per_axis": [stages - 1] * 3,
        "patch_size": np.array([patch] * 3),
        "median_patient_size_in_voxels": np.array([155, 189, 141]),
        "current_spacing": np.array([1.0, 1.0, 1.0]),
        "original_spacing": np.array([1.0, 1.0, 1.0]),
        "do_dummy_2D_data_aug": np.bool_(False),
        "pool_op_kernel_sizes": [[2, 2, 2]] * (stages - 1),
        "conv_kernel_sizes": [[kernel] * 3] * stages,
    }
    foreground = {"median": 1.0, "mean": 1.5, "sd": 0.5, "mn": 0.0, "mx": 3.0}
    foreground |= {"percentile_99_5": 2.9, "percentile_00_5": 0.1}
    return {
        "num_stages": 1,
        "num_modalities": len(names),
        "modalities": dict(enumerate(names)),
        "normalization_schemes": OrderedDict((c, "nonCT") for c in channels),
        "dataset_properties": {
            "intensityproperties": OrderedDict((c, foreground) for c in channels),
            "all_spacings": [np.array([1.0, 1.0, 1.0])],
        },
        "list_of_npz_files": ["case_0.npz", "case_1.npz"],
        "original_sizes": [np.array([197, 233, 189])],
        "preprocessed_data_folder": "somewhere",
        "num_classes": 1,
        "all_classes": [1],
        "base_num_features": 32,
        "use_mask_for_norm": OrderedDict((c, False) for c in channels),
        "keep_only_largest_region": None,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "data_identifier": "nnUNetData_plans_v2.1",
        "plans_per_stage": {0: stage},
        "preprocessor_name": "GenericPreprocessor",
        "conv_per_stage": 2,
    }


def write(
    folder: Path,
    state: dict[str, torch.Tensor],
    table: dict[str, Any],
    *,
    fold: str = "fold_0",
    trainer: str = "nnUNetTrainerV2",
    checkpoint: str = "model_final_checkpoint",
) -> Path:
    """Write a trainer's folder of v1 and return it."""
    place = folder / fold
    place.mkdir(parents=True, exist_ok=True)
    (folder / "plans.pkl").write_bytes(pickle.dumps(table))
    losses = [np.float64(0.5)], [0.1], [], [np.float64(0.7)]
    content = {
        "epoch": 1000,
        "state_dict": OrderedDict(state),
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "lr_scheduler_state_dict": None,
        "plot_stuff": losses,
        "best_stuff": (None, None, np.float64(0.7)),
    }
    torch.save(content, place / f"{checkpoint}.model")
    init = ("plans.pkl", 0, "out", "data", False, 0, True, False, True)
    info = OrderedDict(init=init, name=trainer, plans=table)
    info["class"] = f"<class 'nnunet.training.network_training.{trainer}'>"
    (place / f"{checkpoint}.model.pkl").write_bytes(pickle.dumps(info))
    return folder
