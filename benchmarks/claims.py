"""Claims of the papers, tried on small synthetic data by the recipes and trainer of the program.

    python benchmarks/claims.py [--quick] [--out DIR] [--seeds N] [--runs NAME ...]
                                [--real SHARED_DATA]

For each seed a cohort is drawn (``claims_cohort``; with ``--real`` that of ``claims_real``, for the
runs from a T1w model alone), and every run of ``RUNS`` is trained on it for
as many steps as those that it is compared with: recipe, loss, optimizer, augmentation, stages and
adaptation are the program's, network, patch, batch and number of steps are small. The Dice of the
held-out sessions (probability cut at one half, predicted as in deployment) is taken before the
first step and along the way. Each run is kept in ``--out``, and a later call goes on after it.
The last line is one JSON object.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import finish, print_table

sys.path.insert(0, str(Path(__file__).parents[1]))

from claims_cohort import BOTH, FLAIR_ONLY, GROUPS, VOXEL_MM, Cohort, write_cohort  # noqa: E402
from claims_real import GROUPS as REAL_GROUPS  # noqa: E402
from claims_real import write_cohort as write_real_cohort  # noqa: E402

from bids_stroke.core import ensemble_search  # noqa: E402
from bids_stroke.core.files import load_image, write_json  # noqa: E402
from bids_stroke.models import recipe as recipes  # noqa: E402
from bids_stroke.models.recipe import Recipe, Stage  # noqa: E402

PATCH = {"3d_fullres": (32, 48, 32), "2d": (64, 48)}
SHALLOW = {
    "n_stages": 4,
    "features_per_stage": [16, 32, 64, 64],
    "kernel_sizes": [[3, 3, 3]] * 4,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [1, 1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1, 1],
}
NO_DROPOUT = {"dropout_op_kwargs": {"p": 0.0}}  # few steps of a narrow network
FEATURES = [8, 16, 32, 64, 64]
POINTS = (0, 25, 50, 100, 150, 200)
BASE = "T1w model"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: its recipe, the groups that it sees, that on which it is looked at.

    ``rate`` is Adam's learning rate, ``look`` the steps between two looks at the held-out sessions,
    ``start`` names the run that it goes on from.
    """

    name: str
    recipe: str
    groups: tuple[str, ...] = ("flair",)
    target: str = "flair"
    steps: int = 200
    look: int = 25
    rate: float = 3e-3
    start: str = ""


_SETS = ("large", "intermediate", "target")
_2D: dict[str, Any] = {"groups": _SETS, "target": "target", "steps": 300, "look": 50, "rate": 1e-3}
RUNS = (
    Run(
        name=BASE,
        recipe="meddahi2024-t1w",
        groups=("large",),
        target="target",
        steps=400,
        look=100,
    ),
    Run(name="T1w, scratch", recipe="meddahi2024-t1w"),
    Run(name="dual, scratch", recipe="meddahi2024-dual:scratch"),
    Run(name="T1w, fine-tuned", recipe="meddahi2024-t1w-finetune", start=BASE),
    Run(name="dual, mean", recipe="meddahi2024-dual", start=BASE),
    Run(name="dual, zero", recipe="meddahi2024-dual:zero", start=BASE),
    Run(name="dual, copy", recipe="meddahi2024-dual:copy", start=BASE),
    Run(name="dual, mean, tenth", recipe="meddahi2024-dual", rate=3e-4, start=BASE),
    Run(name="unet, mixed", recipe="mohapatra2023-unet", **_2D),
    Run(name="unet, ImTT", recipe="mohapatra2023-unet:imtt", **_2D),
    Run(name="resunet, mixed", recipe="mohapatra2023-resunet", **_2D),
    Run(name="attunet, mixed", recipe="mohapatra2023-attunet", **_2D),
)
FROM_T1W = tuple(run.name for run in RUNS if run.recipe.startswith("meddahi2024"))
MEMBERS = tuple(run.name for run in RUNS if run.name.endswith(", mixed"))
QUICK_LOOK = 4
QUICK = ("T1w model", "dual, zero", "unet, ImTT", "unet, mixed", "resunet, mixed")

