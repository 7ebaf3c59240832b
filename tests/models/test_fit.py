"""Training of a fold: cases, plans, arrays, stages, stop and resume, validation as deployed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bids_stroke.core.files import load_image, read_json, save_image, write_json
from bids_stroke.core.metrics import counts, dice_of
from bids_stroke.core.splits import make_splits
from bids_stroke.errors import UsageError
from bids_stroke.models import dataset, fit, packing, planning
from bids_stroke.models.dataset import Case, Places
from bids_stroke.models.descriptor import OperatingPoint
from bids_stroke.models.recipe import Recipe, plain
from tests.training_data import AFFINE, session, tiny_recipe

pytestmark = pytest.mark.filterwarnings("ignore")  # of nnU-Net's own imports


def _case(folder: Path, number: int) -> Case:
    images, brain, lesion = session(number)
    label = f"sub-{number:02d}"
    (folder / label).mkdir(parents=True)
    files = {}
    for name, image in images.items():
        path = save_image(image, AFFINE, folder / label / f"{name}.nii.gz", dtype=np.float32)
        files[name] = str(path)
    mask = str(save_image(brain, AFFINE, folder / label / "brain.nii.gz", dtype=np.uint8))
    truth = str(save_image(lesion, AFFINE, folder / label / "label.nii.gz", dtype=np.uint8))
    return Case(
        case=label,
        participant=label,
        session="",
        group=label,
        images=files,
        brain=mask,
        label=truth,
        space="T1w",
        native=files["T1w"],
        native_brain=mask,
        truth=truth,
        volume_ml=float(lesion.sum() * 27 / 1000),
        spacing=(3.0, 3.0, 3.0),
        cropped_shape=(21, 21, 21),
        cropped_share=0.5,
    )


def prepare(root: Path, recipe: Recipe, cases: int = 4, fold: int = 0) -> tuple[fit.Job, Path]:
    """Everything that a job of a fold wants, and the file of the job."""
    places = Places(root / "out", "tiny")
    made = [_case(root / "images", number) for number in range(1, cases + 1)]
    dataset.write_raw(places, made, recipe.channels)
    splits = make_splits([case.item() for case in made], 2, 1)
    dataset.write_splits(places, splits, made)
    base = planning.base_plans(recipe, places, None)
    for stage in recipe.stages:
        plans = planning.stage_plans(base, recipe, stage)
        write_json(places.preprocessed / f"{stage.name}.json", plans)
    for case in made:
        dataset.preprocess_case(
            case, recipe.channels, base, "3d_fullres", places.preprocessed / "arrays_3d_fullres"
        )
    job = fit.Job(
        root=str(places.root),
        name="tiny",
        recipe=plain(recipe),
        fold=fold,
        train_on={stage.name: splits[fold].train for stage in recipe.stages},
    )
    return job, fit.write_job(job, root / "job.json")


def _start(job: fit.Job, file: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bids_stroke.models.fit", str(file)]
    environment = {**os.environ, **job.places.environment(), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def _mean_dice(job: fit.Job) -> float:
    cases = {case.case: case for case in dataset.read_cases(job.places.root / "cases.json")}
    maps = sorted((job.places.validation / f"fold_{job.fold}").glob("*.nii.gz"))
    assert maps
    return float(
        np.mean(
            [
                dice_of(
                    *counts(
                        np.asarray(load_image(cases[path.name.split(".")[0]].truth).dataobj),
                        load_image(path).get_fdata() >= 0.5,
                    )
                )
                for path in maps
            ]
        )
    )


def test_links_arrays_and_plans(tmp_path):
    recipe = tiny_recipe()
    job, _ = prepare(tmp_path, recipe, cases=2)
    link = job.places.raw / "imagesTr" / "sub-01_0001.nii.gz"
    assert link.is_symlink() and link.resolve() == tmp_path / "images" / "sub-01" / "FLAIR.nii.gz"
    plans = read_json(job.places.preprocessed / "train.json")
    settings = plans["configurations"]["3d_fullres"]
    assert (settings["patch_size"], settings["batch_size"]) == ([16, 16, 16], 2)
    assert settings["spacing"] == [3.0, 3.0, 3.0]
    assert plans["bids_stroke"]["optimiser"]["name"] == "adam"
    arrays = job.places.preprocessed / "arrays_3d_fullres"
    assert {p.name for p in arrays.iterdir()} == {
        f"sub-0{n}{end}" for n in (1, 2) for end in (".b2nd", "_seg.b2nd", ".pkl")
    }


def test_a_lock_is_held_by_one_run_and_gone_with_it(tmp_path):
    lock = tmp_path / "new" / "run.lock"
    assert not fit.is_held(lock)
    with fit.hold(lock):
        assert fit.is_held(lock)
        with pytest.raises(UsageError, match="Another run trains"), fit.hold(lock):
            pass
    assert not fit.is_held(lock)


def test_a_process_is_not_wanted_once_its_run_is_gone(tmp_path):
    job = fit.Job(root=str(tmp_path), name="m", recipe={}, fold=0, train_on={})
    assert fit._supervision(job)()
    with fit.hold(tmp_path / fit.RUN_LOCK):
        wanted = fit._supervision(job)
        assert wanted()
    assert not wanted()


@pytest.mark.slow
def test_two_stages_train_stop_go_on_and_validate_as_deployed(tmp_path):
    recipe = tiny_recipe(
        stages=[
            {"name": "first", "channels": ["T1w"], "schedule": {"epochs": 2}},
            {"name": "second", "start": "previous", "adapt": "zero", "schedule": {"epochs": 20}},
        ]
    )
    job, file = prepare(tmp_path, recipe)
    folder = job.places.results / "RunTrainer__second__3d_fullres" / "fold_0"
    process = _start(job, file)
    deadline = time.monotonic() + 900
    while not (folder / "checkpoint_latest.pth").is_file():  # the first watch writes one
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = read_json(folder / "curves.json") if (folder / "curves.json").is_file() else []
    assert len(before) < 20
    done = _start(job, file)
    assert done.communicate(timeout=1500)[1].count("Error") == 0
    assert done.returncode == 0
    curves = read_json(folder / "curves.json")
    assert [row["epoch"] for row in curves] == list(range(1, 21))
    kept = max(0, len(before) - 3)  # at a slow machine next to nothing is there yet
    assert curves[:kept] == before[:kept]
    watched = next(row["dice"] for row in curves if "dice" in row)
    assert _mean_dice(job) > max(0.3, np.mean(list(watched.values())))
    first = job.places.results / "RunTrainer__first__3d_fullres"
    assert read_json(first / "dataset.json")["channel_names"] == {"0": "T1w"}


@pytest.mark.slow
def test_a_terminated_run_saves_within_the_epoch_and_its_model_packs(tmp_path):
    recipe = tiny_recipe(schedule={"epochs": 2, "iterations": 150, "validation_iterations": 1})
    job, file = prepare(tmp_path, recipe)
    folder = job.places.results / "RunTrainer__train__3d_fullres" / "fold_0"
    process = _start(job, file)
    deadline = time.monotonic() + 900
    while (
        not (folder / "progress.json").is_file()
        or not read_json(folder / "progress.json")["iteration"]
    ):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode == fit.STOPPED
    from bids_stroke.models.weights import load_checkpoint

    state = load_checkpoint(folder / "checkpoint_latest.pth")
    assert 0 < len(state["bids_stroke"]["losses"]) + 150 * state["current_epoch"] < 300
    done = _start(job, file)
    done.communicate(timeout=1500)
    assert done.returncode == 0
    facts = packing.Facts(name="tiny", training_data="balls", synthetic=True)
    point = OperatingPoint(threshold=0.5, min_volume_mm3=0)
    draft = packing.draft(recipe, facts, point, job.places.model / "tiny.toml")
    packing.write_model(draft, folder.parent, [0], recipe)
    from bids_stroke.models import descriptor, predictor

    model = predictor.load(descriptor.find(str(job.places.model)))
    assert set(model.folds) == {"0"}
    assert all(file.sha256 for file in model.descriptor.files)


@pytest.mark.slow
def test_batches_of_workers_come_without_shared_memory(tmp_path):
    """A worker that is killed, as the kernel does where memory is short, is told as such."""
    recipe = tiny_recipe(schedule={"epochs": 1, "iterations": 4000, "validation_iterations": 1})
    job, file = prepare(tmp_path, recipe)
    job = fit.Job(**{**read_json(file), "workers": 1})
    fit.write_job(job, file)
    folder = job.places.results / "RunTrainer__train__3d_fullres" / "fold_0"
    before = set(Path("/dev/shm").glob("torch_*"))
    process = _start(job, file)
    deadline = time.monotonic() + 300
    while (
        not (folder / "progress.json").is_file()
        or read_json(folder / "progress.json")["iteration"] < 10
    ):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert set(Path("/dev/shm").glob("torch_*")) <= before
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2  # that of validation is the second
    os.kill(int(children[0]), signal.SIGKILL)
    messages = process.communicate(timeout=100)[1]
    assert process.returncode == 75
    assert "TryAgain: A process that loads patches was killed" in messages.splitlines()[-1]
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_fold_that_starts_leaves_the_plans_whole_for_those_that_read_them(tmp_path, monkeypatch):
    """Folds of a model start when they like, and share its plans."""
    recipe = tiny_recipe()
    job, _ = prepare(tmp_path, recipe, cases=2)
    for key, value in job.places.environment().items():
        monkeypatch.setenv(key, value)
    trainer = fit.make_trainer(job, recipe, recipe.stages[0])
    trainer.initialize()
    trainer.on_train_start()
    names = {"plans.json", "dataset.json", "dataset_fingerprint.json"}
    assert {path.name for path in trainer.folder.parent.iterdir() if path.is_file()} == names
    for name in names:
        (tmp_path / name).hardlink_to(trainer.folder.parent / name)
    trainer.on_train_start()
    for name in names:
        path = trainer.folder.parent / name
        assert not path.samefile(tmp_path / name)  # a new file in its place, not written into
        assert read_json(path) == read_json(tmp_path / name)


def test_a_gpu_that_is_full_is_told_and_the_run_goes_on_later(tmp_path, monkeypatch, capsys):
    """A stand-in for CUDA's error, with workers in the background as a GPU has them."""
    import torch

    from bids_stroke.models.run_trainer import RunTrainer

    recipe = tiny_recipe(schedule={"epochs": 1, "iterations": 3, "validation_iterations": 1})
    job, file = prepare(tmp_path, recipe, cases=2)
    fit.write_job(fit.Job(**{**read_json(file), "workers": 2}), file)
    for key, value in job.places.environment().items():
        monkeypatch.setenv(key, value)
    step = RunTrainer.train_step

    def full(trainer: RunTrainer, batch: dict) -> dict:
        if trainer._iteration == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "train_step", full)
        assert fit.main([str(file)]) == 75
    said = capsys.readouterr().err.splitlines()[-1]
    assert "TryAgain: Memory ran out in training: give more, or a smaller patch or batch." in said
    assert fit.main([str(file)]) == 0
    assert len(list((job.places.validation / "fold_0").glob("*.nii.gz"))) == 1


