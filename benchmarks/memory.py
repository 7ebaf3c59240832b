"""Memory of a whole run: the largest proportional size of its processes, and of /dev/shm.

    python benchmarks/memory.py --limit-gb 8 --shm-mb 64 -- BIDS OUT participant [FLAG ...]

Everything after ``--`` is the command line of ``bids_stroke``. With ``--limit-gb`` no process of
the run gets a larger address space (``ulimit -v``); with ``--shm-mb`` the run has a /dev/shm of its
own of that size (needs the right to mount), which is looked at every 50 ms. ``--trace FILE`` keeps
all samples. Linux only.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PROGRAM = Path(sys.executable).parent / "bids_stroke"


def command(arguments: list[str], shm_mb: int) -> list[str]:
    """The run, in a mount namespace with a small /dev/shm if that is asked for."""
    run = [str(PROGRAM), *arguments]
    if not shm_mb:
        return run
    mount = f'mount -t tmpfs -o size={shm_mb}m none /dev/shm && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", *run]


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


def sizes_mb(process: psutil.Process) -> list[float]:
    """Sizes of a process and of all below it; those that end meanwhile are left out."""
    with suppress(psutil.Error):
        return [size_mb(one) for one in family(process)]
    return [0.0]


def shared_mb(process: psutil.Process, size_mb: int) -> float:
    """What is in the run's own /dev/shm of ``size_mb``; 0 before it is there."""
    try:
        usage = os.statvfs(Path("/proc", str(process.pid), "root", "dev", "shm"))
    except OSError:
        return 0.0
    if usage.f_blocks * usage.f_frsize != size_mb * 1024**2:
        return 0.0
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize / 1024**2


@dataclass(frozen=True)
class Sample:
    """What was seen at a time after the start: all processes, the largest one, and /dev/shm."""

    seconds: float
    all_mb: float
    largest_mb: float
    shm_mb: float


def watch(run: psutil.Popen, shm_mb: int, interval: float) -> list[Sample]:
    """Samples until the run ends; processes are looked at once in an interval."""
    start, sizes, due = time.monotonic(), [0.0], 0.0
    samples = []
    while run.poll() is None:
        seconds = time.monotonic() - start
        if seconds >= due:
            sizes, due = sizes_mb(run), seconds + interval
        shared = shared_mb(run, shm_mb) if shm_mb else 0.0  # else it is that of all programs
        samples.append(Sample(seconds, sum(sizes), max(sizes), shared))
        time.sleep(0.05)
    return samples


def write_trace(samples: list[Sample], path: Path) -> None:
    """All samples as TSV."""
    rows = [f"{s.seconds:.2f}\t{s.all_mb:.0f}\t{s.largest_mb:.0f}\t{s.shm_mb:.3f}" for s in samples]
    path.write_text("\n".join(["seconds\tall_mb\tlargest_mb\tshm_mb", *rows]) + "\n")


def main() -> int:
    """Run, look, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit-gb", type=float, default=0)
    parser.add_argument("--shm-mb", type=int, default=0)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("arguments", nargs="+")
    options = parser.parse_args()
    if options.limit_gb:
        size = int(options.limit_gb * 1024**3)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    start = time.monotonic()
    run = psutil.Popen(command(options.arguments, options.shm_mb))
    samples = watch(run, options.shm_mb, options.interval)
    if options.trace:
        write_trace(samples, options.trace)
    numbers = {
        "code": run.returncode,
        "peak_mb_all_processes": round(max(s.all_mb for s in samples)),
        "peak_mb_largest_process": round(max(s.largest_mb for s in samples)),
        "peak_mb_dev_shm": round(max(s.shm_mb for s in samples), 3),
        "samples": len(samples),
        "seconds": round(time.monotonic() - start),
    }
    print(json.dumps(numbers))
    return int(run.returncode)


if __name__ == "__main__":
    sys.exit(main())
