"""The losses against hand-made values, the authors' formula and nnU-Net's."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from bids_stroke.errors import UsageError
from bids_stroke.models.losses import DiceAndBinaryCrossEntropy, build_loss, deeply_supervised
from bids_stroke.models.recipe import Loss


def logits_and_label(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((2, 2, 6, 6, 6), generator=generator)
    return logits, (torch.rand((2, 1, 6, 6, 6), generator=generator) < 0.3).float()


def test_tomita_is_one_tenth_entropy_and_nine_tenths_dice() -> None:
    """Their code: sigmoid of one output, BCELoss, and a Dice over all voxels of the batch."""
    logits, label = logits_and_label()
    probability = (logits[:, 1] - logits[:, 0]).sigmoid()
    truth = label[:, 0]
    entropy = nn.BCELoss()(probability, truth)
    dice = 2 * (probability * truth).sum() / (probability.sum() + truth.sum())
    loss = build_loss(Loss(name="dice_bce", dice_weight=0.9, ce_weight=0.1), batch_dice=True)
    assert loss(logits, label).item() == pytest.approx((0.1 * entropy + 0.9 * (1 - dice)).item())


def test_its_entropy_is_the_cross_entropy_of_the_two_logits() -> None:
    logits, label = logits_and_label()
    loss = DiceAndBinaryCrossEntropy(dice_weight=0.0, ce_weight=1.0)
    expected = functional.cross_entropy(logits, label[:, 0].long())
    assert loss(logits, label).item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_perfect_prediction_costs_nothing() -> None:
    _, label = logits_and_label()
    logits = torch.cat([20 - 40 * label, 40 * label - 20], dim=1)
    assert DiceAndBinaryCrossEntropy(0.9, 0.1)(logits, label).item() == pytest.approx(0, abs=1e-5)


def test_nothing_there_and_nothing_found_costs_little() -> None:
    label = torch.zeros(1, 1, 4, 4, 4)
    logits = torch.stack([torch.full((1, 4, 4, 4), 60.0), torch.full((1, 4, 4, 4), -60.0)], dim=1)
    assert DiceAndBinaryCrossEntropy(0.9, 0.1)(logits, label).item() == pytest.approx(0, abs=1e-3)


def test_ignored_voxels_do_not_count() -> None:
    logits, label = logits_and_label()
    loss = DiceAndBinaryCrossEntropy(0.9, 0.1, ignore_label=2)
    label[..., 3:] = 2
    changed = logits.clone()
    changed[..., 3:] += 5
    changed[:, 1, ..., 3:] -= 9
    assert loss(logits, label).item() == pytest.approx(loss(changed, label).item())
    assert loss(logits, label).item() == pytest.approx(
        loss(logits[..., :3], label[..., :3]).item(), rel=1e-5
    )


@pytest.mark.parametrize("name", ["dice_ce", "dice_topk", "dice_bce"])
def test_losses_have_gradients(name: str) -> None:
    logits, label = logits_and_label()
    logits.requires_grad_()
    build_loss(Loss(name=name), batch_dice=True)(logits, label).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_dice_and_cross_entropy_are_nnunets() -> None:
    logits, label = logits_and_label()
    loss = build_loss(Loss(dice_weight=1.0, ce_weight=1.0), batch_dice=False)
    found = logits.softmax(1)[:, 1]
    truth = label[:, 0]
    axes = (1, 2, 3)
    both, total = (found * truth).sum(axes), found.sum(axes) + truth.sum(axes)
    dice = ((2 * both + 1e-5) / (total + 1e-5)).mean()
    entropy = functional.cross_entropy(logits, label[:, 0].long())
    assert loss(logits, label).item() == pytest.approx((entropy - dice).item(), abs=1e-5)


def test_top_k_takes_the_worst_voxels() -> None:
    logits, label = logits_and_label()
    loss = build_loss(Loss(name="dice_topk", dice_weight=0.0, top_k=10.0), batch_dice=True)
    voxels = functional.cross_entropy(logits, label[:, 0].long(), reduction="none").flatten()
    worst = voxels.topk(int(0.1 * voxels.numel())).values.mean()
    assert loss(logits, label).item() == pytest.approx(worst.item(), rel=1e-5)


def test_lower_outputs_count_half_each_and_the_lowest_nothing() -> None:
    loss = deeply_supervised(lambda output, label: output, 4)  # type: ignore[arg-type]
    one = torch.ones(())
    assert loss([one, one, one, one], [one] * 4).item() == pytest.approx(1)
    assert loss([one, 0 * one, 0 * one, one], [one] * 4).item() == pytest.approx(4 / 7)


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(UsageError, match="no loss 'hinge'"):
        build_loss(Loss(name="hinge"), batch_dice=True)
