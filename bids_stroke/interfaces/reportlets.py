"""Nodes that draw the figures of a report and write the record of a session."""

import platform
from importlib.metadata import PackageNotFoundError, version
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

from bids_stroke.core import geometry, quality
from bids_stroke.core.files import load_image, read_json, write_json

PACKAGES = ("bids_stroke", "nipype", "nnunetv2", "torch", "antspyx", "deepbet", "nibabel", "numpy")


def _array(path: str) -> np.ndarray:
    return np.asarray(load_image(Path(path)).dataobj)


class _FigureOutput(TraitedSpec):
    figure = File(desc="WebP image")


class _BrainInput(BaseInterfaceInputSpec):
    image = File(exists=True, mandatory=True, desc="image with its skull")
    mask = File(exists=True, mandatory=True, desc="brain mask on the same grid")


class BrainFigure(SimpleInterface):
    """Outline of the brain mask over slices (``core.figures.brain_mask_figure``)."""

    input_spec = _BrainInput
    output_spec = _FigureOutput

    def _run_interface(self, runtime: Any) -> Any:
        from bids_stroke.core.figures import brain_mask_figure

        image = load_image(Path(self.inputs.image))
        out = Path(runtime.cwd) / "brain.webp"
        brain_mask_figure(np.asarray(image.dataobj), _array(self.inputs.mask), image.affine, out)
        self._results["figure"] = str(out)
        return runtime


class _RegistrationInput(BaseInterfaceInputSpec):
    fixed = File(exists=True, mandatory=True, desc="image that stayed in place")
    moving_before = File(exists=True, mandatory=True, desc="moving image, on the fixed grid")
    moving_after = File(exists=True, mandatory=True, desc="the same after registration")


class _RegistrationOutput(TraitedSpec):
    before = File(desc="WebP image")
    after = File(desc="WebP image")


class RegistrationFigure(SimpleInterface):
    """The moving image before and after (``core.figures.registration_figure``)."""

    input_spec = _RegistrationInput
    output_spec = _RegistrationOutput

    def _run_interface(self, runtime: Any) -> Any:
        from bids_stroke.core.figures import registration_figure

        fixed = load_image(Path(self.inputs.fixed))
        before, after = (Path(runtime.cwd) / f"{name}.webp" for name in ("before", "after"))
        registration_figure(
            np.asarray(fixed.dataobj),
            _array(self.inputs.moving_before),
            _array(self.inputs.moving_after),
            fixed.affine,
            before,
            after,
        )
        self._results.update(before=str(before), after=str(after))
        return runtime


class _N4Input(BaseInterfaceInputSpec):
    before = File(exists=True, mandatory=True, desc="image before N4")
    after = File(exists=True, mandatory=True, desc="the same after N4")


class _N4Output(TraitedSpec):
    before = File(desc="WebP image")
    after = File(desc="WebP image")
    field = File(desc="WebP image")


class N4Figure(SimpleInterface):
    """Before, after and the bias field (``core.figures.n4_figure``), where the image is not 0."""

    input_spec = _N4Input
    output_spec = _N4Output

    def _run_interface(self, runtime: Any) -> Any:
        from bids_stroke.core.figures import n4_figure

        image = load_image(Path(self.inputs.before))
        before, after = np.asarray(image.dataobj), _array(self.inputs.after)
        names = ("before", "after", "field")
        paths = [Path(runtime.cwd) / f"{name}.webp" for name in names]
        n4_figure(before, after, after > 0, image.affine, *paths)
        self._results.update(zip(names, map(str, paths), strict=True))
        return runtime


class _LesionInput(BaseInterfaceInputSpec):
    t1w = File(exists=True, desc="T1w on the reference's grid")
    flair = File(exists=True, desc="FLAIR on the reference's grid")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask on the reference's grid")
    labels = File(exists=True, mandatory=True, desc="numbered lesions on the reference's grid")
    probability = File(exists=True, mandatory=True, desc="probability on the reference's grid")


class _LesionOutput(TraitedSpec):
    outlined = File(desc="WebP image with outlines")
    plain = File(desc="the same without")


class LesionFigure(SimpleInterface):
    """Slices through each lesion on every modality (``core.figures.lesion_figure``)."""

    input_spec = _LesionInput
    output_spec = _LesionOutput

    def _run_interface(self, runtime: Any) -> Any:
        from bids_stroke.core.figures import lesion_figure

        labels = load_image(Path(self.inputs.labels))
        files = {"T1w": self.inputs.t1w, "FLAIR": self.inputs.flair}
        images = {modality: _array(path) for modality, path in files.items() if isdefined(path)}
        for name in ("outlined", "plain"):
            out = Path(runtime.cwd) / f"{name}.webp"
            lesion_figure(
                images,
                np.asarray(labels.dataobj),
                _array(self.inputs.probability),
                labels.affine,
                out,
                brain=_array(self.inputs.brain_mask),
                outlined=name == "outlined",
            )
            self._results[name] = str(out)
        return runtime


