"""What the program asks of the operating system for its own processes."""

import ctypes
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1


def die_with_parent() -> None:
    """Have this process killed when the one that forked it ends; on Linux, elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def reuse_memory() -> None:
    """Have this process keep what it frees for its next arrays; with glibc, elsewhere nothing.

    glibc gives each large array back to the kernel, which zeroes the next one page by page.
    """
    if mallopt := _of_libc("mallopt"):
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


def return_memory(above_mb: float = 0) -> None:
    """Give what this process keeps free back to the kernel; with glibc, elsewhere nothing.

    A process that takes ``above_mb`` or less keeps it for its next arrays.
    """
    malloc_trim = _of_libc("malloc_trim")
    if malloc_trim and _resident_mb() > above_mb:
        malloc_trim(0)


def _resident_mb() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return math.inf
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


def _of_libc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
