"""What the program asks of the operating system for its own processes."""

import ctypes
import signal
import sys
from collections.abc import Callable

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


def return_memory() -> None:
    """Give what this process keeps free back to the kernel; with glibc, elsewhere nothing."""
    if malloc_trim := _of_libc("malloc_trim"):
        malloc_trim(0)


def _of_libc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
