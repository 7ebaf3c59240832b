"""Runs on a real Slurm: one job a step, and an array with one participant a task."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import slurm as cluster
from tests.faults import outputs
from tests.slurm import Slurm
from tests.small import FLAGS, write_dataset, write_small_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[1]
PROGRAM = Path(sys.executable).parent / "bids_stroke"
SUBJECTS = ("01", "02")
PATIENCE = 900.0


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if why := cluster.missing():
        pytest.skip(why)
    with cluster.running() as running:
        yield running


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two participants with a T1w each, a store with a model, and what an undisturbed run gives."""
    root = tmp_path_factory.mktemp("cluster")
    write_dataset(root / "bids", SUBJECTS)
    write_small_model(root / "model")
    words = [f"{PROGRAM}-models", "import", root / "model" / "tiny", "--name", "tiny"]
    words += ["--channels", "T1w,FLAIR", "--inputs", "T1w+FLAIR,T1w", "--reference", "T1w"]
    words += ["--threshold", "0.3", "--models-dir", root / "store"]
    subprocess.run(words, check=True, capture_output=True)
    (root / "linear.yml").write_text("plugin: Linear\n")
    done = start(root, "calm", dict(os.environ), "linear.yml")
    assert done.wait() == 0, (root / "calm.log").read_text()
    return root


def start(
    root: Path, name: str, environ: dict[str, str], plugin: str, *flags: str
) -> subprocess.Popen[bytes]:
    """A run of the participant level with a plugin file, with its messages in ``name.log``."""
    words = [PROGRAM, root / "bids", root / name / "out", "participant", *FLAGS, "--model", "tiny"]
    words += ["--models-dir", root / "store", "-w", root / name / "work", *flags]
    words += ["--nipype-plugin-file", root / plugin, "--omp-nthreads", "1"]
    with (root / f"{name}.log").open("w") as log:
        return subprocess.Popen(words, env=environ, stdout=log, stderr=log)


def until(true: object, seconds: float = 300) -> None:
    """Wait until a function gives something true."""
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.5)


def test_one_job_a_step(slurm: Slurm, place: Path) -> None:
    """A lost job is told and can be made good; the result is that of a run on one machine."""
    arguments = '{sbatch_args: "--partition=cpu --time=10", max_jobs: 4}'
    (place / "slurm.yml").write_text(f"plugin: SLURM\nplugin_args: {arguments}\n")
    environ = {k: v for k, v in slurm.environ.items() if k != "LOGNAME"}
    only = ("--participant-label", "01")
    run = start(place, "steps", environ, "slurm.yml", *only)
    until(slurm.jobs)
    (lost,) = slurm.jobs()
    slurm.ask("scancel", lost)
    assert run.wait(PATIENCE) == 75
    said = (place / "steps.log").read_text()
    assert f"job {lost} ended without a result" in said
    assert "Traceback" not in said

    stopped = start(place, "steps", environ, "slurm.yml", *only)
    until(lambda: len(list((place / "steps" / "work").rglob("result_*.pklz"))) > 3)
    until(slurm.jobs)
    stopped.terminate()
    assert stopped.wait(60) == 130
    until(lambda: not slurm.jobs(), 60)

    again = start(place, "steps", environ, "slurm.yml", *only)
    assert again.wait(PATIENCE) == 0, (place / "steps.log").read_text()
    expected = outputs(place, "calm")
    assert outputs(place, "steps") == {k: v for k, v in expected.items() if k.startswith("sub-01")}


def submit(slurm: Slurm, place: Path, name: str, *flags: str, program: Path = PROGRAM) -> list[str]:
    """Numbers of the array and of the group's job of ``examples/slurm/submit.sh``."""
    flags_of_run = [*FLAGS, "--model", "tiny", "--omp-nthreads", "1"]
    environ = {
        "BIDS_STROKE": str(program),
        "BIDS_STROKE_MODELS": str(place / "store"),
        "BIDS_STROKE_FLAGS": " ".join(flags_of_run),
    }
    folders = [place / "bids", place / name / "out", place / name / "work"]
    words = [ROOT / "examples" / "slurm" / "submit.sh", *folders, "--cpus-per-task=1", *flags]
    done = subprocess.run(
        words, env={**slurm.environ, **environ}, cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return re.findall(r"\d+", done.stdout)


def log(place: Path, job: str) -> str:
    return next(place.glob(f"bids_stroke*-{job}.log")).read_text()


def test_an_array_and_its_group(slurm: Slurm, place: Path) -> None:
    """One task is cancelled in mid-run; the group still runs, and the task goes on later."""
    array, group = submit(slurm, place, "array")
    work = place / "array" / "work" / "sub-01"
    until(lambda: len(list(work.rglob("result_*.pklz"))) > 3)
    described = slurm.ask("scontrol", "show", "job", f"{array}_0")
    assert "Partition=gpu" in described
    assert "gres:gpu:1" in described
    assert "afterany" in slurm.ask("scontrol", "show", "job", group)
    slurm.ask("scancel", f"{array}_0")
    slurm.wait(PATIENCE)
    assert "1 of 1 participants are complete" in log(place, f"{array}_1")
    assert "complete" not in log(place, f"{array}_0")
    assert "The cohort's page is" in log(place, group)
    done = {path: path.stat().st_mtime_ns for path in work.rglob("result_*.pklz")}

    array, group = submit(slurm, place, "array", "--array=0")
    slurm.wait(PATIENCE)
    assert "1 of 1 participants are complete" in log(place, f"{array}_0")
    assert len(list(work.glob("bids_stroke_steps-*"))) == 1
    kept = [path for path, when in done.items() if path.stat().st_mtime_ns == when]
    assert len(kept) > 1
    assert outputs(place, "array") == outputs(place, "calm")
    rows = (place / "array" / "out" / "group_sessions.tsv").read_text().splitlines()
    assert len(rows) == 1 + len(SUBJECTS)


STUCK = """\
#!/bin/bash
[ "$3" = participant ] || exec {program} "$@"
{program} "$@" &
until [ "$(find "$WORK" -name 'result_*.pklz' | wc -l)" -gt 3 ]; do sleep 0.2; done
kill -STOP $!
wait
"""


def test_a_task_that_ran_out_of_time_goes_on(slurm: Slurm, place: Path) -> None:
    stuck = place / "stuck.sh"
    stuck.write_text(STUCK.format(program=PROGRAM))
    stuck.chmod(0o755)
    array, _ = submit(slurm, place, "limit", "--array=0", "--time=1", program=stuck)
    slurm.wait(PATIENCE)
    assert "DUE TO TIME LIMIT" in log(place, f"{array}_0")
    assert not outputs(place, "limit")

    array, _ = submit(slurm, place, "limit", "--array=0")
    slurm.wait(PATIENCE)
    assert "1 of 1 participants are complete" in log(place, f"{array}_0")
    expected = outputs(place, "calm")
    assert outputs(place, "limit") == {k: v for k, v in expected.items() if k.startswith("sub-01")}
