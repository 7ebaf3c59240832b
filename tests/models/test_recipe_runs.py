"""Recipes from the first array to the model folder: small networks, few steps, all else as is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_stroke.core.files import load_image, write_json
from bids_stroke.core.splits import make_splits
from bids_stroke.models import dataset, descriptor, fit, members, packing, planning, predictor
from bids_stroke.models import recipe as recipes
from bids_stroke.models.dataset import Places
from bids_stroke.models.descriptor import OperatingPoint
from bids_stroke.models.recipe import Recipe, plain
from tests.models.test_fit import _case
from tests.models.test_recipes import tiny
from tests.tiny_model import ARCHITECTURE

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of nnU-Net's own imports

RUN = [
    "meddahi2024-t1w",
    "meddahi2024-t1w:wide",
    "tomita2020",
    "mohapatra2023-unet",
    "mohapatra2023-fcdensenet:imtt-r3",
    "lhermitte2024-unet",
    "lhermitte2024-resunet:subset",
    "lhermitte2024-nnunet",
    "embedded",
]


def small(name: str) -> Recipe:
    """A recipe for the balls of tests/training_data: 3 mm, small patches, small networks."""
    found = tiny(recipes.find(name).with_pretrained(False))
    planar = found.plan.configuration == "2d"
    patch: tuple[int, ...] = (32, 32) if planar else (32, 16, 16)
    stages = tuple(
        replace(
            stage,
            plan={**stage.plan, **({"patch": [24, 24, 16]} if "patch" in stage.plan else {})},
            cases={},  # the balls have no regions, and no training_set
        )
        for stage in found.stages
    )
    plan = replace(found.plan, spacing=(3.0, 3.0, 3.0), patch=patch)
    return replace(found, plan=plan, stages=stages, cases=recipes.Cases())


def made(root: Path, recipe: Recipe, pretrained: descriptor.Descriptor | None = None) -> fit.Job:
    """All that a job of fold 0 wants, on disk."""
    places = Places(root / "out", "small")
    cases = [_case(root / "images", number) for number in range(1, 5)]
    dataset.write_raw(places, cases, recipe.channels)
    splits = make_splits([case.item() for case in cases], 2, 1)
    dataset.write_splits(places, splits, cases)
    base = planning.base_plans(recipe, places, pretrained)
    for stage in recipe.stages:
        plans = planning.stage_plans(base, recipe, stage)
        write_json(places.preprocessed / f"{stage.name}.json", plans)
    configuration = recipe.plan.configuration
    for case in cases:
        folder = places.preprocessed / f"arrays_{configuration}"
        dataset.preprocess_case(case, recipe.channels, base, configuration, folder)
    return fit.Job(
        root=str(places.root),
        name="small",
        recipe=plain(recipe),
        fold=0,
        train_on={stage.name: splits[0].train for stage in recipe.stages},
        pretrained=str(pretrained.file) if pretrained else "",
    )


def trained(root: Path, job: fit.Job, recipe: Recipe) -> descriptor.Descriptor:
    """The model folder of a job that was run."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in job.places.environment().items():  # as a process of its own has them
            patch.setenv(key, value)
        fit.run(job, root / "job.json")
    own = recipe.of_stage(recipe.stages[-1])
    facts = packing.Facts(name="small", training_data="balls", synthetic=True)
    point = OperatingPoint(threshold=0.5, min_volume_mm3=0.0)
    model = packing.draft(own, facts, point, root / "model" / "small.toml")
    stage = next(job.places.results.glob(f"*__{own.stages[0].name}__*"))
    return descriptor.load(packing.write_model(model, stage, [0], own))


def sees(model: descriptor.Descriptor, case: Any) -> np.ndarray:
    data, spacing = case.stack(model.channels)
    channels = dict(zip(model.channels, data, strict=True))
    return predictor.predict(predictor.load(model), channels, spacing, tta=False)


@pytest.mark.parametrize("name", RUN)
def test_a_recipe_trains_and_its_model_predicts(tmp_path: Path, name: str) -> None:
    recipe = small(name)
    job = made(tmp_path, recipe)
    model = trained(tmp_path, job, recipe)
    case = dataset.read_cases(job.places.root / "cases.json")[0]
    found = sees(model, case)
    assert found.shape == load_image(case.label).shape
    assert 0 <= found.min() <= found.max() <= 1
    assert len(list((job.places.validation / "fold_0").glob("*.nii.gz"))) == 2
    assert model.inference.centre_crop == recipe.inference.centre_crop
    assert len(members.available_folds(model)) == max(1, len(recipe.inference.snapshots))


@pytest.mark.parametrize(
    "name", ["meddahi2024-t1w-finetune", "meddahi2024-dual:zero", "meddahi2023-dual"]
)
def test_a_recipe_goes_on_from_a_trained_model(tmp_path: Path, name: str) -> None:
    """The T1w model has no dropout, the recipe of 2024 adds it: the layers are matched."""
    first = small("lhermitte2024-nnunet")
    first = replace(first, network=replace(first.network, kwargs=TOPOLOGY))
    model = trained(tmp_path / "first", made(tmp_path / "first", first), first)
    asked = recipes.find(name).with_pretrained(True).shortened(epochs=1, iterations=2)
    after = trained(tmp_path / "then", made(tmp_path / "then", asked, model), asked)
    assert after.channels == asked.channels
    case = dataset.read_cases(tmp_path / "then" / "out" / "cases.json")[0]
    before = sees(model, case)
    if name.endswith("zero"):  # a rate of 1e-5 moves next to nothing: it still is the T1w model
        assert np.abs(sees(after, case) - before).max() < 0.05
    assert sees(after, case).shape == before.shape


TOPOLOGY = {
    key: ARCHITECTURE["arch_kwargs"][key]
    for key in (
        "n_stages",
        "features_per_stage",
        "kernel_sizes",
        "strides",
        "n_conv_per_stage",
        "n_conv_per_stage_decoder",
    )
}
