"""A tiny preprocessed dataset of nnU-Net and plans with a recipe, for tests of training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bids_stroke.core.files import write_json
from bids_stroke.models.recipe import PLANS_KEY, Recipe, from_table, plain
from tests.tiny_model import ARCHITECTURE
from tests.tiny_model import plans as tiny_plans

DATASET = "Dataset001_phantom"
CONFIGURATION = "3d_fullres"
FOLD_FOLDER = f"RecipeTrainer__train__{CONFIGURATION}"


def phantom(seed: int, channels: int, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Image [c, z, y, x] of noise with a bright ball, and its label [1, z, y, x]; -1 is outside."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"))
    centre = rng.integers(8, size - 8, 3).reshape(3, 1, 1, 1)
    lesion = ((grid - centre) ** 2).sum(0) < 20
    brain = ((grid - size / 2) ** 2).sum(0) < (size / 2) ** 2
    image = np.where(brain, rng.normal(size=(channels, size, size, size)) + 2 * lesion, 0)
    label = np.where(brain, lesion, -1)
    return image.astype(np.float32), label[None].astype(np.int16)


def write_dataset(root: Path, channels: int, cases: int = 4) -> None:
    """Arrays, fingerprint and one split, as nnU-Net's preprocessing leaves them."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    folder = root / "preprocessed" / DATASET / "tiny"
    folder.mkdir(parents=True)
    for number in range(cases):
        image, label = phantom(number, channels)
        places = np.argwhere(label == 1)
        properties = {"class_locations": {1: places, (1,): places}}
        size = {"chunks": image.shape, "blocks": image.shape}
        size |= {"chunks_seg": label.shape, "blocks_seg": label.shape}
        nnUNetDatasetBlosc2.save_case(
            image, label, properties, str(folder / f"case{number}"), **size
        )
    names = [f"case{number}" for number in range(cases)]
    write_json(folder.parent / "dataset_fingerprint.json", {})
    splits = [{"train": names[1:], "val": names[:1]}]
    write_json(folder.parent / "splits_final.json", splits)


def settings(recipe: Recipe, patch: list[int]) -> dict[str, Any]:
    """Plans with a tiny network, or the recipe's own class, for one recipe."""
    plans = tiny_plans(len(recipe.channels), 16, 1.0)
    configuration = plans["configurations"][CONFIGURATION]
    configuration["patch_size"] = patch
    configuration["batch_size"] = recipe.plan.batch_size or 2
    if recipe.network.class_name:
        configuration["architecture"] = {
            "network_class_name": recipe.network.class_name,
            "arch_kwargs": dict(recipe.network.kwargs),
            "_kw_requires_import": list(recipe.network.imports),
        }
    else:
        kwargs = {**ARCHITECTURE["arch_kwargs"], **recipe.network.kwargs}
        configuration["architecture"] = {**ARCHITECTURE, "arch_kwargs": kwargs}
    return {
        **plans,
        "dataset_name": DATASET,
        "plans_name": "train",
        PLANS_KEY: plain(recipe),
        "continue_training": False,
    }


def make_trainer(root: Path, recipe: Recipe, patch: tuple[int, ...] = (16, 16, 16)) -> Any:
    """A trainer on the CPU; the dataset is written on the first call for a folder."""
    from bids_stroke.models.trainers import RecipeTrainer

    if not (root / "preprocessed").exists():
        write_dataset(root, len(recipe.channels))
    dataset = {
        "channel_names": {str(i): c for i, c in enumerate(recipe.channels)},
        "labels": {"background": 0, "lesion": 1},
        "file_ending": ".nii.gz",
        "numTraining": 4,
    }
    return RecipeTrainer(
        settings(recipe, list(patch)), CONFIGURATION, 0, dataset, torch.device("cpu")
    )


def tiny_recipe(**sections: Any) -> Recipe:
    """A recipe of two epochs with two iterations each, with other sections on request."""
    table: dict[str, Any] = {
        "name": "phantom",
        "title": "phantom",
        "description": "phantom",
        "channels": ["T1w", "FLAIR"],
        "preprocessing": {"steps": ["brain_extraction"], "reference": "T1w"},
        "schedule": {"epochs": 2, "iterations": 2, "validation_iterations": 1},
    }
    for key, value in sections.items():
        table[key] = {**table.get(key, {}), **value} if isinstance(value, dict) else value
    return from_table(table)


def nnunet_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point nnU-Net's variables to a folder, without worker processes."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(root / name))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
