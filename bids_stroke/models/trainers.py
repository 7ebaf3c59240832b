"""nnU-Net's trainer, configured by the recipe that its plans hold under ``"bids_stroke"``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bids_stroke.errors import UsageError
from bids_stroke.models import augmentation
from bids_stroke.models.losses import build_loss, deeply_supervised
from bids_stroke.models.networks.volumes import find_encoder
from bids_stroke.models.recipe import PLANS_KEY, Optimiser, Schedule, from_table
from bids_stroke.models.torchvision_shim import ensure_torchvision
from bids_stroke.models.weights import load_checkpoint, save_checkpoint

ensure_torchvision()

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: E402

KEPT = {  # checkpoint of each choice of ``schedule.keep``
    "final": "checkpoint_final.pth",
    "best_loss": "checkpoint_best_loss.pth",
    "best_dice": "checkpoint_best.pth",
}
_CUDA = torch.device("cuda")


def snapshot_name(epoch: int) -> str:
    """File of the weights after ``epoch`` epochs, where ``inference.snapshots`` asks for them."""
    return f"checkpoint_epoch_{epoch:04d}.pth"


def learning_rate(schedule: Schedule, initial: float, epoch: float) -> float:
    """Learning rate at ``epoch`` (a fraction within it), between ``initial`` and the lowest.

    ``poly`` falls once an epoch, as nnU-Net's does; the cosines fall with each iteration.
    """
    shares = {
        "poly": (1 - min(math.floor(epoch) / schedule.epochs, 1)) ** schedule.power,
        "cosine": _cosine(min(epoch / schedule.epochs, 1)),
        "cosine_restarts": _cosine(epoch % schedule.restart_epochs / schedule.restart_epochs),
        "constant": 1.0,
    }
    rate = schedule.lowest_rate + (initial - schedule.lowest_rate) * shares[schedule.name]
    begun = round(epoch * schedule.iterations) + 1
    return rate * min(begun / schedule.warmup_iterations, 1) if schedule.warmup_iterations else rate


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


class Rates:
    """Sets the learning rate of an optimizer; ``step`` takes the epoch, as nnU-Net calls it."""

    def __init__(self, optimizer: torch.optim.Optimizer, initial: float, plan: Schedule) -> None:
        self.optimizer, self.initial, self.plan = optimizer, initial, plan

    def step(self, epoch: float) -> None:
        """Set the rate of this moment."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.plan, self.initial, epoch)


def build_optimizer(network: nn.Module, settings: Optimiser) -> torch.optim.Optimizer:
    """The optimizer of a recipe's table ``optimiser``."""
    common: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    match settings.name:
        case "sgd":
            return torch.optim.SGD(
                network.parameters(),
                momentum=settings.momentum,
                nesterov=settings.nesterov,
                **common,
            )
        case "adam":
            return torch.optim.Adam(network.parameters(), **common)
        case "adamw":
            return torch.optim.AdamW(network.parameters(), **common)
    raise UsageError(f"There is no optimiser '{settings.name}': correct the recipe.")


