"""What is complete is not looked at again; what has changed is."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_stroke.cli import environment, participants
from bids_stroke.cli import plan as plans
from bids_stroke.cli.claims import claimed
from bids_stroke.cli.run import main
from tests.bids.skeleton import dataset
from tests.cli import graph

ALREADY = "participants were complete already."


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with a small graph in place of the real one."""
    graph.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def place(empty: Path) -> Path:
    """A folder with a dataset of two, who are complete."""
    dataset(empty / "raw", "01/T1w", "02/T1w", "02/FLAIR")
    assert call() == 0
    return empty


def call(*flags: str) -> int:
    return main(["raw", "out", "participant", "--nprocs", "2", "--device", "cpu", *flags])


def test_nothing_is_left_to_do(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_workers() -> None:
        raise AssertionError("workers for nothing")

    monkeypatch.setattr(environment, "start_fork_server", no_workers)
    monkeypatch.setattr("bids_stroke.cli.engine.started", no_workers)
    before = {path: path.stat().st_mtime_ns for path in (place / "out").glob("sub-*/**/*")}
    capfd.readouterr()
    assert call() == 0
    said = capfd.readouterr().out
    assert f"2 of 2 {ALREADY}" in said
    assert "sub-02: complete, see" in said
    assert {p: p.stat().st_mtime_ns for p in (place / "out").glob("sub-*/**/*")} == before


def _touch(name: str) -> Callable[[Path], None]:
    return lambda place: os.utime(place / name, ns=(1, 1))


def _remove(name: str) -> Callable[[Path], None]:
    return lambda place: (place / name).unlink()


def _write(name: str, text: str) -> Callable[[Path], None]:
    return lambda place: _written(place / name, text)


def _written(path: Path, text: str) -> None:
    path.write_text(text)


ANAT = "sub-01/anat/sub-01_"
MINE = "participant_id\tsession_before\nsub-01\t1\n"


@pytest.mark.parametrize(
    "change",
    [
        _touch(f"raw/{ANAT}T1w.nii.gz"),
        _write(f"raw/{ANAT}T1w.json", "{}"),
        _remove(f"out/{ANAT}T1w.nii.gz"),
        _write(f"out/{ANAT}T1w.nii.gz", "edited"),
        _write(f"out/{ANAT}T1w.nii.gz", "lEsions"),
        _remove("out/sub-01.html"),
        _write("out/group_longitudinal.tsv", MINE),
    ],
)
def test_who_has_changed_is_looked_at_again(
    place: Path, capfd: pytest.CaptureFixture[str], change: Callable[[Path], None]
) -> None:
    change(place)
    capfd.readouterr()
    assert call() == 0
    assert f"1 of 2 {ALREADY}" in capfd.readouterr().out
    assert (place / "out" / "sub-01.html").is_file()
    assert call() == 0
    assert f"2 of 2 {ALREADY}" in capfd.readouterr().out


def test_an_input_that_changes_during_the_run_is_looked_at_again(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset(place / "raw", "03/T1w")
    real = participants._run_part

    def run_part(*given: Any) -> Any:
        failed = real(*given)
        os.utime(place / "raw" / "sub-03" / "anat" / "sub-03_T1w.nii.gz", ns=(1, 1))
        return failed

    monkeypatch.setattr(participants, "_run_part", run_part)
    assert call() == 0
    capfd.readouterr()
    assert call() == 0
    assert f"2 of 3 {ALREADY}" in capfd.readouterr().out


def test_damaged_records_count_for_nothing(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in place.glob("work/*/finished/*.json"):
        path.write_text("{")
    capfd.readouterr()
    assert call() == 0
    assert ALREADY not in capfd.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [("--threshold", "0.3"), ("--output-spaces", "T1w"), ("--random-seed", "2"), ("--tta",)],
)
def test_another_request_is_another_result(
    place: Path, capfd: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    capfd.readouterr()
    assert call(*flags) == 0
    assert ALREADY not in capfd.readouterr().out


def test_another_model_of_that_name_is_another_result(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph.MODEL, "checksums", lambda: {"weights": "other"})
    capfd.readouterr()
    assert call() == 0
    assert ALREADY not in capfd.readouterr().out


@pytest.mark.parametrize(
    "flags", [("--mem", "3"), ("--participant-label", "02"), ("--omp-nthreads", "2"), ("-v",)]
)
def test_what_changes_no_result(
    place: Path, capfd: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    capfd.readouterr()
    assert call(*flags) == 0
    said = capfd.readouterr().out
    assert f"2 of 2 {ALREADY}" in said or f"1 of 1 {ALREADY}" in said


def test_who_failed_is_not_finished(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dataset(place / "raw", "bad/T1w", "nopage/T1w")
    for _ in range(2):
        capfd.readouterr()
        assert call() == 1
        said = capfd.readouterr().out
        assert f"2 of 4 {ALREADY}" in said
        assert "2 of 4 participants are complete." in said


@pytest.fixture
def apart(empty: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, where each participant is a part."""
    monkeypatch.setattr(plans, "LEAST_PART", 1)
    monkeypatch.setattr(plans, "PAIRS_PER_WORKER", 0)
    return empty


def test_parts_come_to_the_same(apart: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Pages come part by part, and the logs are those of one run."""
    dataset(apart / "raw", "01/a/T1w", "01/b/T1w", "02/T1w", "bad/T1w", "zoe/T1w")
    assert call("--resource-monitor") == 1
    said = capfd.readouterr().out
    assert "3 of 4 participants are complete." in said
    assert "sub-bad: FAILED" in said
    pages = [apart / "out" / f"sub-{one}.html" for one in ("01", "02", "zoe")]
    times = [page.stat().st_mtime_ns for page in pages]
    assert times == sorted(times) and len(set(times)) == 3
    (log,) = (path for path in (apart / "out" / "logs").iterdir() if path.is_dir())
    header, *rows = (log / "timing.tsv").read_text().splitlines()
    assert header.startswith("participant\t")
    assert {row.split("\t")[1] for row in rows} >= {"sub-01_ses-a", "sub-01_ses-b", "sub-zoe"}
    monitored = (log / "resource_monitor.json").read_text()
    assert "sub_01_ses_a_wf" in monitored and "sub_zoe_wf" in monitored


def test_parts_after_the_first_crash_are_not_run(
    apart: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset(apart / "raw", "bad/T1w", "zoe/T1w")
    assert call("--stop-on-first-crash") == 1
    assert "sub-zoe: FAILED: The run was stopped" in capfd.readouterr().out
    assert not (apart / "out" / "sub-zoe").exists()


def test_what_another_run_computes_is_left_to_it(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset(place / "raw", "03/T1w", "04/T1w")
    with claimed(place / "work", ["sub_03_wf"]):
        assert call() == 75
    said = capfd.readouterr().out
    assert "sub-03: FAILED: Another run computes sub-03" in said
    assert "sub-04: complete" in said
