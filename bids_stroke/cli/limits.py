"""How much memory a run may use: that of the machine, cut by control groups of either version."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")
_GB = 1024**3
_KEPT = 0.9  # share of a limit that is planned with


def limit_gb(groups: Path = GROUPS, own: Path = OWN_GROUP) -> float | None:
    """Nine tenths of the lowest limit of the groups that this process is in; None without one.

    In a container the group that counts is the root of what is mounted; under Slurm and systemd it
    lies below, so all groups on the way are read.
    """
    limits = [value for path in _limit_files(groups, own) if (value := _bytes(path)) is not None]
    return _KEPT * min(limits) / _GB if limits else None


def _limit_files(groups: Path, own: Path) -> Iterator[Path]:
    """Files that may hold a limit: ``memory.max`` of version 2, the longer name of version 1."""
    for root, name, place in (
        (groups, "memory.max", _place(own, "")),
        (groups / "memory", "memory.limit_in_bytes", _place(own, "memory")),
    ):
        yield root / name
        parts = Path(place).parts[1:]
        yield from (root.joinpath(*parts[:n], name) for n in range(1, len(parts) + 1))


def _place(own: Path, controller: str) -> str:
    """Path of this process's group for a controller; ``""`` is the one tree of version 2."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return "/"
    rows = (line.split(":", 2) for line in lines)
    return next((row[2] for row in rows if len(row) == 3 and controller in row[1].split(",")), "/")


def _bytes(path: Path) -> int | None:
    """Limit in a file; version 1 writes a number near 2**63 where there is none."""
    try:
        value = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return value if value < 1 << 60 else None


def free_gb(meminfo: Path = MEMINFO) -> float | None:
    """Memory that a new process can have without swapping, in GB; None where that is unknown."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        return next(int(x.split()[1]) / 1024**2 for x in lines if x.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def shortage(workflow: Any, memory_gb: float | None) -> str | None:
    """A sentence on the step that plans with more memory than there is, or None.

    ``memory_gb`` is what the user or a group allows; what is free on the machine counts as well.
    """
    known = [gb for gb in (memory_gb, free_gb()) if gb is not None]
    need, node = max(
        ((float(one.mem_gb), one.name) for one in workflow._get_all_nodes()), default=(0.0, "")
    )
    if not known or need <= min(known):
        return None
    return (
        f"The step {node} plans with {need:.1f} GB of memory, but only {min(known):.1f} GB can be "
        "had: it may be killed; close other programs, or ask for more memory."
    )
