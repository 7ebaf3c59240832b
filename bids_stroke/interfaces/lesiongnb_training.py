"""Training of LesionGnb: features of each case in template space, then two Gaussians a fold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from bids_stroke.core import geometry, gnb
from bids_stroke.core.files import load_image, save_image
from bids_stroke.errors import UnusableData
from bids_stroke.interfaces.lesiongnb import Subject, describe, probability
from bids_stroke.models import lesiongnb
from bids_stroke.models.dataset import Case


@dataclass(frozen=True, eq=False)
class Described:
    """A case on the template's grid: features [2, x, y, z], brain, reference, and where it lies.

    ``to_subject`` (4 x 4, RAS+ mm) takes points of the template to the T1w.
    """

    features: np.ndarray
    brain: np.ndarray
    truth: np.ndarray
    to_subject: np.ndarray

    def save(self, path: Path) -> Path:
        """Write as npz."""
        np.savez_compressed(path, **vars(self))
        return path

    @classmethod
    def load(cls, path: Path) -> Described:
        """Read what ``save`` wrote."""
        with np.load(path) as held:
            return cls(**{name: held[name] for name in held.files})


def describe_case(case: Case, seed: int) -> Described:
    """Features of a case, and its reference on the template's grid."""
    image, label = load_image(case.images["T1w"]), load_image(case.label)
    brain = np.asanyarray(load_image(case.brain).dataobj) > 0
    subject = describe(image.get_fdata(dtype=np.float32), brain, image.affine, seed=seed)
    truth = geometry.resample(
        np.asanyarray(label.dataobj).astype(np.float32),
        geometry.grid_of(label),
        lesiongnb.grid(),
        transform=subject.to_subject,
    )
    return Described(subject.features, subject.brain, truth >= 0.5, subject.to_subject)


def fit_cases(cases: Sequence[Described]) -> gnb.Parameters:
    """Gaussians over the brain voxels of all cases; raises UnusableData where no lesion is left."""
    samples = np.concatenate([case.features[:, case.brain].T for case in cases])
    lesion = np.concatenate([case.truth[case.brain] for case in cases])
    try:
        return gnb.fit(samples, lesion)
    except ValueError as error:
        raise UnusableData("No training case has a lesion within the template's brain.") from error


def map_on_native(parameters: gnb.Parameters, case: Case, described: Described) -> np.ndarray:
    """Lesion probability [x, y, z] of a case on the grid of its reference, 0 outside the brain."""
    given: Any = described
    subject = Subject(given, given.features, given.brain, given.to_subject)
    native = geometry.grid_of(load_image(case.native))
    to_network = geometry.read_itk_affine(Path(case.transform)) if case.transform else np.eye(4)
    found = geometry.resample(
        probability(subject, parameters),
        lesiongnb.grid(),
        native,
        transform=np.linalg.inv(described.to_subject) @ to_network,
    )
    brain = np.asanyarray(load_image(case.native_brain).dataobj) > 0
    return np.where(brain, np.clip(found, 0, 1), 0)


class _DescribeInput(BaseInterfaceInputSpec):
    case = File(exists=True, mandatory=True, desc="JSON of the case")
    seed = traits.Int(1, usedefault=True, desc="seed of ANTs")


class _DescribeOutput(TraitedSpec):
    described = File(desc="features, brain and reference on the template's grid")


class DescribeCase(SimpleInterface):
    """LesionGnb's features of a case."""

    input_spec = _DescribeInput
    output_spec = _DescribeOutput

    def _run_interface(self, runtime: Any) -> Any:
        case = Case(**json.loads(Path(self.inputs.case).read_text(encoding="utf-8")))
        found = describe_case(case, self.inputs.seed)
        self._results["described"] = str(found.save(Path(runtime.cwd) / f"{case.case}.npz"))
        return runtime


class _FitInput(BaseInterfaceInputSpec):
    described = traits.List(File(exists=True), mandatory=True, desc="one file a case")
    jobs = traits.List(File(exists=True), mandatory=True, desc="JSON of models.fit.Job, one a fold")


class _FitOutput(TraitedSpec):
    done = traits.List(traits.Int, desc="folds")


class FitLesionGnb(SimpleInterface):
    """Fit each fold, predict its validation cases, and keep the fit of all training cases."""

    input_spec = _FitInput
    output_spec = _FitOutput
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        described = {Path(file).stem: Described.load(file) for file in self.inputs.described}
        jobs = [json.loads(Path(f).read_text(encoding="utf-8")) for f in self.inputs.jobs]
        for job in jobs:
            _run_fold(job, described)
        together = sorted({name for job in jobs for name in _training_cases(job)})
        places = _places(jobs[0])
        provenance = f"Fitted to {len(together)} cases by the recipe of setup.json."
        parameters = fit_cases([described[name] for name in together])
        lesiongnb.write_parameters(parameters, places.results, provenance)
        self._results["done"] = [job["fold"] for job in jobs]
        return runtime


def _training_cases(job: Mapping[str, Any]) -> Sequence[str]:
    """Cases of the last stage of a job."""
    return list(job["train_on"].values())[-1]


def _places(job: Mapping[str, Any]) -> Any:
    from bids_stroke.models.dataset import Places

    return Places(Path(job["root"]), job["name"])


def _run_fold(job: Mapping[str, Any], described: Mapping[str, Described]) -> None:
    from bids_stroke.models.dataset import read_cases, read_splits

    places = _places(job)
    parameters = fit_cases([described[name] for name in _training_cases(job)])
    validated = set(read_splits(places.root / "splits.json")[job["fold"]].val)
    folder = places.validation / f"fold_{job['fold']}"
    folder.mkdir(parents=True, exist_ok=True)
    for case in read_cases(places.root / "cases.json"):
        if case.case in validated:
            found = map_on_native(parameters, case, described[case.case])
            affine = load_image(case.native).affine
            save_image(found, affine, folder / f"{case.case}.nii.gz", dtype=np.float32)
