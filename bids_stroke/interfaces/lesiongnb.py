"""LesionGnb on a T1w: tissues by Atropos in the template's space, features, naive Bayes."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
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
from bids_stroke.core.files import save_image
from bids_stroke.core.geometry import Grid
from bids_stroke.core.normalization import coarse
from bids_stroke.core.tissue_features import Tissues, features, smooth
from bids_stroke.interfaces.ants import reproducible, to_ants
from bids_stroke.interfaces.images import read
from bids_stroke.interfaces.tissues import segment_tissues
from bids_stroke.models import lesiongnb

PRIOR_WEIGHT = 0.0
"""Priors start the classes and then have no say: at any weight they call a cavity in white matter
white, and hide the lesion that is looked for."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A brain in the template's space: tissues, features [2, x, y, z] and where it lies.

    ``to_subject`` (4 x 4, RAS+ mm) takes points of the template to the subject.
    """

    tissues: Tissues
    features: np.ndarray
    brain: np.ndarray
    to_subject: np.ndarray


def describe(t1w: np.ndarray, brain: np.ndarray, affine: np.ndarray, *, seed: int = 1) -> Subject:
    """Bring a brain-only T1w [x, y, z] to the template by an affine, and compute its features."""
    matrix = affine_to_template(np.where(brain, t1w, 0), affine, seed=seed)
    return in_template(t1w, brain, affine, matrix, seed=seed)


def in_template(
    t1w: np.ndarray, brain: np.ndarray, affine: np.ndarray, matrix: np.ndarray, *, seed: int = 1
) -> Subject:
    """``describe`` with a known ``matrix`` from points of the template to the subject's."""
    source = Grid((t1w.shape[0], t1w.shape[1], t1w.shape[2]), affine)
    grid, voxel = lesiongnb.grid(), lesiongnb.VOXEL_MM
    image = geometry.resample(*_antialiased(t1w, source), grid, transform=matrix, order=1)
    inside = geometry.resample(brain.astype(np.float32), source, grid, transform=matrix) >= 0.5
    _, reference, common = lesiongnb.template()
    tissues = segment_tissues(
        image, inside, grid.affine, reference, prior_weight=PRIOR_WEIGHT, seed=seed
    )
    found = features(tissues.smoothed(voxel), reference.smoothed(voxel))
    return Subject(tissues, found, inside & common, matrix)


def _antialiased(t1w: np.ndarray, source: Grid) -> tuple[np.ndarray, Grid]:
    """The image with voxels of no less than those of the template's grid."""
    data, affine = coarse(t1w, source.affine, lesiongnb.VOXEL_MM)
    return data, Grid((data.shape[0], data.shape[1], data.shape[2]), affine)


def affine_to_template(t1w: np.ndarray, affine: np.ndarray, *, seed: int = 1) -> np.ndarray:
    """Matrix (RAS+ mm) that takes points of the template to the brain, by mutual information."""
    fixed, moving = lesiongnb.template()[0], coarse(t1w, affine, lesiongnb.VOXEL_MM)
    with TemporaryDirectory() as folder, reproducible(seed):
        import ants

        result = ants.registration(
            to_ants(fixed, lesiongnb.grid().affine),
            to_ants(*moving),
            "Affine",
            outprefix=f"{folder}/affine_",
            aff_iterations=(1000, 500, 250),
            aff_shrink_factors=(4, 2, 1),
            aff_smoothing_sigmas=(2, 1, 0),
        )
        return geometry.read_itk_affine(Path(result["fwdtransforms"][0]))


def probability(subject: Subject, parameters: gnb.Parameters) -> np.ndarray:
    """Posterior of the lesion in the template's space, smoothed by 8 mm, within the brain."""
    posterior = gnb.posterior(parameters, subject.features) * subject.brain
    return smooth(posterior, lesiongnb.VOXEL_MM) * subject.brain


class _PredictInput(BaseInterfaceInputSpec):
    t1w = File(exists=True, mandatory=True, desc="brain-only T1w without its bias field")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask on the same grid")
    folder = traits.Directory(exists=True, mandatory=True, desc="model folder")
    checksums = traits.Dict(desc="SHA-256 of the model's files, so that new ones recompute")
    seed = traits.Int(1, usedefault=True, desc="seed of ANTs")


class _PredictOutput(TraitedSpec):
    probability = File(desc="smoothed posterior of the lesion, 0 outside the brain")
    members = traits.List(desc="always empty: one classifier")


class PredictLesionGnb(SimpleInterface):
    """Lesion probability on the T1w's grid by LesionGnb (Griffis et al. 2016)."""

    input_spec = _PredictInput
    output_spec = _PredictOutput

    def _run_interface(self, runtime: Any) -> Any:
        (t1w, grid), (brain, _) = read(self.inputs.t1w), read(self.inputs.brain_mask)
        parameters = lesiongnb.read_parameters(Path(self.inputs.folder))
        subject = describe(t1w, brain > 0, grid.affine, seed=self.inputs.seed)
        native = geometry.resample(
            probability(subject, parameters),
            lesiongnb.grid(),
            grid,
            transform=np.linalg.inv(subject.to_subject),
        )
        out = Path(runtime.cwd) / "probability.nii.gz"
        save_image(np.where(brain > 0, native, 0), grid.affine, out, dtype=np.float32)
        self._results["probability"], self._results["members"] = str(out), []
        return runtime
