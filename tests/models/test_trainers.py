"""The trainer: rates, optimizers, what is kept, resuming, and that inference finds its models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bids_stroke.errors import UnusableData
from bids_stroke.models.recipe import Optimiser, Schedule
from bids_stroke.models.trainers import (
    KEPT,
    Rates,
    RecipeTrainer,
    build_optimizer,
    learning_rate,
    snapshot_name,
)
from bids_stroke.models.weights import load_checkpoint
from tests.models.phantom_training import FOLD_FOLDER, make_trainer, nnunet_folders, tiny_recipe

# All three come from inside nnU-Net.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:The given NumPy array is not writable:UserWarning",
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    nnunet_folders(tmp_path, monkeypatch)
    return tmp_path


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# Learning rate


def test_poly_is_that_of_nnunet() -> None:
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    optimizers = [torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.01) for _ in range(2)]
    theirs = PolyLRScheduler(optimizers[0], 0.01, 100)
    ours = Rates(optimizers[1], 0.01, Schedule(epochs=100))
    for epoch in (0, 1, 50, 99):
        theirs.step(epoch)
        ours.step(epoch)
        assert optimizers[1].param_groups[0]["lr"] == pytest.approx(
            optimizers[0].param_groups[0]["lr"]
        )


def test_cosine_with_restarts_is_that_of_torch() -> None:
    schedule = Schedule(name="cosine_restarts", restart_epochs=50, epochs=150)
    optimizer = torch.optim.Adam(nn.Linear(1, 1).parameters(), lr=1e-3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 50)
    for epoch in (0.0, 10.5, 49.9, 50.0, 75.0, 149.5):
        theirs.step(epoch)  # type: ignore[arg-type]
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(schedule, 1e-3, epoch) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "epoch", "expected"),
    [("constant", 77.0, 1.0), ("cosine", 0.0, 1.0), ("cosine", 50.0, 0.55), ("cosine", 100.0, 0.1)],
)
def test_rates_lie_between_the_first_and_the_lowest(
    name: str, epoch: float, expected: float
) -> None:
    schedule = Schedule(name=name, epochs=100, lowest_rate=0.1)
    assert learning_rate(schedule, 1.0, epoch) == pytest.approx(expected)


def test_the_rate_rises_over_the_first_iterations() -> None:
    schedule = Schedule(name="constant", epochs=10, iterations=10, warmup_iterations=20)
    found = [learning_rate(schedule, 1.0, epoch) for epoch in (0.0, 0.9, 1.9, 5.0)]
    assert found == pytest.approx([0.05, 0.5, 1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_optimizers_have_the_settings_of_the_recipe(name: str, kind: type) -> None:
    settings = Optimiser(name=name, learning_rate=0.02, weight_decay=0.003)
    group = build_optimizer(nn.Linear(1, 1), settings).param_groups[0]
    assert type(build_optimizer(nn.Linear(1, 1), settings)) is kind
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.003)
    if name == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.99, True)


# Training


def test_its_settings_are_those_of_the_recipe(root: Path) -> None:
    recipe = tiny_recipe(
        optimiser={"learning_rate": 0.2, "weight_decay": 0.1},
        schedule={"epochs": 9, "stop_after": 5, "iterations": 7, "validation_iterations": 3},
        patches={"foreground": 0.6},
    )
    trainer = make_trainer(root, recipe)
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (5, 7)
    assert trainer.num_val_iterations_per_epoch == 3
    assert (trainer.initial_lr, trainer.weight_decay) == (0.2, 0.1)
    assert trainer.oversample_foreground_percent == 0.6
    assert not trainer.probabilistic_oversampling


def test_a_batch_of_one_is_drawn_from_lesions_by_chance(root: Path) -> None:
    trainer = make_trainer(root, tiny_recipe(plan={"batch_size": 1}))
    assert trainer.probabilistic_oversampling


def test_training_runs_and_the_predictor_loads_what_it_leaves(root: Path) -> None:
    from bids_stroke.models import descriptor, predictor
    from tests.tiny_model import write_model

    recipe = tiny_recipe(
        schedule={"keep": "best_loss"}, inference={"snapshots": [1]}, augmentation={"dropout": 0.5}
    )
    make_trainer(root, recipe).run_training()
    fold = root / "results" / "Dataset001_phantom" / FOLD_FOLDER / "fold_0"
    written = {p.name for p in fold.glob("*.pth")}
    assert written == {*KEPT.values(), snapshot_name(1)}
    path = write_model(root / "store", spacing=1.0)
    for name in written:
        checkpoint = load_checkpoint(fold / name)
        assert checkpoint["trainer_name"] == "nnUNetTrainer"
        target = path.parent / "tiny" / "fold_0" / "checkpoint_final.pth"
        target.write_bytes((fold / name).read_bytes())
        loaded = predictor.load(descriptor.load(path))
        assert same(dict(loaded.network.state_dict()), dict(checkpoint["network_weights"]))


def test_stock_nnunet_runs_the_model_that_training_leaves(root: Path) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    network = {
        "class_name": "bids_stroke.models.networks.volumes.UNet3d",
        "kwargs": {"features": [4, 8, 8]},
        "deep_supervision": False,
    }
    make_trainer(root, tiny_recipe(network=network)).run_training()
    peer = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    folder = root / "results" / "Dataset001_phantom" / FOLD_FOLDER
    peer.initialize_from_trained_model_folder(str(folder), (0,))
    assert type(peer.network).__name__ == "UNet3d"


def test_the_lowest_validation_loss_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(root, tiny_recipe(schedule={"epochs": 3, "keep": "best_loss"}))
    losses = iter([2.0, 1.0, 3.0])
    step = trainer.validation_step
    monkeypatch.setattr(trainer, "validation_step", lambda b: {**step(b), "loss": next(losses)})
    trainer.run_training()
    kept = load_checkpoint(Path(trainer.output_folder) / KEPT["best_loss"])
    assert kept["current_epoch"] == 2


def test_a_resumed_trainer_has_everything_of_the_first(root: Path) -> None:
    recipe = tiny_recipe(schedule={"epochs": 4, "ema": 0.9})
    first = make_trainer(root, recipe)
    first.num_epochs = 2
    first.run_training()
    file = Path(first.output_folder) / "checkpoint_final.pth"
    second = make_trainer(root, recipe)
    second.load_checkpoint(str(file))
    assert second.current_epoch == 2
    assert same(first.network.state_dict(), second.network.state_dict())
    assert same(first.average.state_dict(), second.average.state_dict())
    one, other = (t.optimizer.state_dict()["state"] for t in (first, second))
    assert torch.equal(one[0]["momentum_buffer"], other[0]["momentum_buffer"])
    second.run_training()
    assert len(second.logger.get_value("val_losses", step=None)) == 4


def test_the_moving_average_is_what_is_saved_and_validated(root: Path) -> None:
    trainer = make_trainer(root, tiny_recipe(schedule={"ema": 0.999}))
    trainer.run_training()
    saved = load_checkpoint(Path(trainer.output_folder) / "checkpoint_final.pth")
    assert same(saved["network_weights"], trainer.average.state_dict())
    assert same(saved["trained_weights"], trainer.network.state_dict())
    assert not same(saved["network_weights"], saved["trained_weights"])
    trainer.on_validation_epoch_start()
    assert trainer.network is trainer.average


def test_the_average_follows_the_rule(root: Path) -> None:
    trainer = make_trainer(root, tiny_recipe(schedule={"ema": 0.5}))
    trainer.initialize()
    before = trainer.average.state_dict()["encoder.stages.0.0.convs.0.conv.weight"].clone()
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            parameter.add_(1.0)
    trainer._move_average()
    after = trainer.average.state_dict()["encoder.stages.0.0.convs.0.conv.weight"]
    assert torch.allclose(after, before + 0.9)  # (1 + 0) / (10 + 0) of the old value is kept


def test_other_weights_start_with_a_fresh_optimizer(root: Path) -> None:
    trainer = make_trainer(root, tiny_recipe(schedule={"ema": 0.5}))
    trainer.initialize()
    weights = {n: torch.full_like(t, 0.1) for n, t in trainer.network.state_dict().items()}
    trainer.start_from(weights)
    assert same(weights, trainer.network.state_dict())
    assert same(weights, trainer.average.state_dict())
    assert not trainer.optimizer.state_dict()["state"]


def test_there_is_no_mixed_precision_on_the_cpu(root: Path) -> None:
    trainer = make_trainer(root, tiny_recipe(network={"deep_supervision": False}))
    trainer.initialize()
    seen: list[Any] = []
    trainer.network.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    batch = {"data": torch.randn(2, 2, 16, 16, 16), "target": torch.zeros(2, 1, 16, 16, 16)}
    trainer.train_step(batch)
    assert seen == [torch.float32]


def test_gradients_are_clipped_as_the_recipe_says(root: Path) -> None:
    recipe = tiny_recipe(
        optimiser={"clip": 1e-4, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
        network={"deep_supervision": False},
    )
    trainer = make_trainer(root, recipe)
    trainer.initialize()
    before = torch.cat([p.detach().flatten().clone() for p in trainer.network.parameters()])
    batch = {"data": torch.randn(2, 2, 16, 16, 16), "target": torch.ones(2, 1, 16, 16, 16)}
    trainer.train_step(batch)
    after = torch.cat([p.detach().flatten() for p in trainer.network.parameters()])
    assert (after - before).norm().item() == pytest.approx(1e-4 * trainer.initial_lr, rel=0.01)


def test_encoder_weights_of_another_network_are_refused(root: Path) -> None:
    recipe = tiny_recipe(network={"encoder_weights": "med3d.pth"})
    with pytest.raises(UnusableData, match="ResNetUNet3d"):
        make_trainer(root, recipe).initialize()


def test_equal_seeds_give_equal_first_weights(root: Path) -> None:
    one, other, third = (make_trainer(root, tiny_recipe(seed=s)) for s in (4, 4, 5))
    for trainer in (one, other, third):
        trainer.initialize()
    assert same(one.network.state_dict(), other.network.state_dict())
    assert not same(one.network.state_dict(), third.network.state_dict())


def test_the_constructor_names_its_arguments() -> None:
    """nnU-Net saves them by name, and makes a trainer of them again."""
    import inspect

    names = list(inspect.signature(RecipeTrainer.__init__).parameters)
    assert names == ["self", "plans", "configuration", "fold", "dataset_json", "device"]
