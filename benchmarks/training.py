"""Training: iterations a second of ours against nnU-Net's own, with one network.

    python benchmarks/training.py [--quick] [--iterations N] [--patch N] [--workers N ...]
        [--repeats N] [--threads N]

Both get the same plans and cases, which are small random images with a ball in them. First the two
trainers take turns in one process, iteration by iteration, without workers. Then the programs do:
the command ``nnUNetv2_train`` with nnU-Net's trainer of one epoch, and the process that our train
level starts for a fold, both with the same number of threads, and of worker processes that load;
``timing/sitecustomize.py`` looks at the clock in both. An iteration is one fetched batch and one
``train_step``; the wait for the batch stands apart. Times are medians without the first iteration,
which has its own column. The last line is one JSON object.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import cost_of, finish, print_table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
THEIRS, OURS = "nnUNetv2_train", "bids_stroke train"


def trainers(root: Path, patch: int, threads: int) -> dict[str, Any]:
    """Both trainers, ready for their first iteration."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(root / name)
    os.environ.update({"nnUNet_n_proc_DA": "0", "nnUNet_compile": "0"})
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from tests.models.phantom_training import CONFIGURATION, make_trainer, settings, tiny_recipe

    torch.set_num_threads(threads)
    recipe, size = tiny_recipe(), (patch, patch, patch)
    ours = make_trainer(root, recipe, size)
    cpu = torch.device("cpu")
    plans = settings(recipe, list(size))
    stock = nnUNetTrainer(plans, CONFIGURATION, 0, ours.dataset_json, cpu)
    for trainer in (stock, ours):
        trainer.initialize()
        trainer.on_train_start()
        trainer.on_train_epoch_start()
    return {"nnU-Net's trainer": stock, "ours": ours}


def timed(trainer: Any) -> tuple[float, float, float]:
    """Seconds of the wait for a batch, of the step on the clock, and of both on the processor."""
    start, used = time.perf_counter(), time.process_time()
    batch = next(trainer.dataloader_train)
    fetched = time.perf_counter()
    trainer.train_step(batch)
    end = time.perf_counter()
    return fetched - start, end - fetched, time.process_time() - used


def rows(runners: dict[str, Any], iterations: int) -> list[dict[str, Any]]:
    """A row for each trainer: medians over iterations, the first of which does not count."""
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runners}
    for number in range(iterations + 1):
        for name, trainer in runners.items():
            figures = timed(trainer)
            if number:
                times[name].append(figures)
    table = []
    for name, figures_of_one in times.items():
        wait, step, used = (
            statistics.median(column) for column in zip(*figures_of_one, strict=True)
        )
        table.append(
            {
                "trainer": name,
                "iterations a second": round(1 / (wait + step), 3),
                "wait_s": round(wait, 4),
                "step_s": round(step, 4),
                "cpu_s": round(used, 4),
            }
        )
    return table


def one_epoch() -> Any:
    """The tiny recipe of the tests, as short as nnU-Net's trainer of one epoch."""
    from tests.models.phantom_training import tiny_recipe

    return tiny_recipe(schedule={"epochs": 1})


def prepare_programs(root: Path, patch: int) -> None:
    """A preprocessed dataset of nnU-Net, and what our jobs want besides."""
    from bids_stroke.core.files import write_json
    from tests.models.phantom_training import settings, write_dataset

    recipe = one_epoch()
    write_dataset(root, len(recipe.channels))
    folder = next((root / "preprocessed").iterdir())
    plans = settings(recipe, [patch] * 3)
    write_json(folder / "train.json", plans)
    names = dict(enumerate(recipe.channels))
    dataset = {"channel_names": names, "labels": {"background": 0, "lesion": 1}}
    write_json(folder / "dataset.json", {**dataset, "file_ending": ".nii.gz", "numTraining": 4})
    (root / "splits.json").write_text((folder / "splits_final.json").read_text())
    write_json(root / "cases.json", [])


def commands(root: Path, workers: int) -> dict[str, list[str]]:
    """What a user runs, and what our train level runs for a fold."""
    from bids_stroke.models.fit import Job, write_job
    from bids_stroke.models.recipe import plain
    from tests.models.phantom_training import CONFIGURATION, DATASET

    recipe = one_epoch()
    split = json.loads((root / "splits.json").read_text())[0]
    job = Job(
        root=str(root),
        name=DATASET.partition("_")[2],
        recipe=plain(recipe),
        fold=0,
        train_on={stage.name: tuple(split["train"]) for stage in recipe.stages},
        workers=workers,
    )
    file = write_job(job, root / f"job-{workers}.json")
    program = str(Path(sys.executable).parent / "nnUNetv2_train")
    trainer = ["-tr", "nnUNetTrainer_1epoch", "-p", "train", "-device", "cpu"]
    return {
        THEIRS: [program, DATASET, CONFIGURATION, "0", *trainer],
        OURS: [sys.executable, "-m", "bids_stroke.models.fit", str(file)],
    }


