"""The embedded models as they ship: whole, small, honest, and able to find a lesion."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import nilearn.datasets
import numpy as np
import pytest

from bids_stroke import data
from bids_stroke.core.files import read_json
from bids_stroke.core.synthesis import contrast_from_tissues, paint
from bids_stroke.models import descriptor as descriptors
from bids_stroke.models import recipe as recipes
from bids_stroke.models.predictor import Predictor, load, predict

INPUTS = {"embedded": {("T1w", "FLAIR"), ("T1w",), ("FLAIR",)}, "embedded-t1w": {("T1w",)}}


@pytest.fixture(scope="module", params=INPUTS)
def model(request: pytest.FixtureRequest) -> descriptors.Descriptor:
    return descriptors.load(data.path("models", f"{request.param}.toml"))


def test_files_are_those_of_the_descriptor(model):
    descriptors.verify(model)
    stated = {model.root / file.path for file in model.files}
    assert stated == {path for path in model.model_folder.rglob("*") if path.is_file()}


def test_all_together_are_small():
    found = [descriptors.load(data.path("models", f"{name}.toml")) for name in INPUTS]
    assert sum(file.size for model in found for file in model.files) < 16e6


def test_it_says_that_it_is_synthetic(model):
    assert model.synthetic
    assert "not for care" in model.intended_use
    assert "synthetic" in model.training_data.lower()
    assert set(model.inputs) == INPUTS[model.name]
    assert model.evaluation["scans"]


def test_its_network_is_that_of_its_recipe(model):
    recipe = recipes.find(model.name)
    recipe = recipe.of_stage(recipe.stages[-1])
    plans = read_json(model.model_folder / "plans.json")
    (settings,) = plans["configurations"].values()
    network = settings["architecture"]
    assert network["network_class_name"] == recipe.network.class_name
    given = {name: value for name, value in network["arch_kwargs"].items() if value is not None}
    assert given == recipe.network.kwargs
    assert tuple(settings["patch_size"]) == recipe.plan.patch
    assert tuple(settings["spacing"]) == recipe.plan.spacing
    assert (model.inputs, model.preprocessing) == (recipe.inputs, recipe.preprocessing)
    assert model.inference.step_size == recipe.inference.step_size


@pytest.fixture(scope="module")
def head() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The MNI template at 2 mm as T1w and FLAIR, with a chronic lesion of 14 mL: z-scored."""
    rng = np.random.default_rng(5)
    folder = Path(nilearn.datasets.__file__).parent / "data"
    maps = {}
    for name in ("t1", "gm", "wm"):
        image = nib.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        maps[name] = np.asarray(image.dataobj, np.float32)[::2, ::2, ::2] / 255
    brain = maps.pop("t1") > 0.1
    tissues = {**maps, "csf": np.clip(1 - maps["gm"] - maps["wm"], 0, 1) * brain}
    images = {k: contrast_from_tissues(tissues, rng, k) * brain for k in ("T1w", "FLAIR")}
    x, y, z = np.indices(brain.shape)
    soft = np.clip(8 - np.sqrt((x - 66) ** 2 + (y - 60) ** 2 + (z - 52) ** 2), 0, 1) * brain
    images = paint(images, soft, rng, stage="chronic", strength=1.0)
    scaled = {k: (v - v[brain].mean()) / v[brain].std() * brain for k, v in images.items()}
    return scaled, soft > 0.5, brain


@pytest.fixture(scope="module")
def predictor(model: descriptors.Descriptor) -> Predictor:
    return load(model)


def test_it_finds_a_plain_lesion_with_each_set_of_inputs(predictor, head):
    for names in predictor.descriptor.inputs:
        finds_a_plain_lesion(predictor, head, names)


def finds_a_plain_lesion(predictor, head, names):
    images, lesion, brain = head
    probability = predict(predictor, {n: images[n] for n in names}, [2.0, 2.0, 2.0])
    found = (probability >= predictor.descriptor.operating_point.threshold) & brain
    assert found[lesion].mean() > 0.5
    assert found[brain & ~lesion].mean() < 0.02


@pytest.mark.slow
def test_what_it_finds_in_a_real_scan_is_mostly_real(real_data):
    model = descriptors.load(data.path("models", "embedded.toml"))
    images = {}
    for name in ("T1w", "FLAIR", "label-lesion_mask"):
        image = nib.load(real_data / "ms_mni" / f"patient26_{name}.nii.gz")
        images[name] = nib.as_closest_canonical(image).get_fdata(dtype=np.float32)
    truth = images.pop("label-lesion_mask") > 0.5
    brain = images["T1w"] != 0
    channels = {
        name: np.where(brain, (image - image[brain].mean()) / image[brain].std(), 0)
        for name, image in images.items()
    }
    found = predict(load(model), channels, [1.0, 1.0, 1.0]) >= model.operating_point.threshold
    assert found[truth].mean() > 0.1  # MS lesions, that no label taught
    assert truth[found & brain].mean() > 0.5