class _RecordInput(BaseInterfaceInputSpec):
    label = traits.Str(mandatory=True, desc="first part of the names of the outputs")
    entities = traits.Dict(mandatory=True, desc="entities of the source")
    files = traits.Dict(mandatory=True, desc="source file by modality")
    reason = traits.Str(desc="why these files")
    reference = traits.Enum("T1w", "FLAIR", mandatory=True)
    model = traits.Dict(mandatory=True, desc="name, version, checksums, operating point, ...")
    registration_qc = File(exists=True)
    normalization_qc = File(exists=True)
    location = File(exists=True, desc="JSON of interfaces.locate")
    conform_qc_t1w = File(exists=True)
    conform_qc_flair = File(exists=True)
    brain_qc_t1w = File(exists=True)
    brain_qc_flair = File(exists=True)
    t1w_labels = File(exists=True)
    flair_labels = File(exists=True)
    t1w_mask = File(exists=True, desc="brain mask")
    flair_mask = File(exists=True, desc="brain mask")
    t1w_table = File(exists=True)
    flair_table = File(exists=True)


class _RecordOutput(TraitedSpec):
    qc = File(desc="JSON record")


class QualityRecord(SimpleInterface):
    """Flags and facts of a session in one JSON file (``core.quality.qc_record``)."""

    input_spec = _RecordInput
    output_spec = _RecordOutput

    def _run_interface(self, runtime: Any) -> Any:
        registration = self._json("registration_qc")
        lesions = {modality: self._lesions(modality) for modality in self.inputs.files}
        record = quality.qc_record(
            label=self.inputs.label,
            entities=self.inputs.entities,
            inputs={modality: self._input(modality) for modality in self.inputs.files},
            reason=self.inputs.reason or "",
            reference=self.inputs.reference,
            registration=registration,
            model=self.inputs.model,
            lesions=lesions,
            flags=self._flags(registration, lesions),
            versions=versions(),
            normalization=self._json("normalization_qc"),
            location=self._json("location"),
        )
        self._results["qc"] = str(write_json(Path(runtime.cwd) / "qc.json", record))
        return runtime

    def _json(self, field: str) -> dict[str, Any]:
        path = getattr(self.inputs, field)
        return read_json(Path(path)) if isdefined(path) else {}

    def _input(self, modality: str) -> dict[str, Any]:
        name = modality.lower()
        return {
            "file": self.inputs.files[modality],
            "conform": self._json(f"conform_qc_{name}"),
            "brain": self._json(f"brain_qc_{name}"),
        }

    def _lesions(self, modality: str) -> dict[str, Any]:
        """Count and volume on the modality's own grid."""
        labels = load_image(Path(getattr(self.inputs, f"{modality.lower()}_labels")))
        numbers = np.asarray(labels.dataobj)
        voxel = geometry.voxel_volume_mm3(labels.affine)
        volume = float(np.count_nonzero(numbers) * voxel / 1000)
        return {"count": int(numbers.max(initial=0)), "volume_ml": volume}

    def _flags(
        self, registration: dict[str, Any], lesions: dict[str, dict[str, Any]]
    ) -> list[quality.Flag]:
        name, main = self.inputs.reference.lower(), lesions[self.inputs.reference]
        labels = load_image(Path(getattr(self.inputs, f"{name}_labels")))
        brain = _array(getattr(self.inputs, f"{name}_mask"))
        zooms = [float(z) for z in labels.header.get_zooms()[:3]]
        volumes = {space: of["volume_ml"] for space, of in lesions.items()}
        flags = quality.step_flags("registration", registration.get("flags", []))
        normalization = self._json("normalization_qc")
        flags += quality.step_flags("normalization", normalization.get("flags", []))
        for modality in self.inputs.files:
            sentences = self._json(f"brain_qc_{modality.lower()}").get("flags", [])
            flags += quality.step_flags("brain_mask", sentences, modality)
        return [
            *flags,
            *quality.lesion_volume_flags(main["count"], main["volume_ml"]),
            *quality.edge_flags(np.asarray(labels.dataobj), brain, zooms),
            *quality.confidence_flags(_mean_probabilities(getattr(self.inputs, f"{name}_table"))),
            *quality.grid_flags(volumes),
        ]


def _mean_probabilities(table: str) -> list[float]:
    import pandas as pd

    return [float(p) for p in pd.read_csv(table, sep="\t")["mean_probability"]]


def versions() -> dict[str, str]:
    """Versions of Python, the system and the packages that make the result."""
    found = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
