"""Many sessions: one run with overlap of steps against one run after the other, and a fake GPU.

    python benchmarks/many_subjects.py [--quick] [--sessions N ...] [--repeats N]

Sessions are copies of a synthetic head (a small one with ``--quick``). ``peak_mb`` is the largest
resident size of a step in any worker, ``main_mb`` that of the main process, ``again_wall_s`` the
time of a second run, in which all is done. The fake GPU is a step that sleeps in the one slot of a
GPU, after a step that sleeps on a core: its idle share is the time without work between its first
start and its last end. The last line is one JSON object.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from measuring import bids_stroke, describe, finish, print_table, run_python, taking_turns
from one_subject import synthetic

RUN = """
import json, resource, sys
from bids_stroke.cli.run import main
code = main(sys.argv[1:])
print(json.dumps({"code": code,
    "main_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
sys.exit(code)
"""

GPU = """
import json, os, sys, tempfile, time
os.environ["NO_ET"] = "1"
from pathlib import Path
from nipype import Function
from nipype.pipeline import engine as pe
from bids_stroke.cli import engine
from bids_stroke.config import Execution

def prepare(seconds):
    import time
    time.sleep(seconds)
    return seconds

def predict(seconds, record):
    import os, time
    start = time.time()
    time.sleep(2 * seconds)
    with open(record, "a") as stream:
        stream.write(f"{start} {time.time()}\\n")

if __name__ == "__main__":
    count, seconds = int(sys.argv[1]), float(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        folder, record = Path(name), Path(name) / "record"
        execution = Execution(nprocs=2, gpu_slots=1, work_dir=folder)
        engine.configure(execution, folder)
        workflow = pe.Workflow("fake", base_dir=name)
        for number in range(count):
            first = pe.Node(Function(["seconds"], ["seconds"], prepare), f"prepare_{number}")
            first.inputs.seconds = seconds
            second = pe.Node(Function(["seconds", "record"], [], predict), f"predict_{number}")
            second.inputs.record = str(record)
            second.interface.inputs.add_trait("use_gpu", True)
            second.interface.use_gpu = True
            workflow.connect(first, "seconds", second, "seconds")
        with engine.started(execution, folder) as plugin:
            engine.run_workflow(workflow, plugin, lambda *_: None)
        spans = sorted(tuple(map(float, line.split())) for line in record.open())
        busy = sum(end - start for start, end in spans)
        whole = spans[-1][1] - spans[0][0]
        print(json.dumps({"predictions": len(spans), "busy_s": round(busy, 2),
            "whole_s": round(whole, 2), "idle_share": round(max(0, 1 - busy / whole), 3)}))
"""


def sessions_of(head: Path, root: Path, count: int) -> Path:
    """A dataset of ``count`` participants with the images of one."""
    describe(root)
    for number in range(1, count + 1):
        label = f"sub-{number:02d}"
        (root / label / "anat").mkdir(parents=True)
        for image in head.glob("sub-*/anat/*"):
            name = f"{label}_{image.name.partition('_')[2]}"
            shutil.copyfile(image, root / label / "anat" / name)
    return root


def arguments(bids: Path, out: Path, *labels: str) -> list[str | Path]:
    """Arguments of a run of ours."""
    chosen = ["--participant-label", *labels] if labels else []
    return [bids, out / "out", "participant", "-w", out / "work", "--skip-bids-validation"] + [
        *("--model", "embedded", "--nprocs", "2", "--omp-nthreads", "1"),
        *chosen,
    ]


def one_by_one(bids: Path, out: Path, count: int) -> None:
    """A run for each participant, with nothing kept of earlier runs."""
    shutil.rmtree(out, ignore_errors=True)
    for number in range(1, count + 1):
        bids_stroke(arguments(bids, out, f"{number:02d}"))


def together(bids: Path, out: Path) -> None:
    """One run for all, with nothing kept of earlier runs."""
    shutil.rmtree(out, ignore_errors=True)
    bids_stroke(arguments(bids, out))


def memory(bids: Path, out: Path) -> dict[str, float]:
    """Peaks of the main process and of the workers in a run."""
    said = run_python(["-c", RUN, *arguments(bids, out)])
    table = max((out / "out" / "logs").glob("*/memory.tsv"), key=lambda path: path.stat().st_mtime)
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    figures = json.loads(said.splitlines()[-1])
    return {"main_mb": figures["main_mb"], "peak_mb": max(float(row[1]) for row in rows)}


def again(bids: Path, out: Path) -> float:
    """Seconds of a run in which all is done already."""
    start = time.perf_counter()
    bids_stroke(arguments(bids, out))
    return round(time.perf_counter() - start, 2)


def measure(head: Path, count: int, repeats: int) -> dict[str, Any]:
    """Figures for one number of sessions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bids = sessions_of(head, folder / "bids", count)
        runners = {
            "one by one": partial(one_by_one, bids, folder / "apart", count),
            "one run": partial(together, bids, folder / "together"),
        }
        costs = taking_turns(runners, repeats)
        apart, one = costs["one by one"], costs["one run"]
        return {
            "sessions": count,
            "one_by_one_wall_s": apart["wall_s"],
            "one_run_wall_s": one["wall_s"],
            "ratio_wall": round(apart["wall_s"] / one["wall_s"], 2),
            "one_by_one_cpu_s": apart["cpu_s"],
            "one_run_cpu_s": one["cpu_s"],
            "ratio_cpu": round(apart["cpu_s"] / one["cpu_s"], 2),
            **memory(bids, folder / "memory"),
            "again_wall_s": again(bids, folder / "together"),
        }


def fake_gpu(count: int, seconds: float) -> dict[str, float]:
    """Idle share of the fake GPU."""
    with tempfile.TemporaryDirectory() as name:
        script = Path(name) / "fake.py"
        script.write_text(GPU, encoding="utf-8")
        said = run_python([script, str(count), str(seconds)])
    figures: dict[str, float] = json.loads(said.splitlines()[-1])
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two sessions, once")
    parser.add_argument("--gpu-only", action="store_true", help="the fake GPU alone")
    parser.add_argument("--sessions", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args(argv)
    gpu = fake_gpu(4, 0.5) if asked.quick or asked.gpu_only else fake_gpu(10, 2)
    print("\n## Fake GPU\n")
    print_table([gpu])
    counts = [] if asked.gpu_only else [2] if asked.quick else asked.sessions
    with tempfile.TemporaryDirectory() as name:
        head = synthetic(Path(name), *(["--tiny"] if asked.quick else [])) if counts else Path(name)
        rows = [measure(head, count, 1 if asked.quick else asked.repeats) for count in counts]
    if rows:
        print("\n## Sessions\n")
        print_table(rows)
    print()
    finish({"gpu": gpu, "sessions": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
