"""Images on grids: input check, orientation, resampling, cropping, normalisation."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from bids_stroke.core import geometry, intensity
from bids_stroke.core.conform import conform
from bids_stroke.core.files import load_image, save_image, write_json


def read(path: str) -> tuple[np.ndarray, geometry.Grid]:
    """Voxels as float32 and grid of an image that this program wrote."""
    image = load_image(path)
    return image.get_fdata(dtype=np.float32), geometry.grid_of(image)


class _ConformInput(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="image as it comes from the dataset")


class _ConformOutput(TraitedSpec):
    out_file = File(desc="the same voxels on the same grid, finite float32")
    qc = File(desc="JSON: file, shape, zooms, orientation, dtype, notes")


class ConformImage(SimpleInterface):
    """Check an input image and write it as float32 NIfTI on its own grid (``core.conform``)."""

    input_spec = _ConformInput
    output_spec = _ConformOutput

    def _run_interface(self, runtime: Any) -> Any:
        source, cwd = Path(self.inputs.in_file), Path(runtime.cwd)
        image = conform(source)
        record = {
            "file": source.name,
            "shape": list(image.data.shape),
            "zooms": [round(float(side), 4) for side in nib.affines.voxel_sizes(image.affine)],
            "orientation": "".join(map(str, nib.aff2axcodes(image.affine))),
            "dtype": image.dtype,
            "notes": list(image.notes),
        }
        out = save_image(image.data, image.affine, cwd / "conformed.nii", dtype=np.float32)
        self._results["out_file"] = str(out)
        self._results["qc"] = str(write_json(cwd / "conform.json", record))
        return runtime


class _MaskedInput(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="image")
    in_mask = File(exists=True, desc="brain mask on the same grid")


class _MaskedOutput(TraitedSpec):
    out_file = File(desc="image on the new grid")
    out_mask = File(desc="mask on the new grid, if there was one")


class Reorient(SimpleInterface):
    """Turn an image, and its mask, so that their axes run right, anterior, superior.

    Files in which they do so already are passed on. A whole head is not compressed: of all images
    in the work folder it would take the longest.
    """

    input_spec = _MaskedInput
    output_spec = _MaskedOutput

    def _run_interface(self, runtime: Any) -> Any:
        cwd = Path(runtime.cwd)
        for field, dtype in (("file", np.float32), ("mask", np.uint8)):
            if path := getattr(self.inputs, f"in_{field}"):
                self._results[f"out_{field}"] = path
                if not geometry.is_ras(load_image(path).affine):
                    data, grid = read(path)
                    turned = geometry.to_ras(data, grid.affine)
                    out = save_image(*turned, cwd / f"ras_{field}.nii", dtype=dtype)
                    self._results[f"out_{field}"] = str(out)
        return runtime


class _CropInput(_MaskedInput):
    in_mask = File(exists=True, mandatory=True, desc="brain mask on the same grid")
    box_mask = File(exists=True, mandatory=True, desc="mask whose box is kept, on the same grid")
    margin = traits.Range(
        low=0, value=geometry.BESIDE_BRAIN_VOX, usedefault=True, desc="voxels kept around the box"
    )


class CropToMask(SimpleInterface):
    """Cut an image and its mask to the box around a mask."""

    input_spec = _CropInput
    output_spec = _MaskedOutput

    def _run_interface(self, runtime: Any) -> Any:
        cwd = Path(runtime.cwd)
        box = geometry.bounding_box(read(self.inputs.box_mask)[0], self.inputs.margin)
        for field, dtype in (("file", np.float32), ("mask", np.uint8)):
            data, grid = read(getattr(self.inputs, f"in_{field}"))
            out = save_image(
                *geometry.crop(data, grid.affine, box), cwd / f"cropped_{field}.nii", dtype=dtype
            )
            self._results[f"out_{field}"] = str(out)
        return runtime


class _ToGridInput(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="image or mask to resample")
    reference = File(exists=True, mandatory=True, desc="image that has the wanted grid")
    transform = File(exists=True, desc="ITK transform from the image to the reference")
    in_mask = File(exists=True, desc="mask on the wanted grid: 0 outside it")
    order = traits.Enum(1, 0, 3, usedefault=True, desc="order of the spline; 0 makes a mask")
    kept = traits.Bool(desc="becomes an output of the run, and is compressed")


class _ToGridOutput(TraitedSpec):
    out_file = File(desc="image as float32, or mask as uint8, on the grid of the reference")


class ToGrid(SimpleInterface):
    """Bring an image to another grid; where voxels coincide they are copied exactly."""

    input_spec = _ToGridInput
    output_spec = _ToGridOutput

    def _run_interface(self, runtime: Any) -> Any:
        data, source = read(self.inputs.in_file)
        target = geometry.grid_of(load_image(self.inputs.reference))
        transform, order = self.inputs.transform, self.inputs.order
        mask = read(self.inputs.in_mask)[0] if self.inputs.in_mask else None
        moved = geometry.resample(
            data,
            source,
            target,
            transform=geometry.read_itk_affine(Path(transform)) if transform else None,
            order=order,
            within=mask,
        )
        if mask is not None:
            moved = intensity.masked(moved, mask)
        dtype = np.float32 if order else np.uint8
        name = "moved.nii.gz" if self.inputs.kept else "moved.nii"
        out = save_image(moved, target.affine, Path(runtime.cwd) / name, dtype=dtype)
        self._results["out_file"] = str(out)
        return runtime


class _ZScoreInput(_MaskedInput):
    in_mask = File(exists=True, mandatory=True, desc="brain mask on the same grid")


class _ZScoreOutput(TraitedSpec):
    out_file = File(desc="image of zero mean and unit deviation in the mask, 0 outside")


class ZScore(SimpleInterface):
    """Normalise intensities within the brain."""

    input_spec = _ZScoreInput
    output_spec = _ZScoreOutput

    def _run_interface(self, runtime: Any) -> Any:
        data, grid = read(self.inputs.in_file)
        mask, _ = read(self.inputs.in_mask)
        out = save_image(
            intensity.zscore(data, mask),
            grid.affine,
            Path(runtime.cwd) / "zscored.nii",
            dtype=np.float32,
        )
        self._results["out_file"] = str(out)
        return runtime
