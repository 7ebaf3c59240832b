"""Results of several models made into one, and the disagreement of members."""

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiPath,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from bids_stroke.core import ensembles, geometry
from bids_stroke.core.files import atomic_path, load_image, save_image
from bids_stroke.core.probability import resample_probability
from bids_stroke.interfaces.images import read


def _masks(maps: list[np.ndarray], thresholds: list[float], inclusive: bool) -> list[np.ndarray]:
    """Each map cut at its own threshold."""
    pairs = zip(maps, thresholds, strict=True)
    return [p >= limit if inclusive else p > limit for p, limit in pairs]


class _CombineInput(BaseInterfaceInputSpec):
    probabilities = InputMultiPath(File(exists=True), mandatory=True, desc="one map a model")
    method = traits.Enum("mean", "stack", "window", mandatory=True)
    weights = traits.List(traits.Float, [], usedefault=True, desc="default: equal")
    thresholds = traits.List(traits.Float, mandatory=True, desc="of each model")
    inclusive = traits.Bool(True, usedefault=True)
    window = traits.Int(2, usedefault=True, desc="side of the agreement window, voxels")
    share = traits.Float(0.75, usedefault=True, desc="of agreement in a window")


class _CombineOutput(TraitedSpec):
    probability = File(desc="weighted mean of the probabilities")
    candidates = File(desc="mask by stacking or by the agreement window; undefined for the mean")


class CombineModels(SimpleInterface):
    """Mean, stacking or agreement window of maps on one grid (``core.ensembles``)."""

    input_spec = _CombineInput
    output_spec = _CombineOutput

    def _run_interface(self, runtime: Any) -> Any:
        inputs, cwd = self.inputs, Path(runtime.cwd)
        maps, grids = zip(*map(read, inputs.probabilities), strict=True)
        mean = ensembles.weighted_mean(maps, inputs.weights or None)
        out = save_image(mean, grids[0].affine, cwd / "probability.nii.gz", dtype=np.float32)
        self._results["probability"] = str(out)
        if inputs.method != "mean":
            masks = _masks(list(maps), inputs.thresholds, inputs.inclusive)
            if inputs.method == "stack":
                kept = ensembles.stack(masks)
            else:
                kept = ensembles.agreement_window(masks, inputs.window, inputs.share)
            out = save_image(kept, grids[0].affine, cwd / "candidates.nii.gz", dtype=np.uint8)
            self._results["candidates"] = str(out)
        return runtime


class _AgreementInput(BaseInterfaceInputSpec):
    members = InputMultiPath(File(exists=True), mandatory=True, desc="probability of each member")
    thresholds = traits.List(traits.Float, mandatory=True, desc="one for each, or one for all")
    inclusive = traits.Bool(True, usedefault=True)
    transform = File(exists=True, desc="ITK transform from the members' image to the labels'")
    labels = File(exists=True, mandatory=True, desc="lesions 1..n on a native grid")
    table = File(exists=True, mandatory=True, desc="table of these lesions")


class _AgreementOutput(TraitedSpec):
    uncertainty = File(desc="standard deviation of the probability over the members")
    table = File(desc="the table with members_share and disagreement filled in")


class MemberAgreement(SimpleInterface):
    """Where members disagree, and how many of them see each lesion (``core.ensembles``)."""

    input_spec = _AgreementInput
    output_spec = _AgreementOutput

    def _run_interface(self, runtime: Any) -> Any:
        import pandas as pd

        cwd, image = Path(runtime.cwd), load_image(self.inputs.labels)
        labels, maps = np.asarray(image.dataobj), self._maps(geometry.grid_of(image))
        thresholds = list(self.inputs.thresholds)
        if len(thresholds) == 1:
            thresholds *= len(maps)
        spread = ensembles.disagreement(maps)
        masks = _masks(maps, thresholds, self.inputs.inclusive)
        table = pd.read_csv(self.inputs.table, sep="\t")
        table["members_share"] = np.round(ensembles.members_share(labels, masks), 4)
        table["disagreement"] = np.round(ensembles.lesion_means(labels, spread), 4)
        with atomic_path(cwd / "lesions.tsv") as path:
            table.to_csv(path, sep="\t", index=False, na_rep="n/a")
        out = save_image(spread, image.affine, cwd / "uncertainty.nii.gz", dtype=np.float32)
        self._results["uncertainty"] = str(out)
        self._results["table"] = str(cwd / "lesions.tsv")
        return runtime

    def _maps(self, target: geometry.Grid) -> list[np.ndarray]:
        """The members' maps on the grid of the labels, as ``ProbabilityToNative`` brings them."""
        given = self.inputs.transform
        matrix = geometry.read_itk_affine(Path(given)) if given else None
        return [
            resample_probability(*read(path), target, transform=matrix)
            for path in self.inputs.members
        ]
