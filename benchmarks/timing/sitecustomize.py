"""Timing of a training from within, for any program that trains by a trainer of nnU-Net.

Python imports this at its start where the folder is in PYTHONPATH. It does nothing but let the
trainer look at the clock around each batch, cut an epoch to ``TIMED_ITERATIONS``, take
``TIMED_THREADS``, and write ``TIMED_FILE`` at the end. nnU-Net's prediction of whole validation
cases is left out: ours has another.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


class Watched:
    """A loader that notes when each batch was asked for and when it came."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.moments: list[tuple[float, float, float]] = []

    def __next__(self) -> Any:
        asked = time.perf_counter()
        batch = next(self.loader)
        self.moments.append((asked, time.perf_counter(), time.process_time()))
        return batch


def watch(trainer_class: Any) -> None:
    """Have a class of trainers, and those derived from it, looked at."""
    begin, finish = trainer_class.on_train_start, trainer_class.on_train_end
    epoch_end = trainer_class.on_train_epoch_end

    def on_train_start(self: Any) -> None:
        self.num_iterations_per_epoch = int(os.environ["TIMED_ITERATIONS"])
        self.num_val_iterations_per_epoch = 1
        torch.set_num_threads(int(os.environ["TIMED_THREADS"]))
        begin(self)
        self.dataloader_train = Watched(self.dataloader_train)

    def on_train_epoch_end(self: Any, outputs: Any) -> None:
        loader = self.dataloader_train
        loader.moments.append((time.perf_counter(), 0.0, time.process_time()))
        epoch_end(self, outputs)

    def on_train_end(self: Any) -> None:
        moments, self.dataloader_train = self.dataloader_train.moments, self.dataloader_train.loader
        count = sum(weight.numel() for weight in self.network.parameters())
        table = {"parameters": count, "moments": moments}
        Path(os.environ["TIMED_FILE"]).write_text(json.dumps(table), encoding="utf-8")
        finish(self)

    trainer_class.on_train_start, trainer_class.on_train_end = on_train_start, on_train_end
    trainer_class.on_train_epoch_end = on_train_epoch_end
    trainer_class.perform_actual_validation = lambda *_: None


if "TIMED_FILE" in os.environ and not any("multiprocessing" in word for word in sys.orig_argv):
    import torch

    from bids_stroke.models.torchvision_shim import ensure_torchvision

    ensure_torchvision()
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    watch(nnUNetTrainer)