# Training


def small(run: Run) -> Recipe:
    """The recipe of a run with a small network of its class, a small patch and few steps."""
    found = recipes.find(run.recipe).with_pretrained(bool(run.start))
    planar = found.plan.configuration == "2d"
    stages = [_short(stage, run, len(found.stages)) for stage in found.stages]
    kwargs = dict(found.network.kwargs) | ({} if planar else NO_DROPOUT)
    if not run.start:
        kwargs |= {"features": FEATURES} if planar else SHALLOW
    plan = replace(
        found.plan,
        spacing=(VOXEL_MM,) * 3,
        patch=PATCH[found.plan.configuration],
        batch_size=16 if planar else 2,
    )
    network = replace(found.network, kwargs=kwargs)
    return replace(found, plan=plan, network=network, stages=tuple(stages))


def _short(stage: Stage, run: Run, stages: int) -> Stage:
    """A stage with its share of the steps."""
    schedule = {
        "epochs": run.steps // stages // run.look,
        "iterations": run.look,
        "validation_iterations": 1,
        "keep": "final",
    }
    # With so few steps the recipes' SGD does not leave the plateau at the start.
    optimiser = {"name": "adam", "learning_rate": run.rate}
    return replace(
        stage,
        schedule={**stage.schedule, **schedule},
        optimiser={**stage.optimiser, **optimiser},
    )


def train(run: Run, cohort: Cohort, folder: Path, start: Path | None, seed: int) -> dict[str, Any]:
    """Train a run in a folder; its curve, and the kind of each held-out session."""
    from bids_stroke.models import fit

    recipe = replace(small(run), seed=seed)
    cases, split = cohort.split(run.groups, run.target)
    job = prepared(recipe, cases, split, folder, start)
    with environment(job.places.environment()):
        previous = None
        for stage in recipe.stages[:-1]:
            previous = fit.train_stage(job, recipe, stage, previous)
        trainer, curve = last_stage(job, recipe, previous)
    pack(recipe, trainer, folder)
    if run.name in MEMBERS:
        write_masks(recipe, folder, trainer.watched)
    for name in ("raw", "preprocessed", "results"):
        shutil.rmtree(job.places.root / name)
    kinds = {case.case: case.where["seen_on"] for case in trainer.watched}
    return {"curve": curve, "seen_on": kinds}


def prepared(
    recipe: Recipe, cases: Sequence[Any], split: Any, folder: Path, start: Path | None
) -> Any:
    """Write what a job of one fold wants: dataset, plans, arrays; returns the job."""
    from bids_stroke.models import dataset, descriptor, fit, planning

    places = dataset.Places(folder, "claims")
    dataset.write_raw(places, cases, recipe.channels)
    dataset.write_splits(places, [split], cases)
    base = planning.base_plans(recipe, places, descriptor.load(start) if start else None)
    for stage in recipe.stages:
        plans = planning.stage_plans(base, recipe, stage)
        write_json(places.preprocessed / f"{stage.name}.json", plans)
    configuration = recipe.plan.configuration
    arrays = places.preprocessed / f"arrays_{configuration}"
    for case in cases:
        dataset.preprocess_case(case, recipe.channels, base, configuration, arrays)
    own = [case for case in cases if case.case in split.train]
    chosen = {
        stage.name: dataset.select_cases(recipe.of_stage(stage).cases, own, {}, recipe.seed)
        for stage in recipe.stages
    }
    return fit.Job(
        root=str(places.root),
        name=places.name,
        recipe=recipes.plain(recipe),
        fold=0,
        train_on={name: tuple(case.case for case in used) for name, used in chosen.items()},
        pretrained=str(start or ""),
    )


