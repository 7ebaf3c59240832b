"""One session from its images to masks: ours against the tools, one after the other, by hand.

    python benchmarks/one_subject.py [--quick] [--bids DIR ...] [--repeats N] [--bf16] [--full-size]

``--bids`` names datasets of one session each with a T1w and a FLAIR; without it, and with
``--quick``, the session is a synthetic head of ``bids_stroke-demo`` with known lesions. The other
side is what a user would chain, each step in a process: deepbet, ANTsPy's N4 and rigid registration
by their defaults, z-scores, ``nnUNetv2_predict_from_modelfolder``, threshold and small components,
and the mask brought to the FLAIR. Weights, N4's levels and its box (the brain and two voxels around
it), threshold and least volume are the same.
``--bf16`` adds a third runner, ours with ``--precision bf16``; ``--full-size`` takes nnU-Net's
full-size network with seeded random weights in place of the embedded model, for its time: its masks
mean nothing. Clock and processor time stand side by side, because only the latter is steady on a
shared machine. The last line is one JSON object.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from measuring import (
    bids_stroke,
    demonstration,
    describe,
    dice,
    finish,
    overlap,
    print_table,
    run_python,
    taking_turns,
)

from bids_stroke import data
from bids_stroke.models import descriptor

MODEL = data.path("models/embedded.toml")
TOOLS = "tools in sequence"

EXTRACT = """
import sys
from deepbet import run_bet
run_bet([sys.argv[1]], [sys.argv[2]], [sys.argv[3]], no_gpu=True)
"""
N4 = """
import sys, ants
image, mask = ants.image_read(sys.argv[1]), ants.image_read(sys.argv[2])
steps = {"iters": [50] * int(sys.argv[4]), "tol": 1e-7}
box = ants.iMath(mask, "MD", 2)
part, inside = ants.crop_image(image, box), ants.crop_image(mask, box)
flat = ants.n4_bias_field_correction(part, mask=inside, convergence=steps)
ants.image_write(ants.decrop_image(flat, image) * mask, sys.argv[3])
"""
REGISTER = """
import sys, shutil, ants
fixed, moving = ants.image_read(sys.argv[1]), ants.image_read(sys.argv[2])
found = ants.registration(fixed, moving, "Rigid", outprefix=sys.argv[4])
ants.image_write(found["warpedmovout"], sys.argv[3])
shutil.copyfile(found["fwdtransforms"][0], sys.argv[5])
"""
SCALE = """
import sys, ants
image, mask = ants.image_read(sys.argv[1]), ants.image_read(sys.argv[2])
values, inside = image.numpy(), mask.numpy() > 0
values = (values - values[inside].mean()) / values[inside].std() * inside
ants.image_write(ants.reorient_image2(image.new_image_like(values), "LPI"), sys.argv[3])
"""
PREDICT = """
import sys
from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder
predict_entry_point_modelfolder()
"""
CUT = """
import sys, ants, nibabel, numpy
from scipy import ndimage
like = nibabel.load(sys.argv[1])
probability = numpy.load(sys.argv[2])["probabilities"][1].T
labels, count = ndimage.label(probability >= float(sys.argv[6]), numpy.ones((3, 3, 3)))
volumes = numpy.bincount(labels.ravel()) * abs(numpy.linalg.det(like.affine[:3, :3]))
mask = numpy.isin(labels, numpy.flatnonzero(volumes >= float(sys.argv[7]))) & (labels > 0)
nibabel.save(nibabel.Nifti1Image(mask.astype(numpy.uint8), like.affine), sys.argv[3])
flair = ants.image_read(sys.argv[4])
moved = ants.apply_transforms(flair, ants.image_read(sys.argv[3]), [sys.argv[5]],
    interpolator="nearestNeighbor", whichtoinvert=[True])
ants.image_write(moved, sys.argv[8])
"""


def full_size(folder: Path) -> Path:
    """Descriptor of nnU-Net's full-size network; of random weights that mark some mL."""
    from predict import CASES, seeded_model

    return seeded_model(CASES["full size"], folder, marked=0.01)


def chained(t1w: Path, flair: Path, folder: Path, model: Path) -> Path:
    """Run the tools one after the other; returns the mask on the grid of the T1w."""
    folder.mkdir(parents=True, exist_ok=True)
    network, found, asked = folder / "network", folder / "found", descriptor.load(model)
    network.mkdir(exist_ok=True)
    for name, image in (("t1w", t1w), ("flair", flair)):
        brain, mask = folder / f"{name}_brain.nii.gz", folder / f"{name}_mask.nii.gz"
        run_python(["-c", EXTRACT, image, brain, mask])
        levels = str(asked.preprocessing.n4_levels)
        run_python(["-c", N4, brain, mask, folder / f"{name}_n4.nii.gz", levels])
    moved, matrix = folder / "moved.nii.gz", folder / "matrix.mat"
    run_python(
        ["-c", REGISTER, folder / "t1w_n4.nii.gz", folder / "flair_n4.nii.gz", moved]
        + [folder / "rigid_", matrix]
    )
    mask = folder / "t1w_mask.nii.gz"
    for channel, image in enumerate((folder / "t1w_n4.nii.gz", moved)):
        run_python(["-c", SCALE, image, mask, network / f"case_{channel:04d}.nii.gz"])
    run_python(
        ["-c", PREDICT, "-i", network, "-o", found, "-m", model.with_name("embedded")]
        + ["-f", "0", "-device", "cpu", "-step_size", str(asked.inference.step_size)]
        + ["--disable_tta", "--save_probabilities", "-npp", "1", "-nps", "1"]
    )
    result, point = folder / "lesions_t1w.nii.gz", asked.operating_point
    run_python(
        ["-c", CUT, network / "case_0000.nii.gz", found / "case.npz", result, flair, matrix]
        + [str(point.threshold), str(point.min_volume_mm3), folder / "lesions_flair.nii.gz"]
    )
    return result


