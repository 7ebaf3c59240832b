"""Brain extraction: one interface in front of networks, precomputed masks and bare brains."""

from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_stroke.core import brain, geometry, intensity
from bids_stroke.core.conform import read_mask
from bids_stroke.core.files import save_image, write_json
from bids_stroke.core.geometry import Grid
from bids_stroke.errors import UnusableData
from bids_stroke.interfaces.images import read

MIN_KEPT = 0.9  # share of a precomputed mask that must lie on the image
NAMES = {"t1w": "T1w", "flair": "FLAIR"}  # inputs, and how BIDS writes them


def precomputed_mask(path: Path, grid: Grid) -> tuple[np.ndarray, list[str]]:
    """A given brain mask on an image's grid, uint8, and notes on what was done to it.

    Another grid than the image's, up to a turn of axes, is resampled by nearest neighbour. Raises
    UnusableData when less than nine tenths of the mask lie on the image.
    """
    mask, affine = read_mask(path)
    source = Grid(mask.shape, affine)
    moved = geometry.resample(mask, source, grid, order=0).astype(np.uint8)
    kept = brain.volume_ml(moved, grid.affine) / brain.volume_ml(mask, affine)
    if kept < MIN_KEPT:
        raise UnusableData(f"Only {kept:.0%} of the brain mask {path} lies on its image: check it.")
    if geometry.same_grid(_ras(source), _ras(grid)):
        return moved, []
    return moved, ["The brain mask was resampled to the image's grid (nearest neighbour)."]


def _ras(grid: Grid) -> Grid:
    """The same grid with its axes in RAS order."""
    turned, affine = geometry.to_ras(np.zeros(grid.shape, dtype=bool), grid.affine)
    return Grid(turned.shape, affine)


class _ExtractInput(BaseInterfaceInputSpec):
    t1w = File(exists=True, desc="image with or without its skull")
    flair = File(exists=True, desc="image with or without its skull")
    t1w_mask = File(exists=True, desc="precomputed brain mask, on the T1w's grid or near it")
    flair_mask = File(exists=True, desc="precomputed brain mask, on the FLAIR's grid or near it")
    method = traits.Enum(
        "auto",
        "deepbet",
        "embedded",
        "hd-bet",
        "hd-bet-1",
        "precomputed",
        "skip",
        usedefault=True,
        desc="what is asked for; a precomputed mask wins",
    )
    weights = Directory(desc="model folder of HD-BET 2 (holds fold_all)")
    folds = traits.Range(1, 5, 5, usedefault=True, desc="folds of HD-BET 1")
    tta = traits.Bool(False, usedefault=True, desc="mirroring of HD-BET 1 and 2")
    device = traits.Str("cpu", usedefault=True, nohash=True, desc="torch device")
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc="takes a slot of nipype's GPUs")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads on a CPU")


class _ExtractOutput(TraitedSpec):
    t1w = File(desc="T1w that is exactly 0 outside the brain")
    flair = File(desc="FLAIR that is exactly 0 outside the brain")
    t1w_mask = File(desc="brain mask on the T1w's grid, uint8")
    flair_mask = File(desc="brain mask on the FLAIR's grid, uint8")
    t1w_qc = File(desc="JSON: method, version, weights_sha256, volume_ml, notes, flags")
    flair_qc = File(desc="JSON: method, version, weights_sha256, volume_ml, notes, flags")


class ExtractBrain(SimpleInterface):
    """Find the brain in the images of a session, of any orientation (``models.brain``).

    One step does it for both images, so that the networks are loaded once.
    """

    input_spec = _ExtractInput
    output_spec = _ExtractOutput

    def _run_interface(self, runtime: Any) -> Any:
        for modality, name in NAMES.items():
            if isdefined(getattr(self.inputs, modality)):
                try:
                    self._extract(modality, Path(runtime.cwd))
                except UnusableData as error:
                    raise UnusableData(f"{name}: {error}") from error
        return runtime

    def _extract(self, modality: str, cwd: Path) -> None:
        """Find the brain in one image, and write what the outputs of its modality name."""
        data, grid = read(getattr(self.inputs, modality))
        mask, record = self._find(data, grid, getattr(self.inputs, f"{modality}_mask"))
        bare = intensity.masked(data, mask)
        image, outline = (cwd / f"{modality}_{name}" for name in ("brain.nii", "mask.nii.gz"))
        self._results[modality] = str(save_image(bare, grid.affine, image, dtype=np.float32))
        self._results[f"{modality}_mask"] = str(
            save_image(mask, grid.affine, outline, dtype=np.uint8)
        )
        self._results[f"{modality}_qc"] = str(write_json(cwd / f"{modality}_brain.json", record))

    def _find(self, data: np.ndarray, grid: Grid, given: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Brain mask on the image's grid, and the record of how it came about."""
        from bids_stroke.models import brain as networks

        stripped = brain.looks_skull_stripped(data, grid.affine)
        options = networks.Options(
            device=self.inputs.device,
            weights=Path(self.inputs.weights) if isdefined(self.inputs.weights) else None,
            folds=self.inputs.folds,
            tta=self.inputs.tta,
        )
        method = networks.resolve_method(
            self.inputs.method,
            has_mask=isdefined(given),
            weights=options.weights,
            skull_stripped=stripped,
        )
        notes: list[str] = []
        if method == "precomputed":
            mask, notes = precomputed_mask(Path(given), grid)
        elif method == "skip":
            mask = brain.nonzero_mask(data)
        else:
            mask = self._network_mask(method, data, grid, options)
        if stripped:
            notes.append("The image was skull-stripped before.")
        ras_mask, ras_affine = geometry.to_ras(mask, grid.affine)
        return mask, {
            "method": method,
            "asked": self.inputs.method,
            **networks.provenance(method, options),
            "volume_ml": round(brain.volume_ml(mask, grid.affine), 1),
            "skull_stripped_input": stripped,
            "notes": notes,
            "flags": brain.brain_flags(ras_mask, ras_affine),
        }

    def _network_mask(self, method: str, data: np.ndarray, grid: Grid, options: Any) -> np.ndarray:
        """Mask by a network, which sees the image in RAS order, brought back exactly."""
        import torch

        from bids_stroke.models import brain as networks

        torch.set_num_threads(self.inputs.num_threads)
        ras, affine = geometry.to_ras(data, grid.affine)
        x, y, z = map(float, voxel_sizes(affine))
        mask = brain.clean_mask(networks.extract(method, ras, (x, y, z), options))
        back = geometry.resample(mask, geometry.Grid(mask.shape, affine), grid, order=0)
        return back.astype(np.uint8)
