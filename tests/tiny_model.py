"""A tiny nnU-Net v2 model with seeded random weights, as a folder with its descriptor."""

from pathlib import Path
from typing import Any

import torch

from bids_stroke.core.files import sha256, write_json, write_text

ARCHITECTURE: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}

RESAMPLING = "resample_data_or_seg_to_shape"


def plans(channels: int, patch: int, spacing: float) -> dict[str, Any]:
    """Plans of a tiny 3-D configuration, in nnU-Net's own format."""
    order = {"order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": "Dataset999_Tiny",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [spacing] * 3,
        "original_median_shape_after_transp": [32] * 3,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): {} for i in range(channels)},
        "configurations": {
            "3d_fullres": {
                "data_identifier": "tiny",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [patch] * 3,
                "median_image_size_in_voxels": [32] * 3,
                "spacing": [spacing] * 3,
                "normalization_schemes": ["ZScoreNormalization"] * channels,
                "use_mask_for_norm": [True] * channels,
                "resampling_fn_data": RESAMPLING,
                "resampling_fn_seg": RESAMPLING,
                "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **order},
                "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **order},
                "resampling_fn_probabilities": RESAMPLING,
                "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **order},
                "architecture": ARCHITECTURE,
                "batch_dice": True,
            }
        },
    }


def write_model(
    folder: Path,
    *,
    channels: tuple[str, ...] = ("T1w", "FLAIR"),
    inputs: tuple[tuple[str, ...], ...] = (("T1w", "FLAIR"), ("T1w",), ("FLAIR",)),
    folds: int = 1,
    patch: int = 16,
    spacing: float = 2.0,
    **sections: str,
) -> Path:
    """Write a model folder and its descriptor; return the descriptor's path."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    model = folder / "tiny"
    model.mkdir(parents=True)
    write_json(model / "plans.json", plans(len(channels), patch, spacing))
    names = {str(i): c for i, c in enumerate(channels)}
    labels = {"background": 0, "lesion": 1}
    dataset = {"channel_names": names, "labels": labels, "file_ending": ".nii.gz", "numTraining": 1}
    write_json(model / "dataset.json", dataset)
    for fold in range(folds):
        torch.manual_seed(fold)
        network = get_network_from_plans(
            ARCHITECTURE["network_class_name"],
            ARCHITECTURE["arch_kwargs"],
            ARCHITECTURE["_kw_requires_import"],
            len(channels),
            2,
            deep_supervision=True,
        )
        (model / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": network.state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres"},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        torch.save(checkpoint, model / f"fold_{fold}" / "checkpoint_final.pth")
    return write_text(folder / "tiny.toml", descriptor(folder, channels, inputs, **sections))


def descriptor(
    folder: Path,
    channels: tuple[str, ...],
    inputs: tuple[tuple[str, ...], ...],
    *,
    preprocessing: str = 'steps = ["reorient", "brain_extraction", "n4", "register", "crop", '
    '"zscore"]\nreference = "T1w"',
    inference: str = "",
    operating_point: str = "threshold = 0.5\nmin_volume_mm3 = 10.0",
) -> str:
    """Text of a descriptor for the tiny model."""
    listed = lambda words: "[" + ", ".join(f'"{w}"' for w in words) + "]"  # noqa: E731
    files = sorted(p for p in (folder / "tiny").rglob("*") if p.is_file())
    entries = "\n".join(
        f'[[files]]\npath = "{p.relative_to(folder).as_posix()}"\nsha256 = "{sha256(p)}"\n'
        f"size = {p.stat().st_size}\n"
        for p in files
    )
    return f"""
name = "tiny"
version = "1.0"
title = "Tiny network with random weights"
description = "For tests."
intended_use = "Tests only."
training_data = "Nothing: random weights."
licence = "CC0-1.0"
citation = "none"
format = "nnunetv2"
folder = "tiny"
synthetic = true
channels = {listed(channels)}
inputs = [{", ".join(listed(i) for i in inputs)}]

[preprocessing]
{preprocessing}

[inference]
{inference}

[operating_point]
{operating_point}

{entries}
"""
