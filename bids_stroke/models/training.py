"""Train a small nnU-Net v2 network on a stream of samples, and write it as a model folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bids_stroke.core.files import write_json
from bids_stroke.models.architecture import plain_conv_unet
from bids_stroke.models.channels import MODALITIES
from bids_stroke.models.sampling import IGNORE
from bids_stroke.models.torchvision_shim import ensure_torchvision
from bids_stroke.models.weights import save_checkpoint

CONFIGURATION = "3d_fullres"
_BRAIN_MM = (135.0, 174.0, 141.0)  # z, y, x of a usual brain
BATCH_DICE = False  # a large lesion of one sample would hide the small ones of the other
BINS_ML = {"small": (0.0, 1.0), "medium": (1.0, 10.0), "large": (10.0, float("inf"))}


@dataclass(frozen=True, kw_only=True)
class Network:
    """A PlainConvUNet: features and convolutions by stage, patch in (z, y, x), spacing in mm."""

    channels: tuple[str, ...] = MODALITIES
    features: tuple[int, ...] = (16, 32, 64, 128, 160)
    encoder_convs: tuple[int, ...] = (1, 2, 2, 2, 2)
    decoder_convs: tuple[int, ...] = (1, 1, 1, 1)
    patch: tuple[int, int, int] = (64, 80, 64)
    spacing: float = 1.5


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """AdamW, warm-up, cosine; an exponential moving average of the weights is what is kept.

    Training ends after ``iterations`` or ``seconds``, whichever comes first, and the learning rate
    follows the same clock, so that a run on a shared machine ends on time and fully annealed.
    """

    iterations: int = 8000
    seconds: float = float("inf")
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 1e-2
    ema: float = 0.995
    clip: float = 5.0
    bfloat16: bool = False
    seed: int = 20

    def rate(self, progress: float, iteration: int) -> float:
        """Learning rate at ``progress`` in 0..1."""
        cosine = 0.5 * (1 + np.cos(np.pi * min(progress, 1.0)))
        warm = min((iteration + 1) / self.warmup, 1.0)
        return float(self.learning_rate * max(cosine, 0.005) * warm)


def _architecture(network: Network) -> dict[str, Any]:
    stages = len(network.features)
    return plain_conv_unet(
        features=network.features,
        kernels=[(3, 3, 3)] * stages,
        strides=[(1, 1, 1)] + [(2, 2, 2)] * (stages - 1),
        encoder_convs=network.encoder_convs,
        decoder_convs=network.decoder_convs,
    )


def _configuration(network: Network, name: str) -> dict[str, Any]:
    # Slices, however thick, are interpolated in 3-D: the samples were made that way.
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": False}
    return {
        "data_identifier": f"{name}_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(network.patch),
        "median_image_size_in_voxels": [mm / network.spacing for mm in _BRAIN_MM],
        "spacing": [network.spacing] * 3,
        "normalization_schemes": ["ZScoreNormalization"] * len(network.channels),
        "use_mask_for_norm": [True] * len(network.channels),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**resampling, "order": 3},
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": _architecture(network),
        "batch_dice": BATCH_DICE,
    }


def plans(network: Network, name: str) -> dict[str, Any]:
    """nnU-Net v2 plans with one configuration: z-score within the brain, isotropic voxels."""
    return {
        "dataset_name": name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [network.spacing] * 3,
        "original_median_shape_after_transp": [mm / network.spacing for mm in _BRAIN_MM],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: _configuration(network, name)},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(i): {} for i in range(len(network.channels))
        },
    }


def dataset_json(network: Network, name: str, samples: int) -> dict[str, Any]:
    """nnU-Net v2 ``dataset.json``: channels by modality, background and lesion."""
    return {
        "name": name,
        "channel_names": {str(i): modality for i, modality in enumerate(network.channels)},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": samples,
        "file_ending": ".nii.gz",
    }


def build(network: Network, *, deep_supervision: bool = True) -> nn.Module:
    """The network that nnU-Net would build from these plans, with its initial weights."""
    ensure_torchvision()
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    chosen = _architecture(network)
    return get_network_from_plans(
        chosen["network_class_name"],
        chosen["arch_kwargs"],
        chosen["_kw_requires_import"],
        len(network.channels),
        2,
        allow_init=True,
        deep_supervision=deep_supervision,
    )


def loss_of(heads: int) -> nn.Module:
    """nnU-Net's Dice + cross-entropy over ``heads`` outputs; IGNORE voxels do not count."""
    ensure_torchvision()
    from bids_stroke.models.losses import build_loss, deeply_supervised
    from bids_stroke.models.recipe import Loss

    return deeply_supervised(build_loss(Loss(), batch_dice=BATCH_DICE, ignore_label=IGNORE), heads)


