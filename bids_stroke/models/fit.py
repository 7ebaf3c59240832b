"""Train one fold, stage after stage, and validate it as it will be used: a process of its own.

``python -m bids_stroke.models.fit JOB.json``; a killed job goes on where its last checkpoint is.
With ``--estimate`` it only times a few iterations, and writes ``estimate.json``; a job of several
ranks starts itself for each with ``--rank N --store FILE``.
"""

import argparse
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import numpy as np

from bids_stroke.core import geometry
from bids_stroke.core.files import load_image, read_json, save_image, write_json
from bids_stroke.core.probability import resample_probability
from bids_stroke.core.processes import reuse_memory
from bids_stroke.core.splits import Split
from bids_stroke.errors import BidsStrokeError, TryAgain, UsageError
from bids_stroke.models.dataset import Case, Places, dataset_json, read_cases, read_splits
from bids_stroke.models.ranks import STOPPED, member, train_together
from bids_stroke.models.recipe import Recipe, Stage, from_table

RUN_LOCK = "run.lock"
TIMED, ENOUGH_S = 3, 15.0
"""Iterations that an estimate times, and seconds after which it starts no other: slow iterations
are alike."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One fold to train. ``pretrained`` is the descriptor's file of a model, or empty; ``train_on``
    names the training cases of each stage; ``ranks`` processes divide its batches, for each of
    which ``workers`` others load (0: it does so itself)."""

    root: str
    name: str
    recipe: Mapping[str, Any]
    fold: int
    train_on: Mapping[str, tuple[str, ...]]
    pretrained: str = ""
    device: str = "cpu"
    threads: int = 1
    ranks: int = 1
    workers: int = 0

    @property
    def places(self) -> Places:
        """Folders of the training."""
        return Places(Path(self.root), self.name)


def write_job(job: Job, path: Path) -> Path:
    """Write a job as JSON."""
    return write_json(path, asdict(job))