def last_stage(job: Any, recipe: Recipe, previous: Path | None) -> tuple[Any, dict[str, Any]]:
    """Train the last stage; the trainer, and by steps of the whole run the Dice of each session."""
    from bids_stroke.models import fit, packing
    from bids_stroke.models.run_trainer import LATEST

    stage = recipe.stages[-1]
    trainer = fit.make_trainer(job, recipe, stage)
    trainer.initialize()
    fit.begin(trainer, job, recipe, stage, previous)
    trainer.watch_model = packing.of_stage(recipe.of_stage(stage), trainer.folder.parent, LATEST)
    trainer.watched = fit.watched_cases(job, most=len(trainer.split.val))
    # nnU-Net writes these when training begins, and prediction wants them before.
    write_json(trainer.folder.parent / "plans.json", trainer.plans_manager.plans)
    write_json(trainer.folder.parent / "dataset.json", trainer.dataset_json)
    at_start = trainer.dice_of_watched()
    trainer.run_training()
    look = trainer.num_iterations_per_epoch
    before = trainer.num_epochs * look * (len(recipe.stages) - 1)
    later = {before + row["epoch"] * look: row["dice"] for row in trainer.curves}
    return trainer, {str(step): dice for step, dice in ({before: at_start} | later).items()}


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables of nnU-Net for a while."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def pack(recipe: Recipe, trainer: Any, folder: Path) -> Path:
    """Write the model folder of a run; its descriptor."""
    from bids_stroke.models import packing
    from bids_stroke.models.descriptor import OperatingPoint

    own = recipe.of_stage(recipe.stages[-1])
    facts = packing.Facts(name="claims", training_data="phantoms", synthetic=True)
    point = OperatingPoint(threshold=0.5, min_volume_mm3=0.0)
    model = packing.draft(own, facts, point, model_of(folder))
    return packing.write_model(model, trainer.folder.parent, [0], own)


def model_of(folder: Path) -> Path:
    """Descriptor of the model of a run."""
    return folder / "model" / "claims.toml"


def write_masks(recipe: Recipe, folder: Path, cases: Sequence[Any]) -> None:
    """Keep the masks of the held-out sessions, for the ensembles."""
    from bids_stroke.models import descriptor, predictor
    from bids_stroke.models.run_trainer import probability

    model = predictor.load(descriptor.load(model_of(folder)))
    masks = {case.case: probability(model, case) >= 0.5 for case in cases}
    np.savez_compressed(folder / "masks.npz", **masks)


# Ensembles


def ensembles(folder: Path, cohort: Cohort) -> dict[str, float]:
    """Mean Dice of the best network, stack and window: chosen on half of the held-out sessions.

    Both the choice and the Dice on the other half come from ``core.ensemble_search``.
    """
    with_masks = [name for name in MEMBERS if (folder / slug(name) / "masks.npz").is_file()]
    cases = [_ensemble_case(case, folder, with_masks) for case in cohort.held_out["target"]]
    tune, told = cases[::2], cases[1::2]
    table = ensemble_search.search(tune, with_masks)
    table["method"] = [rule.method for rule in table["rule"]]
    best = table.drop_duplicates("method")  # the best comes first
    whole = ensemble_search.WHOLE
    scores = ensemble_search.scores(told, {whole: list(best["rule"])})
    means = scores.groupby("rule")["dice"].mean()
    rows = zip(best["method"], best["rule"], best["dice"], strict=True)
    return {
        key: round(float(value), 4)
        for method, rule, tuned in rows
        for key, value in ((f"{method}, tuned", tuned), (f"{method}, told", means[rule]))
    }


def _ensemble_case(case: Any, folder: Path, names: Sequence[str]) -> ensemble_search.Case:
    def read() -> tuple[Any, dict[str, Any], None]:
        label = np.asanyarray(load_image(case.label).dataobj) > 0
        masks = {name: np.load(folder / slug(name) / "masks.npz")[case.case] for name in names}
        return label, masks, None

    return ensemble_search.Case(name=case.case, participant=case.case, read=read, names={})


# Tables


def mean_dice(result: Mapping[str, Any], step: int, seen_on: str = "") -> float:
    """Mean Dice over held-out sessions at a step, of those whose lesion is seen on that."""
    dice = result["curve"].get(str(step), {})
    kept = [d for case, d in dice.items() if seen_on in ("", result["seen_on"][case])]
    return statistics.mean(kept) if kept else float("nan")


