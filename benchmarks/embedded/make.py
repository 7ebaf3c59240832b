"""Train the embedded model on prepared arrays (see prepare.py); `--resume` goes on after a stop."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from prepare import load_grid, spacing_of

from bids_stroke import data
from bids_stroke.core.processes import reuse_memory
from bids_stroke.models.recipe import Recipe, load
from bids_stroke.models.sampling import Recipe as Samples
from bids_stroke.models.sampling import Sampler, Stream, load_anatomies, load_shapes
from bids_stroke.models.training import Network, Schedule, Trainer


def stage_of(recipe: Recipe, name: str | None) -> Recipe:
    """The recipe of one of its stages; without a name of its first."""
    stages = {stage.name: stage for stage in recipe.stages}
    if name and name not in stages:
        raise SystemExit(f"The recipe has no stage {name}, but {', '.join(stages)}.")
    return recipe.of_stage(stages[name] if name else recipe.stages[0])


def network_of(recipe: Recipe) -> Network:
    """The network that a recipe describes."""
    kwargs, plan = recipe.network.kwargs, recipe.plan
    if plan.patch is None or plan.spacing is None:
        raise SystemExit("The recipe must state patch and spacing.")
    return Network(
        channels=recipe.channels,
        features=tuple(kwargs["features_per_stage"]),
        encoder_convs=tuple(kwargs["n_conv_per_stage"]),
        decoder_convs=tuple(kwargs["n_conv_per_stage_decoder"]),
        patch=plan.patch,
        spacing=plan.spacing[0],
    )


def schedule_of(recipe: Recipe, seconds: float) -> Schedule:
    """The schedule that a recipe describes, in bf16."""
    optimiser, schedule = recipe.optimiser, recipe.schedule
    return Schedule(
        iterations=schedule.epochs * schedule.iterations,
        seconds=seconds,
        learning_rate=optimiser.learning_rate,
        warmup=schedule.warmup_iterations,
        weight_decay=optimiser.weight_decay,
        ema=schedule.ema,
        clip=optimiser.clip,
        bfloat16=True,
        seed=recipe.seed,
    )


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
    parser.add_argument("--stage", help="stage of the recipe (default: its first)")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="end on time, if that is before the end"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--start", type=Path, help="checkpoint of a run or of a model to begin from"
    )
    args = parser.parse_args()
    reuse_memory()
    recipe = stage_of(load(args.recipe), args.stage)
    network, schedule = network_of(recipe), schedule_of(recipe, args.minutes * 60)
    grid = spacing_of(load_grid(args.run))
    samples = Samples(
        channels=network.channels,
        patch=network.patch[::-1],
        grid=grid,
        spacing=network.spacing,
        n4_levels=recipe.preprocessing.n4_levels,
        **recipe.samples,
    )
    torch.set_num_threads(args.threads)
    trainer = Trainer(network, schedule, args.run)
    if args.start:
        trainer.begin_from(args.start)
    if args.resume:
        trainer.resume()
    shapes = load_shapes(args.run / "lesions.npz", "train")
    sampler = Sampler(load_anatomies(args.run, grid), shapes, samples)
    size = recipe.plan.batch_size
    loader = batches(sampler, size, schedule.seed, trainer.iteration * size, args.workers)
    print("loss", trainer.run(iter(loader)), "iterations", trainer.iteration)


if __name__ == "__main__":
    main()
