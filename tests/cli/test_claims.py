"""Locks between runs: those of another process hold, and end with it."""

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bids_stroke.cli.claims import claimed, use_work_folder
from bids_stroke.errors import CannotCreate, TryAgain


def elsewhere(ready: Path, hold: Callable[[], object]) -> int:
    """Fork a process that takes locks and keeps them."""
    child = os.fork()
    if child:
        while not ready.exists():
            time.sleep(0.01)
        return child
    held = hold()
    held.__enter__()  # type: ignore[attr-defined]
    ready.touch()
    time.sleep(60)
    os._exit(0)


def end(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_claims_of_a_living_process_hold(tmp_path: Path) -> None:
    other = elsewhere(tmp_path / "ready", lambda: claimed(tmp_path, ["a", "b"]))
    try:
        with claimed(tmp_path, ["b", "c"]) as taken:
            assert taken == {"b"}
    finally:
        end(other)
    with claimed(tmp_path, ["b", "c"]) as taken:
        assert taken == set()


def test_work_folder_is_not_cleaned_under_another(tmp_path: Path) -> None:
    other = elsewhere(tmp_path / "ready", lambda: use_work_folder(tmp_path, alone=False))
    try:
        with (
            pytest.raises(TryAgain, match="--clean-workdir"),
            use_work_folder(tmp_path, alone=True),
        ):
            pass
        with use_work_folder(tmp_path, alone=False):
            pass
    finally:
        end(other)
    with use_work_folder(tmp_path, alone=True):
        pass


def test_work_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate, match="-w"), claimed(tmp_path / "file" / "w", ["a"]):
        pass


def test_more_locks_than_files_may_be_open(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    names = [f"sub_{n}_wf" for n in range(400)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
        with claimed(tmp_path, names) as taken:
            assert not taken
            with claimed(tmp_path, names[:3]) as again:
                assert again == set(names[:3])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
