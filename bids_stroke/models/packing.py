"""A trained model as a folder with its descriptor, which ``participant --model`` runs at once."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bids_stroke.core.files import sha256, write_json, write_text
from bids_stroke.models import descriptor
from bids_stroke.models.channels import modalities_of
from bids_stroke.models.descriptor import Descriptor, Inference, ModelFile, OperatingPoint
from bids_stroke.models.recipe import Recipe
from bids_stroke.models.run_trainer import FINAL
from bids_stroke.models.trainers import KEPT, snapshot_name
from bids_stroke.models.weights import load_checkpoint, save_checkpoint

INTENDED_USE = (
    "Research use only; not a medical device. For images like those of the training data."
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is said of a new model beside its recipe."""

    name: str
    training_data: str
    synthetic: bool
    evaluation: Mapping[str, Any] = field(default_factory=dict)


def draft(recipe: Recipe, facts: Facts, point: OperatingPoint, file: Path) -> Descriptor:
    """Descriptor of a model that is trained by a recipe, without its files."""
    asked = recipe.inference
    return Descriptor(
        name=facts.name,
        version="1",
        title=recipe.title,
        description=f"Trained on this computer by the recipe '{recipe.name}'. {recipe.description}",
        intended_use=INTENDED_USE,
        training_data=facts.training_data,
        licence="As the owners of the training data decide.",
        citation=recipe.citation or "none",
        format="nnunetv2",
        folder=facts.name,
        channels=recipe.channels,
        inputs=recipe.inputs or (modalities_of(recipe.channels),),
        preprocessing=recipe.preprocessing,
        operating_point=point,
        inference=Inference(
            mirror_axes=asked.mirror_axes,
            step_size=asked.step_size,
            resample=asked.resample,
            centre_crop=asked.centre_crop,
        ),
        synthetic=facts.synthetic,
        evaluation=facts.evaluation,
        file=file,
    )


def of_stage(recipe: Recipe, stage_folder: Path, checkpoint: str) -> Descriptor:
    """The model that a stage's folder of nnU-Net holds at this moment."""
    facts = Facts(name=stage_folder.name, training_data="in training", synthetic=False)
    point = OperatingPoint(threshold=0.5, min_volume_mm3=0.0)
    model = draft(recipe, facts, point, stage_folder.parent / "in-training.toml")
    return replace(model, inference=replace(model.inference, checkpoint=checkpoint))


def members(recipe: Recipe) -> dict[str, str]:
    """Checkpoint of each member that a fold gives, by what is added to the fold's name."""
    if not recipe.inference.snapshots:
        return {"": KEPT[recipe.schedule.keep]}
    return {f"-e{epoch}": snapshot_name(epoch) for epoch in recipe.inference.snapshots}


def write_model(
    model: Descriptor, stage_folder: Path, folds: Sequence[int], recipe: Recipe
) -> Path:
    """Write plans, weights (without the optimizer's state) and the descriptor; returns the latter.

    ``model.file`` is where the descriptor goes. The descriptor comes last, and holds the size and
    SHA-256 of every file.
    """
    target = model.model_folder
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in ("plans.json", "dataset.json"):
        shutil.copyfile(stage_folder / name, target / name)
    for fold in folds:
        for ending, checkpoint in members(recipe).items():
            source = stage_folder / f"fold_{fold}" / checkpoint
            _strip(source, target / f"fold_{fold}{ending}" / FINAL)
    return _finished(model)


def write_lesiongnb(model: Descriptor, parameters: Path) -> Path:
    """Write the fitted Gaussians of LesionGnb and the descriptor; returns the latter."""
    target = model.model_folder
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copyfile(parameters, target / parameters.name)
    return _finished(replace(model, format="lesiongnb"))


def _finished(model: Descriptor) -> Path:
    """Write the descriptor of a model folder, with the size and SHA-256 of its files."""
    files = tuple(
        ModelFile(
            path=path.relative_to(model.root).as_posix(),
            sha256=sha256(path),
            size=path.stat().st_size,
        )
        for path in sorted(model.model_folder.rglob("*"))
        if path.is_file()
    )
    write_text(model.file, descriptor.dumps(replace(model, files=files)))
    descriptor.load(model.file)
    return model.file


def _strip(source: Path, target: Path) -> None:
    """Copy what prediction needs of a checkpoint."""
    kept = ("network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes")
    checkpoint = load_checkpoint(source)
    save_checkpoint(target, {key: checkpoint[key] for key in kept})


def write_settings(root: Path, settings: Mapping[str, Any]) -> Path:
    """Keep what a training was started with, so that a later run can tell whether it goes on."""
    root.mkdir(parents=True, exist_ok=True)
    return write_json(root / "settings.json", settings)