def told(values: Sequence[float]) -> str:
    """Mean over seeds, and each seed."""
    known = [value for value in values if value == value]
    if not known:
        return "n/a"
    return f"{statistics.mean(known):.3f} ({', '.join(f'{value:.2f}' for value in known)})"


def last_step(result: Mapping[str, Any]) -> int:
    """Steps of a run."""
    return max(map(int, result["curve"]))


def curves(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, str]]:
    """One row a run: mean Dice along the steps, and at the end by what shows the lesion."""
    rows = []
    for name in names:
        runs = [seed[name] for seed in results if name in seed]
        if not runs:
            continue
        row = {"run": name}
        row |= {f"step {step}": told([mean_dice(run, step) for run in runs]) for step in POINTS}
        end = last_step(runs[0])
        row["last"] = f"{end}: {told([mean_dice(run, end) for run in runs])}"
        for kind in (BOTH, FLAIR_ONLY):
            row[kind] = told([mean_dice(run, end, kind) for run in runs])
        rows.append(row)
    return rows


def slug(name: str) -> str:
    """Name of a run's folder."""
    return name.lower().replace(", ", "-").replace(" ", "-")


def draw(folder: Path, seed: int, is_quick: bool, shared: Path | None) -> Cohort:
    """The sessions of a seed; few of them for the quick form."""
    if shared:
        few = [replace(g, train=min(g.train, 3), held_out=min(g.held_out, 4)) for g in REAL_GROUPS]
        return write_real_cohort(folder, seed, shared, few if is_quick else REAL_GROUPS)
    few = [replace(g, train=3, held_out=4) for g in GROUPS]
    return write_cohort(folder, seed, few if is_quick else GROUPS)


def seed_results(
    folder: Path, seed: int, names: Sequence[str], steps: int | None, shared: Path | None
) -> dict:
    """Results of the runs of one seed; those that are in the folder are not repeated."""
    cohort = draw(folder / "cohort", seed, steps is not None, shared)
    found: dict[str, Any] = {}
    for run in (run for run in RUNS if run.name in names):
        place = folder / slug(run.name)
        file = place / "result.json"
        if not file.is_file():
            begun = time.process_time()
            shutil.rmtree(place, ignore_errors=True)
            start = model_of(folder / slug(run.start)) if run.start else None
            short = replace(run, steps=steps, look=QUICK_LOOK) if steps else run
            result = train(short, cohort, place, start, seed)
            write_json(file, {**result, "processor_s": round(time.process_time() - begun, 1)})
        found[run.name] = json.loads(file.read_text(encoding="utf-8"))
        end = mean_dice(found[run.name], last_step(found[run.name]))
        spent = found[run.name]["processor_s"]
        print(f"seed {seed}, {run.name}: {end:.3f}, {spent} s", file=sys.stderr, flush=True)
    if len(set(MEMBERS) & set(names)) > 1:
        found["ensembles"] = ensembles(folder, cohort)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, few runs, 12 steps")
    parser.add_argument("--out", type=Path, help="default: a folder that is removed at the end")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--real", type=Path, metavar="SHARED_DATA", help="lesions in real scans")
    asked = parser.parse_args(argv)
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    usual = QUICK if asked.quick else [run.name for run in RUNS]
    names = asked.runs or [name for name in usual if not asked.real or name in FROM_T1W]
    seeds = range(1, 2 if asked.quick else asked.seeds + 1)
    with tempfile.TemporaryDirectory() as made:
        out = (asked.out or Path(made)).absolute()
        steps = 3 * QUICK_LOOK if asked.quick else None
        results = [
            seed_results(out / f"seed-{seed}", seed, names, steps, asked.real) for seed in seeds
        ]
    print_table(curves(results, names))
    print()
    ensemble = [result["ensembles"] for result in results if "ensembles" in result]
    if ensemble:
        print_table([{"seed": seed, **row} for seed, row in zip(seeds, ensemble, strict=True)])
        print()
    finish({"seeds": list(seeds), "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