def run_timed(
    command: Sequence[str], root: Path, iterations: int, workers: int, threads: int
) -> dict[str, Any]:
    """Figures of one run of a program; raises RuntimeError with its last lines when it fails."""
    told, folders = root / "timed.json", ("raw", "preprocessed", "results")
    told.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as results:
        environ = {
            **os.environ,
            **{f"nnUNet_{name}": str(root / name) for name in folders},
            "nnUNet_results": results,
            "nnUNet_n_proc_DA": str(workers if command[0].endswith(THEIRS) else 0),
            "nnUNet_compile": "0",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks" / "timing"), str(ROOT)]),
            "TIMED_FILE": str(told),
            "TIMED_ITERATIONS": str(iterations),
            "TIMED_THREADS": str(threads),
        }
        done: list[Any] = []
        cost = cost_of(
            lambda: done.append(
                subprocess.run(command, env=environ, cwd=root, capture_output=True, text=True)
            )
        )
    if not told.is_file():
        raise RuntimeError(f"{' '.join(command)}: {done[0].stderr[-2000:]}")
    return {**figures_of(json.loads(told.read_text())), "program_cpu_s": cost.cpu_s}


def figures_of(told: dict[str, Any]) -> dict[str, Any]:
    """Seconds of an iteration, and shares, from the moments of its batches."""
    moments = told["moments"]
    whole = [after[0] - one[0] for one, after in zip(moments, moments[1:], strict=False)]
    wait = [one[1] - one[0] for one in moments[:-1]]
    used = [after[2] - one[2] for one, after in zip(moments, moments[1:], strict=False)]
    return {
        "first_s": whole[0],
        "iteration_s": statistics.median(whole[1:]),
        "waiting": sum(wait[1:]) / sum(whole[1:]),
        "cpu_s": statistics.median(used[1:]),
        "parameters": told["parameters"],
    }


def program_rows(
    patch: int, iterations: int, repeats: int, counts: Sequence[int], threads: int
) -> list[dict[str, Any]]:
    """A row for each program and number of workers: medians over runs, which take turns."""
    runs: dict[tuple[int, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        prepare_programs(root, patch)
        for _ in range(repeats):
            for workers in counts:
                for label, command in commands(root, workers).items():
                    found = run_timed(command, root, iterations, workers, threads)
                    runs.setdefault((workers, label), []).append(found)
    return [_row(*key, found) for key, found in runs.items()]


def _row(workers: int, label: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    median = {key: statistics.median(one[key] for one in found) for key in found[0]}
    return {
        "program": label,
        "workers": workers,
        "iterations a second": round(1 / median["iteration_s"], 3),
        "waiting for data": f"{median['waiting']:.1%}",
        "first iteration, s": round(median["first_s"], 3),
        "cpu s an iteration": round(median["cpu_s"], 4),
        "cpu s of the program": round(median["program_cpu_s"], 1),
        "parameters": int(median["parameters"]),
    }


def program_ratios(table: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How many iterations ours does while nnU-Net's does one, by number of workers."""
    pace = {(row["workers"], row["program"]): row["iterations a second"] for row in table}
    counts = dict.fromkeys(row["workers"] for row in table)
    return {str(n): round(pace[n, OURS] / pace[n, THEIRS], 3) for n in counts}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few iterations of a small patch")
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each program")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of the programs")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(argv)
    if asked.quick:
        asked.patch, asked.iterations, asked.repeats, asked.workers = 16, 4, 1, [0]
        asked.threads = 1
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        with contextlib.redirect_stdout(io.StringIO()):
            runners = trainers(Path(name), asked.patch, asked.threads)
            table = rows(runners, asked.iterations)
        count = {
            label: sum(p.numel() for p in runner.network.parameters())
            for label, runner in runners.items()
        }
    print_table(table)
    programs = program_rows(
        asked.patch, asked.iterations, asked.repeats, asked.workers, asked.threads
    )
    print()
    print_table(programs)
    count |= {row["program"]: row["parameters"] for row in programs}
    ratio = table[1]["iterations a second"] / table[0]["iterations a second"]
    processor = table[0]["cpu_s"] / table[1]["cpu_s"]
    print()
    finish(
        {
            "ratio": round(ratio, 3),
            "ratio_cpu": round(processor, 3),
            "ratio_of_programs": program_ratios(programs),
            "parameters": count,
            "trainers": table,
            "programs": programs,
        }
    )
    return 0 if len(set(count.values())) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
