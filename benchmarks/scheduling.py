"""What planning costs as a dataset grows: dry runs, graphs, and runs in which all is done.

    python benchmarks/scheduling.py [--quick] [--sessions 100 1000 10000] [--pairs 1 10 100]

Datasets are of empty files. Each size runs in a process of its own, whose clock, processor time and
peak of memory are kept. ``graph`` is the time to build the graph of a run and to flatten it as
nipype does before the first step. The last line is one JSON object.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import finish, print_table, run_python, touch_dataset

SIZES, QUICK_SIZES = (100, 1000, 10_000), (20, 100)
PAIRS, QUICK_PAIRS = (1, 10, 100), (1, 4)

DRY_RUN = """
import contextlib, io, json, resource, sys, time
from bids_stroke.cli.run import main
start = time.perf_counter()
text = io.StringIO()
with contextlib.redirect_stdout(text):
    code = main([*sys.argv[1:3], "participant", "--dry-run", "-w", sys.argv[3]])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "exit": code, "planned": int(text.getvalue().split()[0]),
    "wall_s": round(time.perf_counter() - start, 2),
    "cpu_s": round(used.ru_utime + used.ru_stime, 2), "peak_mb": used.ru_maxrss // 1024}))
"""

GRAPH = """
import json, os, pathlib, resource, sys, time, warnings
warnings.simplefilter("ignore")
from bids_stroke.cli import engine, run
from bids_stroke.cli.environment import prepare
from bids_stroke.cli.parser import parse
config = parse([*sys.argv[1:3], "participant", "-w", sys.argv[3]])
os.environ.update(prepare(config.execution))
start = time.process_time()
plan = run.make_plan(config)
logs = run.start_logs(config)
engine.configure(config.execution, logs, len(plan.pairs))
planned = time.process_time()
workflow = run.build_workflow(config, plan, logs)
built = time.process_time()
from nipype.pipeline.engine.utils import generate_expanded_graph
flat = workflow._create_flat_graph()
graph = generate_expanded_graph(flat)
flattened = time.process_time()
print(json.dumps({
    "nodes": len(graph), "plan_cpu_s": round(planned - start, 2),
    "build_cpu_s": round(built - planned, 2), "flatten_cpu_s": round(flattened - built, 2),
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
"""


def measured(program: str, sessions: int) -> dict[str, Any]:
    """Run a program on a dataset of empty files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = touch_dataset(folder / "bids", sessions)
        said = run_python(["-c", program, dataset, folder / "out", folder / "work"], threads=1)
    return {"sessions": sessions, **json.loads(said.splitlines()[-1])}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers only")
    parser.add_argument("--sessions", type=int, nargs="+")
    parser.add_argument("--pairs", type=int, nargs="+")
    asked = parser.parse_args(argv)
    sizes = asked.sessions or (QUICK_SIZES if asked.quick else SIZES)
    pairs = asked.pairs or (QUICK_PAIRS if asked.quick else PAIRS)
    plans = [measured(DRY_RUN, size) for size in sizes]
    print("\n## Dry run\n")
    print_table(plans)
    graphs = [measured(GRAPH, size) for size in pairs]
    print("\n## Graph\n")
    print_table(graphs)
    print()
    finish({"dry_run": plans, "graph": graphs})
    return 0 if all(row["planned"] == row["sessions"] for row in plans) else 1


if __name__ == "__main__":
    sys.exit(main())