class RecipeTrainer(nnUNetTrainer):
    """Trains one fold as ``plans["bids_stroke"]`` says; where that says nothing, as nnU-Net does.

    A checkpoint names nnU-Net's own trainer, because the network is built from the plans alone:
    any program of nnU-Net that has bids_stroke beside it finds it at inference.
    """

    network: Any
    is_ddp: bool

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = _CUDA,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.recipe = recipe = from_table(self.plans_manager.plans[PLANS_KEY])
        self.initial_lr = recipe.optimiser.learning_rate
        self.weight_decay = recipe.optimiser.weight_decay
        self.num_epochs = min(
            recipe.schedule.epochs, recipe.schedule.stop_after or recipe.schedule.epochs
        )
        self.num_iterations_per_epoch = recipe.schedule.iterations
        self.num_val_iterations_per_epoch = recipe.schedule.validation_iterations
        self.oversample_foreground_percent = recipe.patches.foreground
        # nnU-Net rounds the share of a batch, so that a batch of one would never be drawn so.
        self.probabilistic_oversampling = self.configuration_manager.batch_size == 1
        self.enable_deep_supervision = recipe.network.deep_supervision
        self.save_every = 1
        self.average: nn.Module | None = None
        self._trained: Any = None
        self._iteration = 0
        if self.is_ddp and device.type == "cpu":  # nnU-Net has DDP on CUDA only
            self.device, self.grad_scaler = device, None

    # Network, optimizer, loss

    def initialize(self) -> None:
        """Build the network from seeded weights, with those of an encoder where the recipe asks."""
        ranks, self.is_ddp = self.is_ddp, False
        self._seed(0)
        super().initialize()
        if self.recipe.network.encoder_weights:
            encoder = find_encoder(self.module)
            encoder.load_encoder(Path(self.recipe.network.encoder_weights))
        if ranks:
            self._share()
        self._begin_average()

    def _seed(self, rank: int) -> None:
        torch.manual_seed(self.recipe.seed + rank)
        np.random.seed(self.recipe.seed + rank)

    def _share(self) -> None:
        """Share the network with the other ranks, which draw patches of their own.

        As in nnU-Net's ``initialize``, and on the CPU as well; there, batch normalisation knows the
        rank's part of a batch only. The weights become those of the first rank.
        """
        self.is_ddp = True
        self._set_batch_size_and_oversample()
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
        self.network = DistributedDataParallel(
            self.network,
            device_ids=[self.device.index] if on_gpu else None,
            find_unused_parameters=not self.enable_deep_supervision,
        )
        self.loss = self._build_loss()
        self._seed(self.local_rank)

    @property
    def module(self) -> nn.Module:
        """The network without what DDP and torch.compile put around it."""
        network: Any = self.network.module if self.is_ddp else self.network
        return getattr(network, "_orig_mod", network)

    def start_from(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Begin with these weights, in the shapes of the network; the optimizer starts fresh."""
        self.module.load_state_dict(weights)
        self._begin_average()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Rates]:
        """Optimizer and learning rate of the recipe."""
        optimizer = build_optimizer(self.network, self.recipe.optimiser)
        return optimizer, Rates(optimizer, self.initial_lr, self.recipe.schedule)

    def _build_loss(self) -> nn.Module:
        loss = build_loss(
            self.recipe.loss,
            batch_dice=self.configuration_manager.batch_dice,
            ignore_label=self.label_manager.ignore_label,
            ddp=self.is_ddp,
        )
        scales = self._get_deep_supervision_scales()
        # DDP fails on outputs that the loss does not use.
        return deeply_supervised(loss, len(scales), 1e-6 * self.is_ddp) if scales else loss

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switch the lower outputs of nnU-Net's own networks on or off; others have one output."""
        if self.enable_deep_supervision:
            super().set_deep_supervision_enabled(enabled)

    # Data

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(  # noqa: N802
        self,
    ) -> tuple[tuple[float, float], bool, np.ndarray, tuple[int, ...]]:
        """Rotation, whether in the plane only, size of the drawn patch, axes to mirror."""
        planned = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        patch = self.configuration_manager.patch_size
        settings = self.recipe.augmentation
        angles, in_plane = augmentation.rotation(settings, planned[0]), planned[1]
        axes = augmentation.mirror_axes(settings, len(patch))
        self.inference_allowed_mirroring_axes = axes
        return angles, in_plane, augmentation.drawn_size(settings, patch, angles, in_plane), axes

    def get_training_transforms(
        self,
        patch_size: Any,
        rotation_for_DA: Any,  # noqa: N803
        deep_supervision_scales: Any,
        mirror_axes: tuple[int, ...],
        do_dummy_2d_data_aug: bool,
        use_mask_for_norm: list[bool] | None = None,
        **_: Any,
    ) -> Any:
        """Transforms of the recipe's augmentation."""
        return augmentation.training_transforms(
            self.recipe.augmentation,
            patch=patch_size,
            angles=rotation_for_DA,
            mirrored=mirror_axes,
            in_plane=do_dummy_2d_data_aug,
            use_mask_for_norm=use_mask_for_norm or (),
            deep_supervision_scales=deep_supervision_scales,
        )

    # Iterations

    def on_train_epoch_start(self) -> None:
        """Begin to count the iterations of the epoch."""
        self._iteration = 0
        super().on_train_epoch_start()

    def train_step(self, batch: dict) -> dict:
        """One update; mixed precision on CUDA only."""
        self.lr_scheduler.step(self.current_epoch + self._iteration / self.num_iterations_per_epoch)
        image, label = (self._on_device(batch[key]) for key in ("data", "target"))
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            loss = self.loss(self.network(image), label)
        self._update(loss)
        self._iteration += 1
        return {"loss": loss.detach().cpu().numpy()}

    def _on_device(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._on_device(v) for v in value]
        return value.to(self.device, non_blocking=True)

    def _update(self, loss: torch.Tensor) -> None:
        """Step along the clipped gradient, and move the average."""
        scaler = self.grad_scaler
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optimiser.clip)
        if scaler:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            self.optimizer.step()
        self._move_average()

    # Moving average of the weights

    def _begin_average(self) -> None:
        if self.recipe.schedule.ema > 0:
            self.average = deepcopy(self.module).requires_grad_(False)

    @torch.no_grad()
    def _move_average(self) -> None:
        """Towards the weights, faster in the beginning; running statistics are copied."""
        if self.average is None:
            return
        done = self.current_epoch * self.num_iterations_per_epoch + self._iteration
        keep = min(self.recipe.schedule.ema, (1 + done) / (10 + done))
        for slow, fast in zip(self.average.parameters(), self.module.parameters(), strict=True):
            slow.lerp_(fast, 1 - keep)
        for held, new in zip(self.average.buffers(), self.module.buffers(), strict=True):
            held.copy_(new)

    def on_validation_epoch_start(self) -> None:
        """Validate the average where there is one: it is what is kept."""
        self._trained = self.network
        if self.average is not None:
            self.network = self.average
        super().on_validation_epoch_start()

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Go back to the network that is trained."""
        self.network = self._trained
        super().on_validation_epoch_end(val_outputs)

    # Checkpoints and log

    def on_epoch_end(self) -> None:
        """Save what the recipe keeps: the lowest validation loss, and snapshots."""
        super().on_epoch_end()
        losses = self.logger.get_value("val_losses", step=None)
        self.current_epoch -= 1  # as nnU-Net does: a checkpoint counts the epoch that it ends
        if self.recipe.schedule.keep == "best_loss" and losses[-1] <= min(losses):
            self.save_checkpoint(str(Path(self.output_folder) / KEPT["best_loss"]))
        if self.current_epoch + 1 in self.recipe.inference.snapshots:
            name = snapshot_name(self.current_epoch + 1)
            self.save_checkpoint(str(Path(self.output_folder) / name))
        self.current_epoch += 1

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint of nnU-Net whole or not at all; the average is its network."""
        if self.local_rank != 0 or self.disable_checkpointing:
            return
        save_checkpoint(Path(filename), self.state())

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        network = self.module.state_dict()
        averaged = {"trained_weights": network} if self.average is not None else {}
        return {
            "network_weights": self.average.state_dict() if self.average is not None else network,
            **averaged,
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler else None,
            "logging": self.logger.get_checkpoint(),
            "_best_ema": self._best_ema,
            "current_epoch": self.current_epoch + 1,
            "init_args": {**self.my_init_kwargs, "device": str(self.device)},
            "trainer_name": "nnUNetTrainer",
            "recipe": self.recipe.name,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
        }

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Go on from a checkpoint, which is read as tensors and plain values only."""
        if not self.was_initialized:
            self.initialize()
        given = filename_or_checkpoint
        checkpoint = given if isinstance(given, dict) else load_checkpoint(Path(given))
        averaged = checkpoint["network_weights"]
        self.module.load_state_dict(checkpoint.get("trained_weights", averaged))
        if self.average is not None:
            self.average.load_state_dict(averaged)
        self.optimizer.load_state_dict(checkpoint["optimizer_state"])
        if self.grad_scaler and checkpoint["grad_scaler_state"]:
            self.grad_scaler.load_state_dict(checkpoint["grad_scaler_state"])
        self.logger.load_checkpoint(checkpoint["logging"])
        self.current_epoch = checkpoint["current_epoch"]
        self._best_ema = checkpoint["_best_ema"]
        self.inference_allowed_mirroring_axes = checkpoint["inference_allowed_mirroring_axes"]

    def print_to_log_file(
        self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True
    ) -> None:
        """Write to the log file; the screen is for the progress line."""
        super().print_to_log_file(*args, also_print_to_console=False, add_timestamp=add_timestamp)

    def plot_network_architecture(self) -> None:
        """Nothing: the library that nnU-Net calls for it is not maintained."""

    def _save_debug_information(self) -> None:
        """Nothing: it would write the name of the computer."""
