"""From the network's probability map to masks, labels and tables on native grids."""

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_stroke.core import geometry, lesions
from bids_stroke.core.files import atomic_path, load_image, save_image
from bids_stroke.core.probability import resample_probability
from bids_stroke.interfaces.images import read


class _NativeInput(BaseInterfaceInputSpec):
    probability = File(exists=True, mandatory=True, desc="probability on the network's grid")
    reference = File(exists=True, mandatory=True, desc="image that has the native grid")
    transform = File(exists=True, desc="ITK transform from the map's image to the reference")


class _NativeOutput(TraitedSpec):
    probability = File(desc="probability on the native grid, float32 in [0, 1]")


class ProbabilityToNative(SimpleInterface):
    """Bring a probability map to a native grid (``core.probability``)."""

    input_spec = _NativeInput
    output_spec = _NativeOutput

    def _run_interface(self, runtime: Any) -> Any:
        data, grid = read(self.inputs.probability)
        reference = load_image(self.inputs.reference)
        transform = self.inputs.transform
        native = resample_probability(
            data,
            grid,
            geometry.grid_of(reference),
            transform=geometry.read_itk_affine(Path(transform)) if transform else None,
        )
        out = Path(runtime.cwd) / "probability.nii.gz"
        save_image(native, reference.affine, out, dtype=np.float32)
        self._results["probability"] = str(out)
        return runtime


class _SegmentInput(BaseInterfaceInputSpec):
    probability = File(exists=True, mandatory=True, desc="probability on a native grid")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask on the same grid")
    candidates = File(exists=True, desc="mask to number instead of the cut probability")
    threshold = traits.Float(mandatory=True)
    min_volume_mm3 = traits.Float(mandatory=True)
    connectivity = traits.Enum(26, 18, 6, usedefault=True)
    inclusive = traits.Bool(True, usedefault=True)


class _SegmentOutput(TraitedSpec):
    mask = File(desc="lesion mask, uint8")
    labels = File(desc="lesions numbered by decreasing volume, int16")
    table = File(desc="table of lesions, TSV")


class SegmentLesions(SimpleInterface):
    """Threshold a probability map, drop small components, number the rest and measure them."""

    input_spec = _SegmentInput
    output_spec = _SegmentOutput

    def _run_interface(self, runtime: Any) -> Any:
        image = load_image(self.inputs.probability)
        probability = image.get_fdata(dtype=np.float32)
        chosen, threshold = probability, self.inputs.threshold
        if isdefined(self.inputs.candidates):
            chosen = load_image(self.inputs.candidates).get_fdata(dtype=np.float32)
            threshold = 0.5
        labels = lesions.segment(
            chosen,
            image.affine,
            threshold=threshold,
            min_volume_mm3=self.inputs.min_volume_mm3,
            connectivity=self.inputs.connectivity,
            inclusive=self.inputs.inclusive,
        )
        rows = lesions.table(
            labels, probability, image.affine, midline_x_mm=self._midline(image.affine)
        )
        cwd = Path(runtime.cwd)
        save_image(labels > 0, image.affine, cwd / "mask.nii.gz", dtype=np.uint8)
        save_image(labels, image.affine, cwd / "labels.nii.gz", dtype=np.int16)
        with atomic_path(cwd / "lesions.tsv") as path:
            rows.to_csv(path, sep="\t", index=False, na_rep="n/a")
        for name, file in (("mask", "mask.nii.gz"), ("labels", "labels.nii.gz")):
            self._results[name] = str(cwd / file)
        self._results["table"] = str(cwd / "lesions.tsv")
        return runtime

    def _midline(self, affine: np.ndarray) -> float:
        """x (RAS+ mm) of the brain mask's centre of mass."""
        brain = np.asanyarray(load_image(self.inputs.brain_mask).dataobj) > 0
        centre = np.array(np.nonzero(brain)).mean(axis=1)
        return float((affine @ [*centre, 1.0])[0])
