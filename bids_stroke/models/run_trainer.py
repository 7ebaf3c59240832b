"""The recipes' trainer in a long run: it stops and goes on at any moment, and says where it is."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import distributed

from bids_stroke.core.files import load_image, write_json, write_text
from bids_stroke.core.metrics import counts, dice_of
from bids_stroke.core.splits import Split
from bids_stroke.models.dataset import Case
from bids_stroke.models.descriptor import Descriptor
from bids_stroke.models.loading import Background
from bids_stroke.models.recipe import PLANS_KEY
from bids_stroke.models.trainers import RecipeTrainer
from bids_stroke.models.weights import load_checkpoint as load_weights

LATEST, FINAL = "checkpoint_latest.pth", "checkpoint_final.pth"
SAVE_EVERY_S, TELL_EVERY_S = 120.0, 2.0
WATCHES = 20
"""How often in a run the watched cases are predicted."""


class Stopped(Exception):
    """The run was asked to stop; its state is in the latest checkpoint."""


class RunTrainer(RecipeTrainer):
    """RecipeTrainer that is made for being killed and being watched.

    A checkpoint is written within an epoch too. ``curves`` has one dictionary an epoch, and lies
    beside the checkpoints as JSON, as does ``progress``. ``watched`` are validation cases whose
    Dice on the deployment path is measured some 20 times a run, with ``watch_model`` as the model.
    ``channels`` are those of the dataset that the stage trains on (None: all), ``split`` the cases.
    ``workers`` processes load and augment in the background; without them it is done in between.
    It stops, with a checkpoint, when ``stopping`` is set or when nobody wants it any more
    (``wanted``). Of several ranks only the first writes files and watches.
    """

    output_folder_base: str

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - nnU-Net reads the signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.current_epoch: int = 0
        self.save_every = self.num_epochs + 1  # by the clock, and not by epochs
        self.logger.plot_progress_png = lambda folder: None
        self.channels: list[int] | None = None
        self.split: Split | None = None
        self.workers = 0
        self.watched: Sequence[Case] = ()
        self.watch_model: Descriptor | None = None
        self.curves: list[dict[str, Any]] = []
        self.stopping = False
        self.wanted: Callable[[], bool] = lambda: True
        self._outputs: list[dict[str, Any]] = []
        self._in_epoch = False
        self._saved = self._told = time.monotonic()
        self._seconds: list[float] = []
        self._processor_seconds: list[float] = []

    @property
    def folder(self) -> Path:
        """Folder of the fold."""
        return Path(self.output_folder)

    def do_split(self) -> tuple[list[str], list[str]]:
        """Cases to train on and to validate with: those of ``split``, else nnU-Net's."""
        if self.split is None:
            return super().do_split()
        return list(self.split.train), list(self.split.val)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Loaders of nnU-Net, with a third as many workers for validation where there are any."""
        train, val = super().get_dataloaders()
        if not self.workers:
            return train, val
        few = max(1, self.workers // 3)
        return Background(train.data_loader, self.workers), Background(val.data_loader, few)

    def on_train_start(self) -> None:
        """Make loaders, and copy the plans beside the checkpoints, where other folds read them."""
        shared = self.output_folder_base
        with TemporaryDirectory() as own:
            self.output_folder_base = own
            super().on_train_start()
            self.output_folder_base = shared
            if not self.local_rank:
                for file in Path(own).iterdir():
                    write_text(Path(shared, file.name), file.read_text(encoding="utf-8"))

    def run_training(self) -> None:
        """Train to the last epoch from wherever the run is; raises Stopped when asked to stop."""
        try:
            self.on_train_start()
            while self.current_epoch < self.num_epochs:
                self._run_epoch()
            self.on_train_end()
        finally:
            for loader in (self.dataloader_train, self.dataloader_val):
                if isinstance(loader, Background):
                    loader.close()

    def _run_epoch(self) -> None:
        done = len(self._outputs)
        if not done:
            self.on_epoch_start()
        self.on_train_epoch_start()
        self._iteration, self._in_epoch = done, True
        while self._iteration < self.num_iterations_per_epoch:
            start, used = time.monotonic(), time.process_time()
            self._outputs.append(self.train_step(self._batch(self.dataloader_train)))
            self._seconds = [*self._seconds[-99:], time.monotonic() - start]
            used = time.process_time() - used
            self._processor_seconds = [*self._processor_seconds[-99:], used]
            self._after_iteration()
        self.on_train_epoch_end(self._outputs)
        self._validate_epoch()
        self._outputs, self._in_epoch = [], False
        self.on_epoch_end()

    def _batch(self, loader: Any) -> dict[str, Any]:
        """The next batch, with the stage's channels only."""
        batch = next(loader)
        data, target = torch.as_tensor(batch["data"]), batch["target"]
        if self.channels is not None:
            data = data[:, self.channels]
        if isinstance(target, list):
            return {"data": data, "target": [torch.as_tensor(one) for one in target]}
        return {"data": data, "target": torch.as_tensor(target)}

    def _validate_epoch(self) -> None:
        with torch.no_grad(), np.errstate(invalid="ignore", divide="ignore"):
            self.on_validation_epoch_start()
            steps = range(self.num_val_iterations_per_epoch)
            outputs = [self.validation_step(self._batch(self.dataloader_val)) for _ in steps]
            self.on_validation_epoch_end(outputs)

    def _after_iteration(self) -> None:
        now = time.monotonic()
        if now - self._told > TELL_EVERY_S:
            self.tell()
        stop = self._agreed(self.stopping or not self.wanted())
        if stop or now - self._saved > SAVE_EVERY_S:
            self.save_latest()
        if stop:
            raise Stopped

    def _agreed(self, stop: bool) -> bool:
        """Has any rank to stop? Then all do after the same iteration."""
        if not self.is_ddp:
            return stop
        asked = torch.tensor(float(stop))
        distributed.all_reduce(asked, distributed.ReduceOp.MAX)
        return bool(asked)

    def on_epoch_end(self) -> None:
        """Keep the numbers of the epoch, and the weights where they are due."""
        super().on_epoch_end()
        if self.local_rank:
            return
        self.curves.append(self._numbers())
        done = self.current_epoch
        if done % max(1, self.num_epochs // WATCHES) == 0 or done == self.num_epochs:
            self.curves[-1]["dice"] = self.dice_of_watched()
        write_json(self.folder / "curves.json", self.curves)
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save_latest()
        self.tell()

    def _numbers(self) -> dict[str, Any]:
        """Numbers of the epoch that ended, as plain values; NaN becomes None."""
        named = {
            "loss": "train_losses",
            "validation_loss": "val_losses",
            "pseudo_dice": "mean_fg_dice",
            "rate": "lrs",
        }
        values = {key: float(self.logger.get_value(name, -1)) for key, name in named.items()}
        return {
            "epoch": self.current_epoch,
            **{key: value if np.isfinite(value) else None for key, value in values.items()},
            "seconds_per_iteration": _mean(self._seconds),
            "processor_seconds_per_iteration": _mean(self._processor_seconds),
            "time": round(time.time(), 1),
        }

    # The state on disk

    def save_latest(self) -> None:
        """Write the checkpoint that a killed run goes on from."""
        between = 0 if self._in_epoch else 1
        self.current_epoch -= between  # a checkpoint counts the epoch that it ends
        self.save_checkpoint(str(self.folder / LATEST))
        self.current_epoch += between
        self._saved = time.monotonic()

    def state(self) -> dict[str, Any]:
        """nnU-Net's checkpoint, and where in the epoch the run is."""
        state = super().state()
        state["current_epoch"] -= self._in_epoch
        losses = [float(output["loss"]) for output in self._outputs]
        return {**state, PLANS_KEY: {"losses": losses, "curves": self.curves}}

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Go on from a checkpoint."""
        given = filename_or_checkpoint
        state = given if isinstance(given, dict) else load_weights(Path(given))
        super().load_checkpoint(state)
        own = state[PLANS_KEY]
        self.curves = own["curves"]
        self._outputs = [{"loss": np.float32(loss)} for loss in own["losses"]]

    # What people see

    def tell(self) -> None:
        """Write ``progress.json``: where the run is, and how long it will take."""
        if self.local_rank:
            return
        seconds = float(np.median(self._seconds)) if self._seconds else 0.0
        per_epoch = self.num_iterations_per_epoch + self.num_val_iterations_per_epoch / 3
        left = (self.num_epochs - self.current_epoch) * per_epoch - len(self._outputs)
        recent = [float(output["loss"]) for output in self._outputs[-20:]]
        write_json(
            self.folder / "progress.json",
            {
                "stage": self.recipe.stages[0].name,
                "fold": self.fold,
                "epoch": min(self.current_epoch + 1, self.num_epochs),
                "epochs": self.num_epochs,
                "iteration": len(self._outputs),
                "iterations": self.num_iterations_per_epoch,
                "loss": float(np.mean(recent)) if recent else self._last("loss"),
                "dice": mean_dice(self._last("dice")),
                "seconds_per_iteration": seconds,
                "seconds_left": max(left, 0) * seconds,
                "time": time.time(),
            },
        )
        self._told = time.monotonic()

    def _last(self, key: str) -> Any:
        """The last value of a curve."""
        return next((c[key] for c in reversed(self.curves) if c.get(key) is not None), None)

    def dice_of_watched(self) -> dict[str, float]:
        """Dice (0..1) at one half of the watched cases, by name, predicted as users will.

        Writes ``checkpoint_latest.pth`` to predict from; empty where nothing is watched.
        """
        if self.watch_model is None or not self.watched:
            return {}
        from bids_stroke.models import predictor

        self.save_latest()
        drawn = np.random.get_state()  # noqa: NPY002 - nnU-Net's loaders draw from it
        model = predictor.load(self.watch_model, folds=[str(self.fold)], device=self.device)
        dice = {case.case: dice_of_case(model, case) for case in self.watched}
        np.random.set_state(drawn)  # noqa: NPY002
        return dice


def _mean(seconds: Sequence[float]) -> float:
    """Mean, and 0 of none."""
    return round(float(np.mean(seconds or [0.0])), 4)


def mean_dice(dice: Mapping[str, float] | None) -> float | None:
    """Mean over cases; None where there is none."""
    return float(np.mean(list(dice.values()))) if dice else None


def probability(model: Any, case: Case) -> np.ndarray:
    """Lesion probability [x, y, z] of a case on the network's grid, as in deployment."""
    from bids_stroke.models import predictor

    channels = model.descriptor.channels
    stack, spacing = case.stack(channels)
    found = predictor.predict(model, dict(zip(channels, stack, strict=True)), spacing)
    found[np.asanyarray(load_image(case.brain).dataobj) == 0] = 0
    return found


def dice_of_case(model: Any, case: Case) -> float:
    """Dice of the probability, cut at one half, with the label on the network's grid."""
    truth = np.asanyarray(load_image(case.label).dataobj)
    return dice_of(*counts(truth, probability(model, case) >= 0.5))
