"""What is said while folds train: a plain line now and then, and a page that can be opened."""

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bids_stroke.core.files import read_json
from bids_stroke.core.words import counted
from bids_stroke.models.dataset import Places
from bids_stroke.reports.pages import duration

LOOK_EVERY_S, SAY_EVERY_S = 2.0, 30.0


class Watch:
    """A thread that reads the progress files of the folds while a run is in its ``with``."""

    def __init__(self, places: Places, output_dir: Path, folds: Sequence[int]) -> None:
        self._places, self._output_dir, self._folds = places, output_dir, folds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._said: dict[int, tuple[float, float]] = {}
        self._began = time.time()
        self._told_estimate = False

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(LOOK_EVERY_S):
            self._say_estimate()
            news = [self._say(fold) for fold in self._folds]
            if any(news):
                self._write_page()

    def _say_estimate(self) -> None:
        path = self._places.root / "estimate.json"
        if self._told_estimate or not path.is_file():
            return
        self._told_estimate = True
        print(estimate_line(read_json(path), len(self._folds)), flush=True)

    def _say(self, fold: int) -> bool:
        """Say where a fold is, if it is news and the last line is some time ago."""
        found = newest_progress(self._places, fold)
        now = time.monotonic()
        if not found or found["time"] < self._began:
            return False
        said_at, told_at = self._said.get(fold, (-SAY_EVERY_S, 0.0))
        if found["time"] == told_at or now - said_at < SAY_EVERY_S:
            return False
        self._said[fold] = (now, found["time"])
        print(progress_line(found), flush=True)
        return True

    def _write_page(self) -> None:
        from bids_stroke.reports.training import write_training_page

        write_training_page(self._places.root, self._output_dir)


def newest_progress(places: Places, fold: int) -> dict[str, Any] | None:
    """Progress of the stage of a fold that was told last."""
    found = [read_json(p) for p in places.results.glob(f"*/fold_{fold}/progress.json")]
    return max(found, key=lambda one: one["time"], default=None)


def progress_line(found: Mapping[str, Any]) -> str:
    """One line: where a fold is, how good it is, when it will be done."""
    if not found["seconds_per_iteration"]:
        return f"fold {found['fold']}, {found['stage']}: starts at epoch {found['epoch']}"
    if not found["seconds_left"]:
        return f"fold {found['fold']}, {found['stage']}: all {found['epochs']} epochs are done"
    loss = f", loss {found['loss']:.3f}" if found["loss"] is not None else ""
    dice = f", Dice {found['dice']:.3f}" if found["dice"] is not None else ""
    return (
        f"fold {found['fold']}, {found['stage']}: epoch {found['epoch']} of {found['epochs']}, "
        f"iteration {found['iteration']} of {found['iterations']}{loss}{dice}, "
        f"{found['seconds_per_iteration']:.2f} s an iteration, "
        f"{duration(found['seconds_left'])} left in this stage"
    )


def estimate_line(found: Mapping[str, Any], folds: int) -> str:
    """One line: how long the training will take, and how much memory."""
    each = f"for each of {found['ranks']} processes" if found["ranks"] > 1 else "each"
    return (
        f"Estimate: {found['seconds_per_iteration']:.2f} s an iteration without reading, "
        f"{duration(found['seconds'])} a fold, {duration(found['seconds'] * folds)} for "
        f"{counted(folds, 'fold')} one after the other; {found['memory_gb']:.1f} GB {each} on "
        f"{found['device']}"
    )