def main(arguments: list[str]) -> int:
    """Run a job; what is expected to go wrong becomes one line that starts with the error's class.

    Returns 0, STOPPED when a signal stopped it, or the error's exit code.
    """
    asked = _asked(arguments)
    job = Job(**read_json(asked.job))
    try:
        if asked.estimate:
            write_estimate(job)
        elif asked.rank is not None:
            with member(asked.rank, job.ranks, job.device, asked.store):
                train(job)
        else:
            run(job, asked.job)
    except BidsStrokeError as error:
        print(f"{type(error).__module__}.{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error).lower():
            raise
        message = "Memory ran out in training: give more, or a smaller patch or batch."
        print(f"{TryAgain.__module__}.TryAgain: {message} ({error})", file=sys.stderr)
        return TryAgain.exit_code
    return 0


def _asked(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--store", type=Path)
    return parser.parse_args(arguments)


def run(job: Job, file: Path) -> None:
    """Train a fold, by ranks where the job has several, then predict its validation cases."""
    import torch

    torch.set_num_threads(job.threads)
    recipe = from_table(job.recipe)
    last = recipe.of_stage(recipe.stages[-1])
    final = _final(job, recipe, recipe.stages[-1])
    with _alone(job) as lock:
        if not final.is_file():
            if job.ranks > 1:
                command = [sys.executable, "-m", "bids_stroke.models.fit", str(file)]
                train_together(command, job.ranks, _supervision(job), keep=[lock.fileno()])
            else:
                train(job)
        validate(job, last, final.parent.parent)


def train(job: Job) -> None:
    """Train all stages of a fold; raises SystemExit when it was stopped."""
    import torch

    torch.set_num_threads(job.threads)
    recipe = from_table(job.recipe)
    started_from: Path | None = None
    for stage in recipe.stages:
        started_from = train_stage(job, recipe, stage, started_from)
        if started_from is None:
            raise SystemExit(STOPPED)


def _final(job: Job, recipe: Recipe, stage: Stage) -> Path:
    """Checkpoint that a stage ends with."""
    from bids_stroke.models.run_trainer import FINAL, RunTrainer

    configuration = recipe.of_stage(stage).plan.configuration
    name = f"{RunTrainer.__name__}__{stage.name}__{configuration}"
    return job.places.results / name / f"fold_{job.fold}" / FINAL


@contextmanager
def _alone(job: Job) -> Iterator[TextIO]:
    """Wait until no other process trains this fold: a killed run may leave one for a moment."""
    job.places.results.mkdir(parents=True, exist_ok=True)
    with (job.places.results / f"fold_{job.fold}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _supervision(job: Job) -> Callable[[], bool]:
    """Is the run that started this process alive? By its parent, and by the lock that it holds."""
    lock, parent = Path(job.root) / RUN_LOCK, os.getppid()
    supervised = is_held(lock)
    return lambda: os.getppid() == parent and (not supervised or is_held(lock))


def is_held(lock: Path) -> bool:
    """Does a process hold a lock on a file? It is gone with the process, however that ended."""
    if not lock.is_file():
        return False
    with lock.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextmanager
def hold(lock: Path) -> Iterator[None]:
    """Hold a lock on a file; raises UsageError where another process does."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"Another run trains in {lock.parent}: wait for it, or give --name."
            ) from error
        yield


def make_trainer(job: Job, recipe: Recipe, stage: Stage) -> Any:
    """Trainer of a stage; it has read its plans, and has no network yet."""
    import torch

    from bids_stroke.models.run_trainer import RunTrainer

    own = recipe.of_stage(stage)
    plans = read_json(job.places.preprocessed / f"{stage.name}.json")
    count = read_json(job.places.preprocessed / "dataset.json")["numTraining"]
    trainer = RunTrainer(
        plans={**plans, "continue_training": False},
        configuration=own.plan.configuration,
        fold=job.fold,
        dataset_json=dataset_json(job.name, own.channels, count),
        device=torch.device(job.device),
    )
    if own.channels != recipe.channels:
        trainer.channels = [recipe.channels.index(channel) for channel in own.channels]
    split = read_splits(job.places.root / "splits.json")[job.fold]
    trainer.split = Split(train=tuple(job.train_on[stage.name]), val=split.val)
    trainer.workers = job.workers
    return trainer


def train_stage(job: Job, recipe: Recipe, stage: Stage, previous: Path | None) -> Path | None:
    """Train a stage to its end; returns its final checkpoint, or None when it was stopped."""
    from bids_stroke.models.packing import of_stage
    from bids_stroke.models.run_trainer import LATEST, Stopped

    final = _final(job, recipe, stage)
    if final.is_file():
        return final
    trainer = make_trainer(job, recipe, stage)
    if (trainer.folder / LATEST).is_file():
        trainer.load_checkpoint(trainer.folder / LATEST)
    else:
        trainer.initialize()
        begin(trainer, job, recipe, stage, previous)
    own = recipe.of_stage(stage)
    trainer.watch_model = of_stage(own, trainer.folder.parent, LATEST)
    trainer.watched = watched_cases(job)
    trainer.wanted = _supervision(job)
    trainer.tell()
    try:
        with _stopped_by_a_signal(trainer):
            trainer.run_training()
    except Stopped:
        return None
    return final


@contextmanager
def _stopped_by_a_signal(trainer: Any) -> Iterator[None]:
    """SIGTERM ends training after this iteration; processes forked from ours it ends at once."""
    owner = os.getpid()

    def stop(*_: object) -> None:
        if os.getpid() != owner:
            os._exit(128 + signal.SIGTERM)
        trainer.stopping = True

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def begin(trainer: Any, job: Job, recipe: Recipe, stage: Stage, previous: Path | None) -> None:
    """Give the network of a stage its first weights.

    Those of the pretrained model or of the stage before (``previous``, a checkpoint), adapted to
    the stage's channels by name, or its own random ones.
    """
    from bids_stroke.models.weights import load_checkpoint

    if stage.start == "pretrained" and job.pretrained:
        weights, channels = _pretrained(Path(job.pretrained))
    elif stage.start == "previous" and previous is not None:
        earlier = recipe.stages[recipe.stages.index(stage) - 1]
        weights = load_checkpoint(previous)["network_weights"]
        channels = earlier.channels or recipe.channels
    else:
        return
    own = recipe.of_stage(stage)
    trainer.start_from(
        adapted(trainer.module.state_dict(), weights, channels, own.channels, stage.adapt)
    )


def _pretrained(file: Path) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Weights and channels of an installed model: of its first fold."""
    from bids_stroke.models.descriptor import load
    from bids_stroke.models.predictor import available_folds
    from bids_stroke.models.weights import load_checkpoint

    model = load(file)
    fold = available_folds(model)[0]
    checkpoint = model.model_folder / f"fold_{fold}" / model.inference.checkpoint
    return load_checkpoint(checkpoint)["network_weights"], model.channels


def adapted(
    skeleton: Mapping[str, Any],
    weights: Mapping[str, Any],
    source: tuple[str, ...],
    target: tuple[str, ...],
    new_channel: str,
) -> dict[str, Any]:
    """Weights in the shapes of ``skeleton``, channels matched by name (``models.adaptation``)."""
    from bids_stroke.models.adaptation import adapt

    if source != target or set(weights) != set(skeleton):
        weights, _ = adapt(weights, source, target, new_channel, skeleton)
    return {name: tensor.float() for name, tensor in weights.items()}


def watched_cases(job: Job, most: int = 4) -> list[Case]:
    """A few validation cases of a fold, spread over the volumes of their lesions."""
    split = read_splits(job.places.root / "splits.json")[job.fold]
    cases = [c for c in read_cases(job.places.root / "cases.json") if c.case in split.val]
    cases.sort(key=lambda case: (case.volume_ml, case.case))
    chosen = np.unique(np.linspace(0, len(cases) - 1, min(most, len(cases))).round().astype(int))
    return [cases[index] for index in chosen]


def validate(job: Job, recipe: Recipe, stage_folder: Path) -> None:
    """Predict the validation cases of a fold, and bring the maps to the grids of the references.

    Maps that are newer than the fold's weights are kept.
    """
    from bids_stroke.models import predictor
    from bids_stroke.models.packing import members, of_stage
    from bids_stroke.models.run_trainer import FINAL, probability

    folder = job.places.validation / f"fold_{job.fold}"
    folder.mkdir(parents=True, exist_ok=True)
    weights = stage_folder / f"fold_{job.fold}" / FINAL
    split = read_splits(job.places.root / "splits.json")[job.fold]
    cases = [c for c in read_cases(job.places.root / "cases.json") if c.case in split.val]
    todo = [case for case in cases if not _newer(folder / f"{case.case}.nii.gz", weights)]
    if not todo:
        return
    loaded = [
        predictor.load(
            of_stage(recipe, stage_folder, checkpoint), folds=[str(job.fold)], device=job.device
        )
        for checkpoint in members(recipe).values()
    ]
    for case in todo:
        mean = np.mean([probability(model, case) for model in loaded], axis=0)
        grid = geometry.grid_of(load_image(case.label))
        native = load_image(case.native)
        on_native = resample_probability(
            mean,
            grid,
            geometry.grid_of(native),
            transform=geometry.read_itk_affine(Path(case.transform)) if case.transform else None,
        )
        path = folder / f"{case.case}.nii.gz"
        save_image(on_native, native.affine, path, dtype=np.float32)


def _newer(path: Path, other: Path) -> bool:
    return path.is_file() and path.stat().st_mtime >= other.stat().st_mtime


def write_estimate(job: Job) -> None:
    """Write ``estimate.json`` beside the dataset, unless it is there for this device.

    A run that has no more iterations than would be timed has none: it is over before.
    """
    path, setting = Path(job.root) / "estimate.json", {"device": job.device, "ranks": job.ranks}
    if path.is_file() and setting.items() <= read_json(path).items():
        return
    recipe = from_table(job.recipe)
    schedules = [recipe.of_stage(stage).schedule for stage in recipe.stages]
    if max(s.epochs * s.iterations for s in schedules) <= TIMED:
        return
    with TemporaryDirectory() as folder:
        os.environ["nnUNet_results"] = folder  # noqa: SIM112 - nnU-Net's name
        write_json(path, {**setting, **estimate(job)})


def estimate(job: Job, iterations: int = TIMED) -> dict[str, float]:
    """Seconds an iteration and memory in GB of the most costly stage, by a few timed iterations.

    Patches of noise stand for the data, so that reading and augmentation are not in the time, nor
    is what ranks exchange: one part of a batch is timed. After ``ENOUGH_S`` no further iteration is
    timed, and none where nobody waits for it any more.
    """
    import torch

    recipe, wanted = from_table(job.recipe), _supervision(job)
    torch.set_num_threads(job.threads)
    worst = {"seconds_per_iteration": 0.0, "memory_gb": 0.0, "seconds": 0.0}
    for stage in recipe.stages:
        trainer = make_trainer(job, recipe, stage)
        trainer.initialize()
        trainer.batch_size //= job.ranks
        batch = _noise(trainer)
        trainer.on_train_epoch_start()
        trainer.train_step(batch)
        start, done = time.monotonic(), 0
        while done < iterations and (not done or time.monotonic() - start < ENOUGH_S):
            if not wanted():
                raise SystemExit(STOPPED)
            trainer.train_step(batch)
            done += 1
        seconds = (time.monotonic() - start) / done
        schedule = recipe.of_stage(stage).schedule
        steps = schedule.iterations + schedule.validation_iterations / 3
        worst["seconds"] += seconds * steps * trainer.num_epochs
        worst["seconds_per_iteration"] = max(worst["seconds_per_iteration"], seconds)
        worst["memory_gb"] = max(worst["memory_gb"], _memory_gb(job.device))
    return worst


def _noise(trainer: Any) -> dict[str, Any]:
    """A batch of noise in the shape of the trainer's."""
    import torch

    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    patch = tuple(trainer.configuration_manager.patch_size)
    shape = (trainer.batch_size, 1, *patch)
    data = torch.randn(trainer.batch_size, trainer.num_input_channels, *patch)
    label = (torch.rand(shape) > 0.95).short()
    if not trainer.enable_deep_supervision:
        return {"data": data, "target": label}
    scales = trainer._get_deep_supervision_scales()
    sizes = [[round(p * s) for p, s in zip(patch, scale, strict=True)] for scale in scales]
    targets = [torch.nn.functional.interpolate(label.float(), size=size) for size in sizes]
    return {"data": data, "target": [one.short() for one in targets]}


def _memory_gb(device: str) -> float:
    """Largest memory so far: of the GPU, else of this process."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1024**3
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


if __name__ == "__main__":
    reuse_memory()
    sys.exit(main(sys.argv[1:]))
