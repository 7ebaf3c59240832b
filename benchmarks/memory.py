"""Memory of a whole run: the largest proportional size of its processes, and of /dev/shm.

    python benchmarks/memory.py --limit-gb 8 --shm-mb 64 -- BIDS OUT participant [FLAG ...]

Everything after ``--`` is the command line of ``bids_stroke``. With ``--limit-gb`` no process of
the run gets a larger address space (``ulimit -v``); with ``--shm-mb`` the run has a /dev/shm of its
own of that size (needs the right to mount). Linux only.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

PROGRAM = Path(sys.executable).parent / "bids_stroke"


def command(arguments: list[str], shm_mb: int) -> list[str]:
    """The run, in a mount namespace with a small /dev/shm if that is asked for."""
    run = [str(PROGRAM), *arguments]
    if not shm_mb:
        return run
    mount = f'mount -t tmpfs -o size={shm_mb}m none /dev/shm && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, "sh", *run]


def family(process: psutil.Process) -> Iterator[psutil.Process]:
    """A process and all below it."""
    yield process
    yield from process.children(recursive=True)


def size_mb(process: psutil.Process) -> float:
    """Proportional size (PSS): pages that processes share are counted once among them."""
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def shared_mb(process: psutil.Process, size_mb: int) -> float:
    """What is in the run's own /dev/shm of ``size_mb``; 0 before it is there."""
    try:
        usage = os.statvfs(Path("/proc", str(process.pid), "root", "dev", "shm"))
    except OSError:
        return 0.0
    if usage.f_blocks * usage.f_frsize != size_mb * 1024**2:
        return 0.0
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize / 1024**2


def main() -> int:
    """Run, look, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit-gb", type=float, default=0)
    parser.add_argument("--shm-mb", type=int, default=0)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("arguments", nargs="+")
    options = parser.parse_args()
    if options.limit_gb:
        size = int(options.limit_gb * 1024**3)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    start = time.monotonic()
    run = psutil.Popen(command(options.arguments, options.shm_mb))
    peak, largest, shm = 0.0, 0.0, 0.0
    while run.poll() is None:
        sizes = [size_mb(one) for one in family(run)]
        peak, largest = max(peak, sum(sizes)), max(largest, *sizes)
        if options.shm_mb:  # else it is that of all programs of the machine
            shm = max(shm, shared_mb(run, options.shm_mb))
        time.sleep(options.interval)
    user = resource.getrusage(resource.RUSAGE_CHILDREN)
    numbers = {
        "code": run.returncode,
        "peak_mb_all_processes": round(peak),
        "peak_mb_largest_process": round(largest),
        "peak_mb_dev_shm": round(shm, 1),
        "processor_seconds": round(user.ru_utime + user.ru_stime),
        "seconds": round(time.monotonic() - start),
    }
    print(json.dumps(numbers))
    return int(run.returncode)


if __name__ == "__main__":
    sys.exit(main())
