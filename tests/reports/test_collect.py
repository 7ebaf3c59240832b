"""Failures of runs that came one after the other, or side by side."""

import os
from pathlib import Path

from bids_stroke.reports import collect
from tests.reports import fake


def crash(out: Path, log: str, subject: str, when: float) -> None:
    path = out / "logs" / log / f"sub-{subject}" / "crash-1.txt"
    path.parent.mkdir(parents=True)
    path.write_text(fake.CRASH.replace("sub_03", f"sub_{subject}"))
    os.utime(path, (when, when))


def record(out: Path, subject: str, when: float) -> None:
    path = out / f"sub-{subject}" / "figures" / f"sub-{subject}_desc-qc.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    os.utime(path, (when, when))


def test_failures_of_jobs_side_by_side_all_stand(tmp_path: Path) -> None:
    crash(tmp_path, "job1", "01", 100)
    crash(tmp_path, "job2", "02", 101)
    (tmp_path / "logs" / "job3").mkdir()
    assert [f.subject for f in collect.standing_failures(tmp_path)] == ["01", "02"]


def test_what_was_done_since_is_no_failure(tmp_path: Path) -> None:
    crash(tmp_path, "job1", "01", 100)
    record(tmp_path, "01", 200)
    crash(tmp_path, "job2", "02", 300)
    record(tmp_path, "02", 200)
    assert [f.subject for f in collect.standing_failures(tmp_path)] == ["02"]


def test_only_the_last_failing_run_of_a_participant_counts(tmp_path: Path) -> None:
    crash(tmp_path, "a", "01", 200)
    crash(tmp_path, "b", "01", 100)
    (failure,) = collect.standing_failures(tmp_path)
    assert failure.file.parent.parent.name == "a"


def log(out: Path, name: str, when: float, *participants: str) -> Path:
    folder = out / "logs" / name
    folder.mkdir(parents=True)
    if participants:
        rows = [f"{one}\t{one}\tN4\tnode\t1.0\t2.0\n" for one in participants]
        (folder / "timing.tsv").write_text(
            f"participant\tlabel\tstep\tnode\tstart\tseconds\n{''.join(rows)}"
        )
    os.utime(folder, (when, when))
    return folder


def test_the_last_run_of_a_participant_is_the_newest_that_tells_of_it(tmp_path: Path) -> None:
    log(tmp_path, "all", 100, "sub-01", "sub-02")
    log(tmp_path, "second", 101, "sub-02")
    crash(tmp_path, "third", "03", 102)
    log(tmp_path, "nothing was left to do", 103)
    found = collect.last_logs(tmp_path)
    assert {name: folder.name for name, folder in found.items()} == {
        "sub-01": "all",
        "sub-02": "second",
        "sub-03": "third",
    }
    assert collect.last_logs(tmp_path / "absent") == {}
