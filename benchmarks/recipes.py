"""Every recipe at its own size, from images to a model and its prediction, by the real commands.

    python benchmarks/recipes.py [--quick] [--tiny] [--recipes NAME ...] [--iterations N]
                                 [--out DIR] [--most-gb GB] [--threads N] [--start-from MODEL]
                                 [--real SHARED_DATA]

On a cohort of ``bids_stroke-demo`` each recipe is trained by ``bids_stroke BIDS OUT train --recipe
NAME --epochs 1 --iterations N --folds 0``, with its own network, patch and batch, and its model is
run on the participant that was held out. All recipes share one split and one work folder, so that
images are preprocessed once. ``recipes.tsv`` in ``--out`` gets a row as soon as a recipe is done,
and a later run leaves out what stands there. A recipe that takes more than ``--most-gb`` is
stopped. With ``--real`` the cohort is that of ``painted.py``: strokes painted into nine sessions of
two people's real scans. The last line is one JSON object.

The Dice is that of the probability, cut at one half, after N iterations: it tells that the path is
whole, and after a few iterations it tells nothing of a method.
"""

import argparse
import csv
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from measuring import demonstration, finish, print_table, run_python
from memory import family, sizes_mb

sys.path.insert(0, str(Path(__file__).parents[1]))

HELD_OUT = "sub-07"
"""A participant of the demonstration with T1w and FLAIR, and a lesion on each side."""
REAL_HELD_OUT = "sub-04"
"""The participant of the real scans with fewer sessions."""
T1W_MODEL = "meddahi2024-t1w"
FROM_T1W = (
    "meddahi2024-t1w-finetune",
    "meddahi2024-dual",
    "meddahi2023-dual",
    "meddahi2023-three-stage",
)
"""Recipes that start from the model of ``T1W_MODEL``."""
QUICK = ("lhermitte2024-unet",)
"""The recipe with the least to compute."""
HEADS = (
    "recipe",
    "parameters (M)",
    "patch",
    "batch",
    "s an iteration",
    "processor s an iteration",
    "Dice",
    "peak GB",
    "train exit",
    "participant exit",
    "steps preprocessed",
    "train s",
    "participant s",
)
TOO_LARGE = 75  # the exit code of the program for memory that ran out


def cohort(out: Path, tiny: bool, shared: Path | None) -> Path:
    """The demonstration dataset, or real scans with painted strokes, made once."""
    bids = out / ("real" if shared else "demo-tiny" if tiny else "demo")
    if (bids / "derivatives").is_dir():
        return bids
    if shared:
        run_python([Path(__file__).with_name("painted.py"), shared, bids, "--cohort"])
    else:
        demonstration(bids, "--overwrite", *(["--tiny"] if tiny else []))
    return bids


def write_split(bids: Path, channels: Sequence[str], held_out: str, path: Path) -> Path:
    """One fold: everyone who has the channels trains, but for the one held out."""
    people = sorted(p.name for p in bids.glob("sub-*"))
    whole = [p for p in people if all(any((bids / p).rglob(f"*_{c}.nii.gz")) for c in channels)]
    fold = {"train": [p for p in whole if p != held_out], "val": [held_out]}
    path.write_text(json.dumps([fold]), encoding="utf-8")
    return path


def watched(arguments: Sequence[str | Path], log: Path, most_gb: float) -> dict[str, float]:
    """Run our program; its exit code, seconds, and largest memory (PSS of all its processes).

    It is stopped above ``most_gb``, with the code of memory that ran out.
    """
    start, peak, too_large = time.monotonic(), 0.0, False
    command = [sys.executable, "-m", "bids_stroke", *map(str, arguments)]
    with log.open("a", encoding="utf-8") as stream:
        run = psutil.Popen(command, stdout=stream, stderr=stream, env=dict(os.environ))
        while run.poll() is None:
            looked = time.monotonic()
            peak = max(peak, sum(sizes_mb(run)) / 1024)
            if peak > most_gb and not too_large:
                too_large = True
                _end(run)
            time.sleep(max(0.5, 19 * (time.monotonic() - looked)))  # to look costs processor time
    code = TOO_LARGE if too_large else run.returncode
    return {"code": code, "seconds": round(time.monotonic() - start, 1), "gb": round(peak, 1)}


def _end(run: psutil.Popen) -> None:
    """End a run and all below it."""
    for process in reversed(list(family(run))):
        process.kill()


def common(asked: argparse.Namespace) -> list[str | Path]:
    """Flags of both commands: one step at a time, so that memory is that of one network."""
    threads = str(asked.threads)
    return ["-w", asked.out / "work", "--nprocs", threads, "--omp-nthreads", threads, "--mem", "12"]


