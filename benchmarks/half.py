"""What half precision changes on real scans: embedded models in fp16, as a GPU has it, and bf16.

    python benchmarks/half.py SHARED [--quick]

A GPU multiplies in fp16, sums in fp32 and keeps what comes out in fp16. Here that is computed on a
CPU: what goes into and comes out of every layer is rounded to fp16, all between is fp32, and the
weights are stored in fp16 already. bf16 is OpenVINO's, where the processor has it. Both are
compared with torch in fp32 within the brain: patient26 (T1w + FLAIR, and each alone) and every
session of ``ms_raw`` (each image alone on its own grid, with the publisher's brain mask; not with
``--quick``), each by the model that is the default for it. The last line is one JSON object.
"""

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from measuring import finish, print_table
from numpy.typing import NDArray
from torch import nn

from bids_stroke.core.intensity import zscore
from bids_stroke.core.metrics import voxelwise
from bids_stroke.core.processes import reuse_memory
from bids_stroke.models import descriptor, executors, predictor
from bids_stroke.models.torchvision_shim import ensure_torchvision

MODALITIES = ("T1w", "FLAIR")
Volume = NDArray[np.float32]
Scan = tuple[str, dict[str, Volume], NDArray[np.bool_], tuple[float, ...]]


def _halved(value: Any) -> Any:
    """Tensors rounded to fp16, as fp32; everything else as it is."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.half().float()
    if isinstance(value, tuple | list):
        return type(value)(_halved(one) for one in value)
    return value


def round_to_half(network: nn.Module) -> None:
    """Round what passes between the layers of a network to fp16, in place."""
    for layer in network.modules():
        if not any(layer.children()):
            layer.register_forward_pre_hook(lambda _, given: _halved(given))
            layer.register_forward_hook(lambda _, given, made: _halved(made))


def _read(path: Path) -> tuple[Volume, tuple[float, ...]]:
    image = nib.as_closest_canonical(nib.load(path))
    return image.get_fdata(dtype=np.float32), tuple(map(float, image.header.get_zooms()[:3]))


def patient(shared: Path) -> list[Scan]:
    """Name, z-scored channels, brain and voxel sides of patient26: both images, and each alone."""
    images = {m: _read(shared / "ms_mni" / f"patient26_{m}.nii.gz") for m in MODALITIES}
    brain, zooms = images["T1w"][0] != 0, images["T1w"][1]
    channels = {name: zscore(image, brain) for name, (image, _) in images.items()}
    alone = [(f"patient26 {m}", {m: channels[m]}, brain, zooms) for m in MODALITIES]
    return [("patient26 T1w+FLAIR", channels, brain, zooms), *alone]


def sessions(shared: Path) -> list[Scan]:
    """The same of each image of ``ms_raw`` alone."""
    found: list[Scan] = []
    for path in sorted((shared / "ms_raw").glob("sub-*/ses-*/anat/*.nii.gz")):
        stem, _, name = path.name.removesuffix(".nii.gz").rpartition("_")
        image, zooms = _read(path)
        mask = shared / "ms_raw_reference" / f"{stem}_space-{name}_desc-brain_mask.nii.gz"
        brain = _read(mask)[0] > 0.5
        found.append((f"{stem} {name}", {name: zscore(image, brain)}, brain, zooms))
    return found


@cache
def predictors(name: str) -> dict[str, predictor.Predictor]:
    """A model exactly, in fp16 as on a GPU, and in bf16 where it can be had."""
    ensure_torchvision()
    model = descriptor.find(name)
    found = {name: predictor.load(model, exact=True) for name in ("fp32", "fp16")}
    round_to_half(found["fp16"].network)
    if executors.has_openvino() and executors.can_bf16():
        found["bf16"] = predictor.load(model, precision="bf16")
    return found


def compare(scan: Scan) -> list[dict[str, Any]]:
    """A row for each half precision: largest difference, Dice of the masks, voxels of both."""
    name, channels, brain, zooms = scan
    model, _ = descriptor.choose("auto", tuple(channels))
    threshold = model.operating_point.threshold
    maps = {
        key: predictor.predict(one, channels, zooms) for key, one in predictors(model.name).items()
    }
    exact = maps.pop("fp32")
    mask = (exact >= threshold) & brain
    rows = []
    for key, found in maps.items():
        other = (found >= threshold) & brain
        difference = float(np.abs(found - exact)[brain].max())
        rows.append(
            {
                "scan": name,
                "model": model.name,
                "precision": key,
                "max_abs_difference": round(difference, 5),
                "dice": round(voxelwise(mask, other)["dice"], 5),
                "voxels": f"{int(mask.sum())} and {int(other.sum())}",
            }
        )
    return rows


def main() -> None:
    """Print a table of all real scans, and the worst of each precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="folder of the shared data")
    parser.add_argument("--quick", action="store_true", help="patient26 only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scans = patient(arguments.shared) + ([] if arguments.quick else sessions(arguments.shared))
    rows = [row for scan in scans for row in compare(scan)]
    print_table(rows)
    worst = {
        key: {
            "max_abs_difference": max(
                r["max_abs_difference"] for r in rows if r["precision"] == key
            ),
            "least_dice": min(r["dice"] for r in rows if r["precision"] == key),
        }
        for key in dict.fromkeys(row["precision"] for row in rows)
    }
    finish(worst)


if __name__ == "__main__":
    reuse_memory()
    main()