def test_an_estimate_is_written_and_leaves_no_run(tmp_path, monkeypatch):
    job, file = prepare(tmp_path, tiny_recipe(), cases=2)
    for key, value in job.places.environment().items():
        monkeypatch.setenv(key, value)
    assert fit.main([str(file), "--estimate"]) == 0
    found = read_json(job.places.root / "estimate.json")
    assert found["seconds_per_iteration"] > 0
    assert found["seconds"] == pytest.approx(
        found["seconds_per_iteration"] * 4 * (12 + 2 / 3), rel=1e-6
    )
    assert not job.places.results.exists() or not list(job.places.results.glob("*/fold_0"))


def test_a_run_that_is_over_before_an_estimate_has_none(tmp_path):
    job, file = prepare(tmp_path, tiny_recipe().shortened(epochs=1, iterations=2), cases=2)
    assert fit.main([str(file), "--estimate"]) == 0
    assert not (job.places.root / "estimate.json").exists()


def test_an_estimate_ends_when_nobody_waits_for_it(tmp_path, monkeypatch):
    job, _ = prepare(tmp_path, tiny_recipe(), cases=2)
    for key, value in job.places.environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(fit, "_supervision", lambda job: lambda: False)
    with pytest.raises(SystemExit):
        fit.estimate(job)
