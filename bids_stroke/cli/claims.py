"""Locks in the work folder, so that two runs never compute the same pair in the same place.

The kernel frees them when a process ends, however it ends. Where a file system has no locks, runs
go on without them.
"""

import fcntl
import os
import resource
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bids_stroke.cli.environment import cannot_write
from bids_stroke.errors import TryAgain

FOLDER = "bids_stroke_locks"
OTHER_FILES = 1024
"""Files beside the locks that a run may have open at once."""


@contextmanager
def use_work_folder(work_dir: Path, *, alone: bool) -> Iterator[None]:
    """Say that a run uses the work folder; ``alone`` first waits for no one but refuses company.

    Raises TryAgain when the folder is wanted alone and another run uses it.
    """
    with _opened(work_dir, "run") as lock:
        if alone and not _take(lock, fcntl.LOCK_EX):
            raise TryAgain(
                f"Another run uses the work folder {work_dir}: wait for its end, or leave out "
                "--clean-workdir."
            )
        _take(lock, fcntl.LOCK_SH)
        yield


@contextmanager
def claimed(work_dir: Path, names: Iterable[str]) -> Iterator[set[str]]:
    """Claim names until the end of the block; gives those that another run has claimed."""
    names = list(names)
    _allow_open_files(len(names))
    with ExitStack() as stack:
        locks = {name: stack.enter_context(_opened(work_dir, name)) for name in names}
        yield {name for name, lock in locks.items() if not _take(lock, fcntl.LOCK_EX)}


def _allow_open_files(count: int) -> None:
    """Raise this process's own limit by so many, as far as the system lets it."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_FILES
    if now != resource.RLIM_INFINITY and now < wanted:
        allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, allowed), most))


@contextmanager
def _opened(work_dir: Path, name: str) -> Iterator[int]:
    path = work_dir / FOLDER / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise cannot_write(work_dir, error) from error
    try:
        yield lock
    finally:
        os.close(lock)


def _take(lock: int, kind: int) -> bool:
    """Take a lock without waiting; False when another process has it."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
