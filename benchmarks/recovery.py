"""What the program finds of the lesions that bidsgate put into real scans.

    python benchmarks/recovery.py SHARED_DATA OUT [--draws 3] [--viewers FOLDER]

bidsgate is a package of others, made to test segmenters: it puts twelve ellipsoids of 30 to
1,500 mm3 into the white matter of a T1w and a FLAIR on its grid, and scores the masks that a
program makes of them. By its scores a lesion is found when one voxel of it is marked, and all that
is marked farther than 2 mm from any lesion is false. Its authors publish what LST-AI finds so on
six healthy people (64 of 72, mean Dice .82).

The scans are both sessions of sub-01 of ``ms_raw``, which no training saw, with their skull and
slices of 3 mm, the FLAIR on the T1w's grid; with ``--viewers`` (the folder of embedded/viewers.py)
a healthy head with a T1w of 1 mm as well. **Synthetic lesions**, and the person with multiple
sclerosis has lesions of her own, which count as false.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import nibabel as nib
import numpy as np
from bidsgate.score import score_lesions
from measuring import bids_stroke, describe, finish, print_table, run_python
from painted import Scan

from bids_stroke.core import geometry

SCANS = ("sub-01_ses-01", "sub-01_ses-02")
HEADS = ("brainbrowser_ses-2",)  # of the first session bidsgate takes 2.4 L for brain
INPUTS = (("T1w", "FLAIR"), ("T1w",), ("FLAIR",))
MASK = "{name}_space-{space}_label-L_desc-stroke_mask.nii.gz"
Images = Mapping[str, nib.Nifti1Image]


@dataclass(frozen=True)
class Cohort:
    """Scans into which lesions are put, and the sets of inputs that they are segmented by."""

    name: str
    scans: Mapping[str, Images]
    inputs: Sequence[tuple[str, ...]]


def on_t1w(scan: Scan) -> Images:
    """Both images on the T1w's grid; FLAIR's voxels by cubic splines, the publisher's transform."""
    t1w, flair = scan.image("T1w"), scan.image("FLAIR")
    moved = geometry.resample(
        flair.get_fdata(dtype=np.float32),
        geometry.grid_of(flair),
        geometry.grid_of(t1w),
        transform=np.linalg.inv(scan.flair_to_t1w()),
    )
    return {"T1w": t1w, "FLAIR": nib.Nifti1Image(moved, t1w.affine, t1w.header, dtype=np.float32)}


def cohorts(shared: Path, viewers: Path | None) -> Iterator[Cohort]:
    """Thick slices with a FLAIR, and healthy heads without."""
    yield Cohort("thick", {name: on_t1w(Scan(shared, name)) for name in SCANS}, INPUTS)
    if viewers is not None:
        heads = {
            f"sub-{name.replace('_ses-', '')}": {"T1w": nib.load(viewers / f"{name}_T1w.nii.gz")}
            for name in HEADS
        }
        yield Cohort("heads", heads, [("T1w",)])


def write(cohort: Cohort, out: Path, draws: int) -> Path:
    """Raw dataset of a cohort, each scan once for each draw: bidsgate seeds by names."""
    describe(out)
    for name, images in cohort.scans.items():
        subject, _, session = name.partition("_ses-")
        for draw in range(draws):
            label = f"{subject}_ses-{session}draw{draw}"
            for suffix, image in images.items():
                path = image_path(out, label, suffix)
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(image, path)
    return out


def image_path(root: Path, name: str, suffix: str) -> Path:
    """Where BIDS wants an image."""
    return root / Path(*name.split("_"), "anat") / f"{name}_{suffix}.nii.gz"


def inject(scans: Path, out: Path) -> Path:
    """bidsgate's dataset of the scans with lesions, and their truth.

    Raises RuntimeError when it passes over a scan.
    """
    print(run_python(["-m", "bidsgate.cli", "inject-lesions", scans, "--out", out]), end="")
    given, made = (len(list(root.glob("sub-*/**/*_T1w.nii.gz"))) for root in (scans, out))
    if made < given:
        raise RuntimeError(f"bidsgate took {made} of {given} scans.")
    return out


def only(dataset: Path, suffixes: Sequence[str], out: Path) -> Path:
    """A dataset with the images of some suffixes of another."""
    describe(out)
    for suffix in suffixes:
        for file in sorted(dataset.glob(f"sub-*/**/*_{suffix}.nii.gz")):
            copy = out / file.relative_to(dataset)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    return out


def scores(truth: Path, results: Path, space: str) -> Iterator[dict[str, Any]]:
    """bidsgate's scores of each session."""
    for facts in sorted(truth.glob("sub-*/**/*_desc-lesion_truth.json")):
        name = facts.name.removesuffix("_desc-lesion_truth.json")
        mask = facts.with_name(f"{name}_desc-lesionTruth_mask.nii.gz")
        found = results / facts.parent.relative_to(truth) / MASK.format(name=name, space=space)
        yield score_lesions(facts, mask, found)


def summary(cohort: str, inputs: Sequence[str], found: Sequence[Mapping[str, Any]]) -> dict:
    """One row: lesions found, in all and by size in mm3, and means of the sessions."""
    lesions = [lesion for session in found for lesion in session["per_lesion"]]
    sizes = {"<100": (0, 100), "100-500": (100, 500), ">500": (500, np.inf)}

    def share(low: float, high: float) -> str:
        detected = [one["detected"] for one in lesions if low <= one["volume_mm3"] < high]
        return f"{sum(detected)} of {len(detected)}"

    return {
        "scans": cohort,
        "inputs": " + ".join(inputs),
        "found": share(0, np.inf),
        **{f"{name} mm3": share(*limits) for name, limits in sizes.items()},
        "Dice": round(mean(float(one["dice"]) for one in found), 3),
        "volume ratio": round(mean(one["volume_ratio"] for one in found), 2),
        "false parts": round(mean(one["false_positive_components"] for one in found), 1),
        "false mL": round(mean(one["false_positive_volume_mm3"] for one in found) / 1000, 2),
    }


def main() -> int:
    """Read the command line, write the datasets, run the program, print the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--draws", type=int, default=3, help="times that each scan gets lesions")
    parser.add_argument("--viewers", type=Path, help="folder of embedded/viewers.py")
    parser.add_argument("--model", nargs="+", default=["auto"])
    parser.add_argument("--quick", action="store_true", help="one scan, one draw, T1w + FLAIR")
    asked = parser.parse_args()
    rows = []
    for cohort in cohorts(asked.shared, asked.viewers):
        if asked.quick:
            name, images = next(iter(cohort.scans.items()))
            cohort = Cohort(cohort.name, {name: images}, cohort.inputs[:1])
        folder = asked.out / cohort.name
        scans = write(cohort, folder / "scans", 1 if asked.quick else asked.draws)
        truth = inject(scans, folder / "lesions")
        for inputs in cohort.inputs:
            kind = "".join(inputs)
            given = truth if kind == "T1wFLAIR" else only(truth, inputs, folder / f"in-{kind}")
            results = folder / f"out-{kind}"
            flags = ["-w", folder / f"work-{kind}", "--model", *asked.model]
            bids_stroke([given, results, "participant", *flags])
            found = list(scores(truth, results, inputs[0]))
            rows.append(summary(cohort.name, inputs, found))
    print_table(rows)
    finish({"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
