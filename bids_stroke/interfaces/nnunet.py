"""Run a model on preprocessed images."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from bids_stroke.core.files import load_image, save_image


class _PredictInput(BaseInterfaceInputSpec):
    t1w = File(exists=True, desc="preprocessed T1w on the network's grid")
    flair = File(exists=True, desc="preprocessed FLAIR on the network's grid")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask on the network's grid")
    modalities = traits.List(traits.Str, mandatory=True, desc="modalities that the model is given")
    descriptor = File(exists=True, mandatory=True, desc="descriptor of the model")
    folds = traits.List(traits.Str, [], usedefault=True, desc="folds; default: the descriptor's")
    keep_members = traits.Bool(False, usedefault=True, desc="write the maps of the members too")
    tta = traits.Either(None, traits.Bool, usedefault=True, desc="mirroring on or off")
    precision = traits.Enum("auto", "fp32", "bf16", usedefault=True, desc="of the arithmetic")
    checksums = traits.Dict(desc="SHA-256 of the model's files, so that new weights recompute")
    device = traits.Str("cpu", usedefault=True, nohash=True, desc="torch device")
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc="takes a slot of nipype's GPUs")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads on a CPU")


class _PredictOutput(TraitedSpec):
    members = traits.List(File(), desc="the same of each member, if there are several")
    probability = File(desc="lesion probability on the network's grid, 0 outside the brain")


class PredictLesions(SimpleInterface):
    """Lesion probability by an nnU-Net v2 model (``models.predictor``), masked by the brain."""

    input_spec = _PredictInput
    output_spec = _PredictOutput

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np
        import torch

        from bids_stroke.models import predictor

        torch.set_num_threads(self.inputs.num_threads)
        files = {"T1w": self.inputs.t1w, "FLAIR": self.inputs.flair}
        images = {m: load_image(files[m]) for m in self.inputs.modalities}
        brain = load_image(self.inputs.brain_mask)
        model = predictor.load_cached(
            Path(self.inputs.descriptor),
            tuple(self.inputs.folds),
            self.inputs.device,
            self.inputs.precision,
        )
        members: list[np.ndarray] | None = [] if self.inputs.keep_members else None
        probability = predictor.predict(
            model,
            {m: image.get_fdata(dtype=np.float32) for m, image in images.items()},
            brain.header.get_zooms()[:3],
            tta=self.inputs.tta,
            brain=np.asanyarray(brain.dataobj),
            members=members,
        )
        outside = np.asanyarray(brain.dataobj) == 0
        probability[outside] = 0
        out = Path(runtime.cwd) / "probability.nii.gz"
        save_image(probability, brain.affine, out, dtype=np.float32)
        self._results["probability"] = str(out)
        self._results["members"] = []
        for number, member in enumerate(members or ()):
            path = Path(runtime.cwd) / f"member_{number}.nii"
            save_image(np.where(outside, 0, member), brain.affine, path, dtype=np.float32)
            self._results["members"].append(str(path))
        return runtime
