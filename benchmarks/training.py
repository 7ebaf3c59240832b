"""Training: iterations a second of our trainer against nnU-Net's own, with one network.

    python benchmarks/training.py [--quick] [--iterations N] [--patch N]

Both get the same plans, cases and loaders of nnU-Net without worker processes; the cases are small
random images with a ball in them. An iteration is one fetched batch and one ``train_step``; the
trainers take turns. The wait for the batch stands apart: it is what a worker would hide. The last
line is one JSON object.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import finish, print_table

sys.path.insert(0, str(Path(__file__).parents[1]))


def trainers(root: Path, patch: int) -> dict[str, Any]:
    """Both trainers, ready for their first iteration."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(root / name)
    os.environ.update({"nnUNet_n_proc_DA": "0", "nnUNet_compile": "0"})
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from tests.models.phantom_training import CONFIGURATION, make_trainer, settings, tiny_recipe

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


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="four iterations of a small patch")
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--patch", type=int, default=64)
    asked = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        with contextlib.redirect_stdout(io.StringIO()):
            runners = trainers(Path(name), 16 if asked.quick else asked.patch)
            table = rows(runners, 4 if asked.quick else asked.iterations)
        count = {
            label: sum(p.numel() for p in runner.network.parameters())
            for label, runner in runners.items()
        }
    print_table(table)
    ratio = table[1]["iterations a second"] / table[0]["iterations a second"]
    processor = table[0]["cpu_s"] / table[1]["cpu_s"]
    print()
    finish(
        {
            "ratio": round(ratio, 3),
            "ratio_cpu": round(processor, 3),
            "parameters": count,
            "trainers": table,
        }
    )
    return 0 if len(set(count.values())) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
