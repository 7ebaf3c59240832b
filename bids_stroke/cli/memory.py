"""Peak memory of each step as the kernel counts it: without cost, without a watching thread."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TABLE = "memory.tsv"
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mb() -> float | None:
    """Largest resident size of this process since ``forget_peak`` in MB; None where unknown."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    peaks = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peaks[0]) / 1024 if peaks else None


def forget_peak() -> bool:
    """Let the kernel count the peak anew (Linux, ``man 5 proc``: 5 in ``clear_refs``)."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


@contextmanager
def recorded(name: str, table: Path | None) -> Iterator[None]:
    """Append the peak of what runs inside to ``table``, a line of TSV that is written at once."""
    measured = table is not None and forget_peak()
    try:
        yield
    finally:
        peak = peak_mb() if measured else None
        if peak is not None and table is not None:
            _append(table, f"{name}\t{peak:.1f}\n")


def new_table(path: Path) -> Path:
    """Begin a table of peaks; returns its path."""
    path.write_text("node\tpeak_mb\n", encoding="utf-8")
    return path


def _append(table: Path, line: str) -> None:
    """Add a line by one write, so that lines of several processes never mix."""
    descriptor = os.open(table, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
