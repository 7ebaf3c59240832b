"""What a run costs beside its steps: dry runs, graphs, runs of light steps, and runs again.

    python benchmarks/scheduling.py [--quick] [--sessions 100 1000 10000] [--pairs 1 10 100]
                                    [--runs 1 10 100 1000]

Datasets are of empty files. Each size runs in a process of its own, whose clock, processor time and
peak of memory are kept. ``graph`` is the time to build the graph of a run and to flatten it as
nipype does before the first step. ``run`` is the participant level on two workers with 36 steps a
session, in twelve rows of three, that do nothing but add two numbers, and without pages: all of its
time is planning, scheduling and keeping of results. ``again`` is the same once more in the same
process, with all done; ``looked`` once more without its records, so that nipype looks at every
step. The last line is one JSON object.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import finish, print_table, run_python, touch_dataset

RUNS, QUICK_RUNS = (1, 10, 100, 1000), (1, 3)
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
from bids_stroke.cli import engine, participants, run
from bids_stroke.cli.environment import prepare
from bids_stroke.cli.parser import parse
config = parse([*sys.argv[1:3], "participant", "-w", sys.argv[3]])
os.environ.update(prepare(config.execution))
start = time.process_time()
plan = participants.make_plan(config)
logs = run.start_logs(config)
engine.configure(config.execution, logs)
planned = time.process_time()
workflow = participants.build_workflow(config, plan, logs)
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

RUN = """
import contextlib, io, json, os, pathlib, resource, sys, time, warnings
warnings.simplefilter("ignore")
os.environ["NO_ET"] = "1"
from bids_stroke.cli.run import main
from bids_stroke.reports import participant
from bids_stroke.workflows import base

def step(value, number):
    return value + number

def init_pair_wf(*, pair, **_):
    from nipype import Function, Node
    from niworkflows.engine.workflows import LiterateWorkflow
    workflow = LiterateWorkflow(name=pair.workflow_name)
    rows = [[Node(Function(["value", "number"], ["value"], step), f"step_{row}_{n}")
             for n in range(3)] for row in range(12)]
    for node in rows[0]:
        node.inputs.value = 0
    workflow.add_nodes(rows[0])
    for earlier, later in zip(rows, rows[1:]):
        workflow.connect([(a, b, [("value", "value")]) for a, b in zip(earlier, later)])
    for row in rows:
        for n, node in enumerate(row):
            node.inputs.number = n
    return workflow

def write_page(output_dir, subject, *_, **__):
    return pathlib.Path(output_dir, f"sub-{subject}.html").write_text("")

if __name__ == "__main__":
    base.init_pair_wf, participant.write_participant_report = init_pair_wf, write_page
    work = pathlib.Path(sys.argv[3])
    seconds = []
    for again in ("run", "again", "looked"):
        if again == "looked":
            for record in work.glob("*/finished/*.json"):
                record.unlink()
        start = time.perf_counter()
        used = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            code = main([*sys.argv[1:3], "participant", "--nprocs", "2", "--device", "cpu", "-w",
                         str(work), "--skip-bids-validation"])
        seconds += [time.perf_counter() - start, time.process_time() - used]
    names = ("wall_s", "main_cpu_s", "again_wall_s", "again_cpu_s", "looked_wall_s", "looked_cpu_s")
    print(json.dumps({"exit": code} | {n: round(s, 2) for n, s in zip(names, seconds)} | {
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
"""


def measured(program: str, sessions: int) -> dict[str, Any]:
    """Run a program on a dataset of empty files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = touch_dataset(folder / "bids", sessions)
        script = folder / "program.py"  # workers import it
        script.write_text(program, encoding="utf-8")
        said = run_python([script, dataset, folder / "out", folder / "work"], threads=1)
    return {"sessions": sessions, **json.loads(said.splitlines()[-1])}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers only")
    parser.add_argument("--sessions", type=int, nargs="+")
    parser.add_argument("--pairs", type=int, nargs="+")
    parser.add_argument("--runs", type=int, nargs="+")
    asked = parser.parse_args(argv)
    sizes = asked.sessions or (QUICK_SIZES if asked.quick else SIZES)
    pairs = asked.pairs or (QUICK_PAIRS if asked.quick else PAIRS)
    plans = [measured(DRY_RUN, size) for size in sizes]
    print("\n## Dry run\n")
    print_table(plans)
    graphs = [measured(GRAPH, size) for size in pairs]
    print("\n## Graph\n")
    print_table(graphs)
    runs = [measured(RUN, size) for size in asked.runs or (QUICK_RUNS if asked.quick else RUNS)]
    for row in runs:
        row["ms_a_step"] = round(1000 * row["wall_s"] / (36 * row["sessions"]), 1)
    print("\n## Runs of light steps\n")
    print_table(runs)
    print()
    finish({"dry_run": plans, "graph": graphs, "runs": runs})
    planned = all(row["planned"] == row["sessions"] for row in plans)
    return 0 if planned and not any(row["exit"] for row in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
