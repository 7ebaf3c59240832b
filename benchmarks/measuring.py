"""What the benchmarks share: processes with their clock and processor time, tables, datasets."""

import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and of processors over a process and all that it started."""

    wall_s: float
    cpu_s: float


def cost_of(work: Callable[[], Any]) -> Cost:
    """Cost of work that runs in child processes.

    What the children started and left behind is waited for, so that its processor time counts.
    """
    adopt_orphans()
    before, start = _children(), time.perf_counter()
    work()
    wall = time.perf_counter() - start
    return Cost(round(wall, 3), round(_children() - before, 3))


def adopt_orphans() -> None:
    """Make this process the parent of what its children leave behind (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _children() -> float:
    """Processor seconds of all children that have ended; waits for those that have not."""
    with suppress(ChildProcessError):
        while True:
            os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_python(arguments: Sequence[str | Path], threads: int = 2) -> str:
    """Output of a Python process; raises RuntimeError with its last lines when it fails."""
    environ = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environ
    )
    if done.returncode:
        raise RuntimeError(f"{list(map(str, arguments))}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def bids_stroke(arguments: Sequence[str | Path], threads: int = 2) -> str:
    """Run our program as a user does."""
    return run_python(["-m", "bids_stroke", *arguments], threads)


def taking_turns(
    runners: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, dict[str, float]]:
    """Medians of the cost of each runner; the runners take turns."""
    costs: dict[str, list[Cost]] = {name: [] for name in runners}
    for _ in range(repeats):
        for name, work in runners.items():
            costs[name].append(cost_of(work))
    return {name: median(of_one) for name, of_one in costs.items()}


def median(costs: Iterable[Cost]) -> dict[str, float]:
    """Median of each figure."""
    rows = [asdict(cost) for cost in costs]
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """A Markdown table of rows with equal keys."""
    heads = list(rows[0])
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(str(row[head]) for head in heads) + " |")


def finish(result: Mapping[str, Any]) -> None:
    """The last line: one JSON object."""
    print(json.dumps(result))


def dice(a: Path, b: Path) -> float:
    """Dice of two masks in files."""
    return overlap(*(np.asanyarray(nib.load(path).dataobj) > 0 for path in (a, b)))


def overlap(one: NDArray[np.bool_], two: NDArray[np.bool_]) -> float:
    """Dice of two masks; 1 where both are empty."""
    total = int(one.sum() + two.sum())
    return round(2 * int((one & two).sum()) / total, 5) if total else 1.0


def touch_dataset(root: Path, subjects: int, sessions: int = 1) -> Path:
    """A BIDS dataset of empty files: a T1w and a FLAIR for each session."""
    describe(root)
    for subject in range(1, subjects + 1):
        for session in range(1, sessions + 1):
            label = f"sub-{subject:05d}_ses-{session:02d}"
            anat = root / f"sub-{subject:05d}" / f"ses-{session:02d}" / "anat"
            anat.mkdir(parents=True)
            for suffix in ("T1w", "FLAIR"):
                (anat / f"{label}_{suffix}.nii.gz").touch()
    return root


def demonstration(root: Path, *flags: str) -> None:
    """Write the dataset of ``bids_stroke-demo``, with small heads by ``--tiny``."""
    code = "import sys; from bids_stroke.cli.demo import main; sys.exit(main(sys.argv[1:]))"
    run_python(["-c", code, root, *flags])


def describe(root: Path) -> None:
    """The description that makes a folder a BIDS dataset."""
    root.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"Name": "Made by a benchmark", "BIDSVersion": "1.10.0"})
    (root / "dataset_description.json").write_text(text, encoding="utf-8")
