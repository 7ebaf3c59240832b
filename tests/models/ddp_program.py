"""What a rank does in tests: steps of trainers on its part of a batch that is the same for all.

``python -m tests.models.ddp_program ROOT RANK RANKS``; what it found goes to ``ROOT/rank-RANK.pt``.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bids_stroke.models.ranks import member
from bids_stroke.models.recipe import Recipe
from tests.models.phantom_training import make_trainer, tiny_recipe

BATCH, PATCH = 4, (8, 8, 8)
VARIANTS: dict[str, dict[str, Any]] = {
    "dice_ce": {},
    "dice_bce": {"loss": {"name": "dice_bce"}, "schedule": {"ema": 0.9}},
    "deeply supervised": {"network": {"deep_supervision": True}},
    "Tomita's network": {
        "network": {
            "class_name": "bids_stroke.models.networks.tomita.ResidualUNet3d",
            "kwargs": {"features": [4, 8], "groups": 2},
            "deep_supervision": False,
        },
    },
    "batch normalisation": {
        "network": {
            "kwargs": {"norm_op": "torch.nn.modules.batchnorm.BatchNorm3d"},
            "deep_supervision": False,
        }
    },
}
PART_ONLY = "batch normalisation"
"""On a CPU it knows a rank's part of the batch only."""


def recipe_of(variant: str) -> Recipe:
    """The tiny recipe with a batch of four, changed as the variant says."""
    sections = {
        "plan": {"batch_size": BATCH},
        "network": {"deep_supervision": False},
        "optimiser": {"name": "sgd", "learning_rate": 0.01},
    }
    return tiny_recipe(**{**sections, **VARIANTS[variant]})


def batch(trainer: Any, rank: int) -> dict[str, Any]:
    """A rank's part of four patches of noise with lesions of different sizes."""
    torch.manual_seed(7)
    share = torch.tensor([0.02, 0.1, 0.3, 0.6]).reshape(-1, 1, 1, 1, 1)
    label = (torch.rand(BATCH, 1, *PATCH) < share).short()
    part = slice(rank * trainer.batch_size, (rank + 1) * trainer.batch_size)
    data, label = torch.randn(BATCH, 2, *PATCH)[part], label[part]
    if not trainer.enable_deep_supervision:
        return {"data": data, "target": label}
    steps = [round(1 / scale[0]) for scale in trainer._get_deep_supervision_scales()]
    return {"data": data, "target": [label[..., ::s, ::s, ::s] for s in steps]}


def steps(root: Path, variant: str, rank: int = 0) -> dict[str, Any]:
    """Three steps, and what they leave."""
    trainer = make_trainer(root, recipe_of(variant), PATCH)
    trainer.initialize()
    drawn = float(np.random.random())  # noqa: NPY002 - what nnU-Net's loaders draw from
    trainer.on_train_epoch_start()
    part = batch(trainer, rank)
    losses, gradients = [], []
    for _ in range(3):
        losses.append(float(trainer.train_step(part)["loss"]))
        named = trainer.module.named_parameters()
        gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
    trainer.on_train_epoch_end([{"loss": np.float32(rank)}])
    return {
        "batch_size": trainer.batch_size,
        "foreground": trainer.oversample_foreground_percent,
        "drawn": drawn,
        "losses": losses,
        "mean of ranks": float(trainer.logger.get_value("train_losses", -1)),
        "gradients": gradients,
        "weights": trainer.state()["network_weights"],
    }


def main(root: Path, rank: int, ranks: int) -> None:
    """Run all variants as one of the ranks."""
    torch.set_num_threads(1)
    with member(rank, ranks, "cpu", root / "store"):
        found = {variant: steps(root, variant, rank) for variant in VARIANTS}
    torch.save(found, root / f"rank-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
