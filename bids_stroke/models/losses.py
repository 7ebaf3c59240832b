"""Losses of the recipes on logits of two classes; nnU-Net's own where it has them."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bids_stroke.errors import UsageError
from bids_stroke.models.recipe import Loss
from bids_stroke.models.torchvision_shim import ensure_torchvision

ensure_torchvision()

from nnunetv2.training.loss.compound_losses import (  # noqa: E402
    DC_and_CE_loss,
    DC_and_topk_loss,
)
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper  # noqa: E402
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss  # noqa: E402
from nnunetv2.utilities.ddp_allgather import AllGatherGrad  # noqa: E402

_EPSILON = float(np.finfo(np.float64).eps)


class DiceAndBinaryCrossEntropy(nn.Module):
    """Weighted sum of a soft Dice over the whole batch and the mean binary cross-entropy.

    ``forward(logits [b, 2, ...], label [b, 1, ...])``: the lesion's probability is the sigmoid of
    the difference of the two logits. Voxels of ``ignore_label`` do not count. Without lesion in
    label and prediction the Dice part nears 0. With ``ddp`` the batch is that of all ranks. Source:
    Tomita et al. 2020, with their code's terms.
    """

    def __init__(
        self,
        dice_weight: float,
        ce_weight: float,
        ignore_label: int | None = None,
        ddp: bool = False,
    ) -> None:
        super().__init__()
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.ignore_label, self.ddp = ignore_label, ddp

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar."""
        if logits.shape[1] != 2:
            raise UsageError("The loss dice_bce is for background and one lesion class.")
        lesion = (logits[:, 1] - logits[:, 0]).float()
        truth = (label[:, 0] == 1).float()
        known = self._known(label[:, 0])
        entropy = functional.binary_cross_entropy_with_logits(lesion, truth, reduction="none")
        found = lesion.sigmoid() * known
        parts = (entropy * known, known, found * truth, found, truth * known)
        sums = torch.stack([part.sum() for part in parts])
        total, voxels, both, predicted, real = (
            AllGatherGrad.apply(sums).sum(0) if self.ddp else sums
        )
        dice = (2 * both + _EPSILON) / (predicted + real + _EPSILON)
        return self.ce_weight * total / voxels.clamp(min=1) + self.dice_weight * (1 - dice)

    def _known(self, label: torch.Tensor) -> torch.Tensor:
        if self.ignore_label is None:
            return torch.ones_like(label, dtype=torch.float32)
        return (label != self.ignore_label).float()


def build_loss(
    settings: Loss,
    *,
    batch_dice: bool,
    ignore_label: int | None = None,
    ddp: bool = False,
) -> nn.Module:
    """The loss of a recipe's table ``loss`` for one output, called with (logits, label).

    With ``ddp`` a Dice over the batch is that of all ranks; the hardest voxels of ``dice_topk`` are
    chosen by each rank among its own.
    """
    weights = {"weight_ce": settings.ce_weight, "weight_dice": settings.dice_weight}
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": ddp}
    match settings.name:
        case "dice_bce":
            return DiceAndBinaryCrossEntropy(
                settings.dice_weight, settings.ce_weight, ignore_label, ddp
            )
        case "dice_topk":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # nnU-Net's arguments are out of date
                entropy = {"k": settings.top_k}
                return DC_and_topk_loss(dice, entropy, ignore_label=ignore_label, **weights)
        case "dice_ce":
            return DC_and_CE_loss(
                dice,
                {},
                ignore_label=ignore_label,
                dice_class=MemoryEfficientSoftDiceLoss,
                **weights,
            )
    raise UsageError(f"There is no loss '{settings.name}': correct the recipe.")


def deeply_supervised(loss: nn.Module, outputs: int, lowest: float = 0.0) -> nn.Module:
    """Loss over outputs from full to lowest size, each with half the weight of the one before.

    The lowest output gets the weight ``lowest``. Source: nnU-Net v2.
    """
    weights = np.array([0.5**i for i in range(outputs)])
    weights[-1] = lowest
    return DeepSupervisionWrapper(loss, tuple(weights / weights.sum()))