def measure(name: str, bids: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Train a recipe, run its model, and give the row."""
    from bids_stroke.models import recipe as recipes

    out, log = asked.out / name, asked.out / f"{name}.log"
    chosen = recipes.find(name)
    root = out / "sourcedata" / "nnunet" / name
    first = asked.start_from or model_of(asked.out, T1W_MODEL)
    start = ["--pretrained", first] if name in FROM_T1W else []
    held_out = REAL_HELD_OUT if asked.real else HELD_OUT
    split = write_split(bids, chosen.channels, held_out, asked.out / f"split-{name}.json")
    train = watched(
        [bids, out, "train", "--recipe", name, "--epochs", "1"]
        + ["--iterations", str(asked.iterations), "--folds", "0", "--splits", split]
        + [*start, *common(asked)],
        log,
        asked.most_gb,
    )
    row = dict.fromkeys(HEADS, "n/a") | {"recipe": name, "peak GB": train["gb"]}
    row |= {"train exit": train["code"], "train s": train["seconds"]}
    row["steps preprocessed"] = steps_run(out)
    if train["code"]:
        return row
    row |= facts(root)
    predict = watched(
        [bids, out, "participant", "--participant-label", held_out[4:]]
        + ["--model", root / "model", *common(asked)],
        log,
        asked.most_gb,
    )
    for folder in ("raw", "preprocessed", "results"):
        shutil.rmtree(root / folder, ignore_errors=True)  # the model stays
    return row | {"participant exit": predict["code"], "participant s": predict["seconds"]}


def model_of(out: Path, name: str) -> Path:
    """Folder of the model that a recipe left."""
    return out / name / "sourcedata" / "nnunet" / name / "model"


def steps_run(out: Path) -> int:
    """Steps of the newest run's preprocessing that were computed, and not taken from before."""
    found = sorted(out.glob("logs/*/timing-bids_stroke_wf.tsv"), key=lambda p: p.stat().st_mtime)
    if not found:
        return 0
    with found[-1].open(encoding="utf-8") as stream:
        return sum(1 for _ in csv.DictReader(stream, delimiter="\t"))


def facts(root: Path) -> dict[str, Any]:
    """What a training left: its network, and its pace and Dice by stage, with slashes between."""
    stages = list(_stages(root))
    if not stages:
        return {}
    return {
        "parameters (M)": f"{stages[-1]['parameters'] / 1e6:.1f}",
        "patch": " / ".join(dict.fromkeys(s["patch"] for s in stages)),
        "batch": " / ".join(dict.fromkeys(s["batch"] for s in stages)),
        "s an iteration": " / ".join(f"{s['seconds']:.1f}" for s in stages),
        "processor s an iteration": " / ".join(f"{s['processor']:.1f}" for s in stages),
        "Dice": f"{stages[-1]['dice']:.3f}",
    }


def _stages(root: Path) -> Iterator[dict[str, Any]]:
    """Numbers of each stage, in the order of training."""
    files = root.glob("results/*/*/fold_0/curves.json")
    for curves in sorted(files, key=lambda path: path.stat().st_mtime):
        last = json.loads(curves.read_text(encoding="utf-8"))[-1]
        plans = json.loads((curves.parents[1] / "plans.json").read_text(encoding="utf-8"))
        table = json.loads((curves.parents[1] / "dataset.json").read_text(encoding="utf-8"))
        settings = next(iter(plans["configurations"].values()))
        yield {
            "parameters": parameters(settings, len(table["channel_names"])),
            "patch": " x ".join(map(str, settings["patch_size"])),
            "batch": str(settings["batch_size"]),
            "seconds": last["seconds_per_iteration"],
            "processor": last["processor_seconds_per_iteration"],
            "dice": sum(last["dice"].values()) / len(last["dice"]) if last["dice"] else math.nan,
        }


def parameters(settings: Mapping[str, Any], channels: int) -> int:
    """Number of parameters of the network of plans, built without memory."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = settings["architecture"]
    with torch.device("meta"):
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            channels,
            2,
            deep_supervision=False,
        )
    return sum(p.numel() for p in network.parameters())


def known(table: Path) -> dict[str, dict[str, str]]:
    """Rows that are there, by recipe; of several of one recipe the last."""
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8") as stream:
        return {row["recipe"]: row for row in csv.DictReader(stream, delimiter="\t")}


def add(row: Mapping[str, Any], table: Path) -> None:
    """Write a row at the end of the table."""
    is_new = not table.is_file()
    with table.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, HEADS, delimiter="\t", lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def ordered(names: Sequence[str], out: Path) -> list[str]:
    """The recipes, and before those that need it the one which they start from."""
    missing = not model_of(out, T1W_MODEL).is_dir()
    first = next((i for i, name in enumerate(names) if name in FROM_T1W), None)
    if first is None or not missing or T1W_MODEL in names[:first]:
        return list(names)
    rest = [name for name in names if name != T1W_MODEL]
    return [*rest[:first], T1W_MODEL, *rest[first:]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    from bids_stroke.models import recipe as recipes

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one recipe, one iteration, tiny heads"
    )
    parser.add_argument("--tiny", action="store_true", help="heads of 3 mm voxels")
    parser.add_argument("--real", type=Path, metavar="SHARED_DATA", help="strokes in real scans")
    parser.add_argument("--recipes", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--out", type=Path, help="default: a folder that is removed at the end")
    parser.add_argument("--most-gb", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2, help="1 beside other programs")
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="MODEL",
        help=f"model for recipes that want one (default: that of {T1W_MODEL}, trained before)",
    )
    asked = parser.parse_args(argv)
    if asked.quick:
        asked.iterations, asked.tiny = 1, True
    names = asked.recipes or (QUICK if asked.quick else recipes.available())
    with tempfile.TemporaryDirectory() as made:
        asked.out = (asked.out or Path(made)).absolute()
        asked.out.mkdir(parents=True, exist_ok=True)
        bids, table = cohort(asked.out, asked.tiny, asked.real), asked.out / "recipes.tsv"
        for name in names if asked.start_from else ordered(names, asked.out):
            if known(table).get(name, {}).get("participant exit") != "0":
                add(measure(name, bids, asked), table)
        rows = [row for name, row in known(table).items() if name in names]
    print_table(rows)
    print()
    finish({"iterations": asked.iterations, "recipes": rows})
    return 0 if all(row["participant exit"] == "0" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