def targets(label: torch.Tensor, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The label (b, z, y, x) at the size of each output (nearest voxel), as float (b, 1, ...)."""
    full = label[:, None].float()
    return [functional.interpolate(full, size=output.shape[2:]) for output in outputs]


def dice_by_sample(logits: torch.Tensor, label: torch.Tensor) -> list[tuple[int, float]]:
    """(lesion voxels, Dice of the argmax) of each sample, without IGNORE; NaN if both are empty."""
    known = label != IGNORE
    found = (logits[:, 1] > logits[:, 0]) & known
    truth = label == 1
    axes = (1, 2, 3)
    both = (found & truth).sum(axes).float()
    total = found.sum(axes) + truth.sum(axes)
    dice = 2 * both / total
    return list(zip(truth.sum(axes).tolist(), dice.tolist(), strict=True))


class Trainer:
    """Network, moving average, optimizer and log of one run in a folder."""

    def __init__(self, network: Network, schedule: Schedule, folder: Path) -> None:
        torch.manual_seed(schedule.seed)
        self.schedule, self.design, self.folder = schedule, network, folder
        self.model = build(network)
        self.average = deepcopy(self.model).eval()
        self.loss = loss_of(len(network.features) - 1)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
        )
        self.iteration = 0
        self.elapsed = 0.0
        self._recent: list[dict[str, Any]] = []

    def run(
        self,
        batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
        *,
        log_every: int = 25,
        save_every_s: float = 180.0,
    ) -> float:
        """Train to the end of the schedule; returns the mean loss of the last iterations."""
        last = time.monotonic()
        saved = last
        while self.progress() < 1:
            image, label = next(batches)
            waited = time.monotonic() - last
            record = self.step(image, label)
            now = time.monotonic()
            self.elapsed += now - last
            self._recent.append({**record, "wait": waited, "seconds": now - last})
            last = now
            if self.iteration % log_every == 0:
                self.log()
            if now - saved > save_every_s:
                self.save()
                saved = now
        self.save()
        return float(np.mean([r["loss"] for r in self._recent[-log_every:]]))

    def progress(self) -> float:
        """Share of the schedule that is done, by iterations or by the clock."""
        return max(self.iteration / self.schedule.iterations, self.elapsed / self.schedule.seconds)

    def step(self, image: torch.Tensor, label: torch.Tensor) -> dict[str, Any]:
        """One update on a batch (b, channel, z, y, x) with its label (b, z, y, x)."""
        rate = self.schedule.rate(self.progress(), self.iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=self.schedule.bfloat16):
            outputs = self.model(image)
        outputs = [output.float() for output in outputs]
        loss = self.loss(outputs, targets(label, outputs))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.schedule.clip)
        self.optimizer.step()
        self._follow()
        self.iteration += 1
        return {"loss": loss.item(), "dice": dice_by_sample(outputs[0].detach(), label)}

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights, faster in the beginning."""
        keep = min(self.schedule.ema, (1 + self.iteration) / (10 + self.iteration))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, 1 - keep)

    def log(self) -> None:
        """Append the means since the last lines to ``log.jsonl``."""
        recent = self._recent[-200:]
        line: dict[str, Any] = {
            "iteration": self.iteration,
            "elapsed": round(self.elapsed, 1),
            "loss": round(float(np.mean([r["loss"] for r in recent[-50:]])), 4),
            "rate": self.schedule.rate(self.progress(), self.iteration),
            "seconds": round(float(np.mean([r["seconds"] for r in recent[-25:]])), 3),
            "wait": round(float(np.mean([r["wait"] for r in recent[-25:]])), 3),
        }
        cases = [case for r in recent for case in r["dice"]]
        for name, (low, high) in BINS_ML.items():
            unit = self.design.spacing**3 / 1000
            dice = [d for voxels, d in cases if voxels and low <= voxels * unit < high]
            line[f"dice_{name}"] = round(float(np.mean(dice)), 3) if dice else None
        self._recent = recent
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write ``checkpoint.pth``, from which ``resume`` goes on and ``export`` takes weights."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "elapsed": self.elapsed,
        }
        save_checkpoint(self.folder / "checkpoint.pth", state)

    def begin_from(self, checkpoint: Path) -> None:
        """Start with ``final_weights`` of another run of the same network, at any spacing."""
        weights = final_weights(checkpoint)
        self.model.load_state_dict(weights)
        self.average.load_state_dict(weights)

    def resume(self) -> None:
        """Go on from ``checkpoint.pth``."""
        state = torch.load(self.folder / "checkpoint.pth", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration, self.elapsed = state["iteration"], state["elapsed"]


def final_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The averaged weights in a run's ``checkpoint.pth``, or those that ``export`` wrote."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return dict(state["average"] if "average" in state else state["network_weights"])


def half_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Half-precision copy that keeps aliases (nnU-Net names a layer several times) stored once."""
    halves: dict[int, torch.Tensor] = {}
    for tensor in weights.values():
        halves.setdefault(tensor.data_ptr(), tensor.detach().contiguous().half())
    return {name: halves[tensor.data_ptr()] for name, tensor in weights.items()}


def export(
    folder: Path,
    network: Network,
    weights: Mapping[str, torch.Tensor],
    *,
    name: str,
    samples: int,
) -> list[Path]:
    """Write an nnU-Net v2 model folder (fold 0, weights in half precision); returns its files."""
    checkpoint = {
        "network_weights": half_weights(weights),
        "init_args": {"configuration": CONFIGURATION, "fold": 0},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": None,
    }
    final = save_checkpoint(folder / "fold_0" / "checkpoint_final.pth", checkpoint)
    write_json(folder / "dataset.json", dataset_json(network, name, samples))
    write_json(folder / "plans.json", plans(network, name))
    return [final, folder / "dataset.json", folder / "plans.json"]
