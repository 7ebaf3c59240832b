"""Train the embedded model on prepared arrays (see prepare.py); `--resume` goes on after a stop."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import torch

from bids_stroke import data
from bids_stroke.models.sampling import Recipe, Sampler, Stream, load_anatomies, load_shapes
from bids_stroke.models.training import Network, Schedule, Trainer


def read_recipe(path: Path) -> tuple[dict[str, Any], Network]:
    """The recipe's tables, and the network that it describes."""
    recipe = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe["network"].items()}
    return recipe, Network(**fields)


def batches(sampler: Sampler, batch: int, seed: int, start: int, workers: int) -> Any:
    """Loader of seeded samples, made in worker processes."""
    return torch.utils.data.DataLoader(
        Stream(sampler, seed, start),
        batch,
        num_workers=workers,
        prefetch_factor=8,
        multiprocessing_context="fork",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder with the prepared arrays; the run's folder")
    parser.add_argument("--recipe", type=Path, default=data.path("recipes", "embedded.toml"))
    parser.add_argument("--minutes", type=float, help="end on time, if that is before the end")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--start", type=Path, help="checkpoint.pth of a run to begin from")
    args = parser.parse_args()
    recipe, network = read_recipe(args.recipe)
    limit = {"seconds": args.minutes * 60} if args.minutes else {}
    schedule = Schedule(**recipe["schedule"], **limit)
    samples = Recipe(patch=network.patch[::-1], spacing=network.spacing, **recipe["samples"])
    torch.set_num_threads(args.threads)
    trainer = Trainer(network, schedule, args.run)
    if args.start:
        trainer.begin_from(args.start)
    if args.resume:
        trainer.resume()
    shapes = load_shapes(args.run / "lesions.npz", "train")
    sampler = Sampler(load_anatomies(args.run, samples.grid), shapes, samples)
    size = recipe["batch_size"]
    loader = batches(sampler, size, schedule.seed, trainer.iteration * size, args.workers)
    print("loss", trainer.run(iter(loader)), "iterations", trainer.iteration)


if __name__ == "__main__":
    main()
