"""Ranks that train one fold together: as one that has the whole batch, and all end with one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bids_stroke.core.files import read_json
from bids_stroke.models import fit, ranks
from bids_stroke.models.weights import load_checkpoint
from tests.models.ddp_program import PART_ONLY, VARIANTS, steps
from tests.models.phantom_training import nnunet_folders
from tests.models.test_fit import _start, prepare
from tests.training_data import tiny_recipe

pytestmark = pytest.mark.filterwarnings("ignore")  # of nnU-Net's own imports


# Numbers


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one process with the whole batch finds, and what two with half of it do, by variant."""
    root = tmp_path_factory.mktemp("ddp")
    with pytest.MonkeyPatch.context() as patch:
        nnunet_folders(root, patch)
        alone = {variant: steps(root, variant) for variant in VARIANTS}
        program = [sys.executable, "-m", "tests.models.ddp_program", str(root)]
        started = [
            subprocess.Popen([*program, str(rank), "2"], stderr=subprocess.PIPE, text=True)
            for rank in (0, 1)
        ]
        for process in started:
            _, messages = process.communicate(timeout=300)
            assert process.returncode == 0, messages[-3000:]
    pair = [torch.load(root / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]
    return alone, pair


@pytest.mark.slow
@pytest.mark.parametrize("variant", [one for one in VARIANTS if one != PART_ONLY])
def test_two_ranks_step_as_one_with_the_whole_batch(found, variant):
    alone, pair = found[0][variant], [rank[variant] for rank in found[1]]
    for step, whole in enumerate(alone["gradients"]):
        for name, gradient in whole.items():
            for rank in pair:
                assert torch.allclose(rank["gradients"][step][name], gradient, atol=2e-6), name
    assert np.mean([rank["losses"] for rank in pair], axis=0) == pytest.approx(
        alone["losses"], abs=1e-5
    )
    assert all(
        torch.equal(weight, pair[1]["weights"][name]) for name, weight in pair[0]["weights"].items()
    )


@pytest.mark.slow
def test_ranks_keep_equal_weights_whatever_they_normalise_by(found):
    pair = [rank[PART_ONLY] for rank in found[1]]
    assert set(pair[0]["gradients"][2]) == set(pair[1]["gradients"][2])
    for step in range(3):
        for name, gradient in pair[0]["gradients"][step].items():
            assert torch.equal(gradient, pair[1]["gradients"][step][name]), name
    for name in pair[0]["gradients"][0]:
        assert torch.equal(pair[0]["weights"][name], pair[1]["weights"][name])


@pytest.mark.slow
def test_ranks_divide_the_batch_and_draw_patches_of_their_own(found):
    one, other = (rank["dice_ce"] for rank in found[1])
    assert (one["batch_size"], other["batch_size"]) == (2, 2)
    assert (one["foreground"], other["foreground"]) == (0, 0.5)  # the last third of the batch
    assert one["drawn"] != other["drawn"]
    assert one["mean of ranks"] == other["mean of ranks"] == 0.5


# Processes


def test_who_is_to_blame():
    assert ranks._culprit([0, 0]) is None
    assert ranks._culprit([3, 3], but=3) is None
    assert ranks._culprit([1, -9]) == 1
    assert ranks._culprit([1, 75]) == 1
    assert ranks._culprit([2, 75]) == 0


def _program(folder: Path, text: str) -> list[str]:
    """A program that gets ``--rank N --store FILE``; ``rank`` is its number."""
    file = folder / "program.py"
    file.write_text(f"import sys, os, time\nrank = int(sys.argv[2])\n{text}\n", encoding="utf-8")
    return [sys.executable, str(file)]


def test_all_ranks_are_waited_for(tmp_path):
    text = f"open(r'{tmp_path}/' + str(rank), 'w')"
    ranks.train_together(_program(tmp_path, text), 3, lambda: True)
    assert all((tmp_path / str(rank)).exists() for rank in range(3))


def test_the_one_that_failed_ends_the_others_and_is_heard(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ranks, "GRACE_S", 0.5)
    text = "if rank:\n    sys.exit('its reason')\ntime.sleep(600)"
    with pytest.raises(SystemExit) as ended:
        ranks.train_together(_program(tmp_path, text), 2, lambda: True)
    assert ended.value.code == 1
    assert capsys.readouterr().err.strip() == "its reason"


def test_nobody_wants_them_any_more(tmp_path):
    ready = [tmp_path / "0", tmp_path / "1"]
    text = (
        "import signal\nsignal.signal(15, lambda *_: sys.exit(3))\n"
        f"open(r'{tmp_path}/' + str(rank), 'w')\ntime.sleep(600)"
    )
    with pytest.raises(SystemExit) as ended:
        ranks.train_together(
            _program(tmp_path, text), 2, lambda: not all(file.exists() for file in ready)
        )
    assert ended.value.code == ranks.STOPPED


# A whole fold


def _children(process: "subprocess.Popen[str]") -> list[int]:
    """Ranks of a training, by their ids."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(one) for one in path.read_text(encoding="ascii").split()]


def _until(done: Any, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 600
    while not done():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_two_ranks_train_a_fold_are_killed_and_go_on(tmp_path):
    recipe = tiny_recipe(
        stages=[
            {"name": "first", "channels": ["T1w"], "schedule": {"epochs": 1, "iterations": 2}},
            {
                "name": "second",
                "start": "previous",
                "schedule": {"epochs": 3, "iterations": 40, "validation_iterations": 1},
            },
        ]
    )
    job, file = prepare(tmp_path, recipe)
    job = fit.Job(**{**read_json(file), "ranks": 2})
    fit.write_job(job, file)
    folder = job.places.results / "RunTrainer__second__3d_fullres" / "fold_0"

    process = _start(job, file)
    _until(lambda: (folder / "checkpoint_latest.pth").is_file(), process)  # the first watch
    os.kill(_children(process)[1], signal.SIGKILL)
    process.communicate(timeout=100)
    assert process.returncode == 137
    done = len(read_json(folder / "curves.json"))

    process = _start(job, file)
    _until(lambda: _iteration(folder) > 40 * done, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode == ranks.STOPPED
    state = load_checkpoint(folder / "checkpoint_latest.pth")
    assert len(state["bids_stroke"]["losses"]) + 40 * state["current_epoch"] >= 40 * done

    process = _start(job, file)
    messages = process.communicate(timeout=600)[1]
    assert process.returncode == 0, messages[-3000:]
    assert [row["epoch"] for row in read_json(folder / "curves.json")] == [1, 2, 3]
    assert len(list((job.places.validation / "fold_0").glob("*.nii.gz"))) == 2
    logs = list(folder.glob("training_log*.txt"))
    assert len(logs) == 3  # one a start: only the first rank writes


def _iteration(folder: Path) -> int:
    path = folder / "progress.json"
    if not path.is_file():
        return 0
    told = read_json(path)
    return (told["epoch"] - 1) * told["iterations"] + told["iteration"]