def ours(bids: Path, folder: Path, model: Path, precision: str) -> None:
    """Run our program without anything kept from a run before."""
    bids_stroke(
        [bids, folder / "out", "participant", "-w", folder / "work", "--clean-workdir"]
        + ["--model", model, "--precision", precision, "--skip-bids-validation"]
        + ["--nprocs", "2"]
    )


def synthetic(root: Path, *flags: str) -> Path:
    """A dataset of one session: a synthetic head, a small one with ``--tiny``."""
    demonstration(root / "all", *flags)
    describe(root / "one")
    shutil.copytree(root / "all" / "sub-02", root / "one" / "sub-02")
    return root / "one"


def compare(
    bids: Path, folder: Path, repeats: int, model: Path, precisions: Sequence[str]
) -> dict[str, Any]:
    """Costs of both sides, their ratios, and how equal the masks are to those of the tools."""
    (t1w,), (flair,) = (sorted(bids.rglob(f"sub-*_{s}.nii.gz")) for s in ("T1w", "FLAIR"))
    runners = {TOOLS: partial(chained, t1w, flair, folder / "tools", model)}
    for precision in precisions:
        where = folder / precision
        runners[f"ours, {precision}"] = partial(ours, bids, where, model, precision)
    costs = taking_turns(runners, repeats)
    print(f"\n## {bids.name}\n")
    first = costs[TOOLS]
    rows = [
        {
            "runner": name,
            **cost,
            "ratio of clock": round(first["wall_s"] / cost["wall_s"], 2),
            "ratio of processor time": round(first["cpu_s"] / cost["cpu_s"], 2),
        }
        for name, cost in costs.items()
    ]
    print_table(rows)
    equal = {**_agreement(folder, precisions), "same_inputs": _same_inputs(folder, model)}
    print(f"\nDice to the tools' mask on the T1w's grid: {equal['dice']}, voxels {equal['voxels']}")
    print(f"Our network on the images that the tools gave theirs: {equal['same_inputs']}")
    return {"runners": rows, **equal}


def _agreement(folder: Path, precisions: Sequence[str]) -> dict[str, Any]:
    """Voxels of all masks, and the Dice of ours to that of the tools, with axes in one order."""
    masks = {TOOLS: folder / "tools" / "lesions_t1w.nii.gz"}
    for precision in precisions:
        (masks[precision],) = (folder / precision / "out").rglob(
            "*_space-T1w_label-L_desc-stroke_mask.nii.gz"
        )
    voxels = {}
    for name, path in masks.items():
        image = nib.as_closest_canonical(nib.load(path))
        masks[name] = folder / f"turned_{name}.nii.gz"
        nib.save(image, masks[name])
        voxels[name] = int(np.count_nonzero(image.dataobj))
    return {"dice": {p: dice(masks[p], masks[TOOLS]) for p in precisions}, "voxels": voxels}


def _same_inputs(folder: Path, model: Path) -> dict[str, float]:
    """Our prediction from the images that the tools made: what is left is the network's part."""
    from bids_stroke.models import predictor

    asked, tools = descriptor.load(model), folder / "tools"
    files = [tools / "network" / f"case_{n:04d}.nii.gz" for n in range(len(asked.channels))]
    theirs = np.load(tools / "found" / "case.npz")["probabilities"][1].T
    images = [nib.load(file) for file in files]
    stock = nib.Nifti1Image(theirs.astype(np.float32), images[0].affine)
    *arrays, stock = (
        nib.as_closest_canonical(image).get_fdata(dtype=np.float32) for image in (*images, stock)
    )
    spacing = nib.as_closest_canonical(images[0]).header.get_zooms()[:3]
    channels = dict(zip(asked.channels, arrays, strict=True))
    found = predictor.predict(predictor.load(asked), channels, spacing)
    one, other = (probability >= asked.operating_point.threshold for probability in (found, stock))
    return {
        "dice": overlap(one, other),
        "max_abs_difference": float(np.abs(found - stock).max()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a synthetic head, once")
    parser.add_argument("--bids", type=Path, nargs="+", default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="run ours in bf16 as well")
    parser.add_argument("--full-size", action="store_true", help="a network of 31 M parameters")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets = [] if asked.quick else asked.bids
        sessions = [path.resolve() for path in datasets] or [synthetic(folder / "head")]
        repeats = 1 if asked.quick else asked.repeats
        model = full_size(folder / "model") if asked.full_size else MODEL
        precisions = ["fp32", "bf16"] if asked.bf16 else ["fp32"]
        cases = {
            bids.name: compare(bids, folder / f"case_{number}", repeats, model, precisions)
            for number, bids in enumerate(sessions)
        }
    finish({"cases": cases})
    return 0


if __name__ == "__main__":
    sys.exit(main())
