"""Real sessions of thick slices with a synthetic stroke: BIDS datasets for other benchmarks.

    python benchmarks/painted.py SHARED_DATA OUT [--session sub-04_ses-01] [--ml 12]
    python benchmarks/painted.py SHARED_DATA OUT --cohort

The scans are those of ``ms_raw``, with their skull. Lobulated lesions are painted into the T1w,
and through the publisher's transform into the FLAIR at the same place, by the code that painted
the training samples: they serve to compare programs and recipes, and measure no model.

Without ``--cohort`` one session gets one lesion in the right hemisphere (for one_subject.py). With
it the three scans of two people become nine sessions, each with a lesion of 2 to 40 mL somewhere
in the brain (for recipes.py). Reference masks go to ``derivatives/truth``.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from measuring import describe
from numpy.typing import NDArray
from scipy import ndimage

from bids_stroke.core import geometry, synthesis

PLACE_MM = (28.0, -10.0, 15.0)  # right, anterior and superior of the middle of the brain
FINE_MM = 1.0
SCANS = ("sub-01_ses-01", "sub-01_ses-02", "sub-04_ses-01")
STROKES = 3  # sessions made of each scan
COHORT_ML = (2.0, 40.0)
TRUTH = "space-{}_label-L_desc-truth_mask"
DEEP_MM = 8.0  # centres lie this far within the brain
STRENGTH = 0.9


@dataclass(frozen=True)
class Stroke:
    """One lesion: its volume, its centre in RAS+ mm of the T1w, how it looks."""

    ml: float
    centre_mm: NDArray[np.float64]
    stage: synthesis.Stage
    seed: int


@dataclass(frozen=True)
class Look:
    """How a lesion is painted."""

    stage: synthesis.Stage
    seed: int


@dataclass(frozen=True)
class Scan:
    """A session of ``ms_raw``: its images, brain masks and transform."""

    shared: Path
    name: str

    def image(self, suffix: str) -> nib.Nifti1Image:
        """The scan as it is, with its skull."""
        folder = self.shared / "ms_raw" / Path(*self.name.split("_"), "anat")
        return nib.load(folder / f"{self.name}_{suffix}.nii.gz")

    def brain(self, suffix: str) -> nib.Nifti1Image:
        """The publisher's brain mask on that image's grid."""
        return nib.load(f"{self._reference}_space-{suffix}_desc-brain_mask.nii.gz")

    def flair_to_t1w(self) -> NDArray[np.float64]:
        """Points of the FLAIR in the T1w, RAS+ mm: what ITK wants to bring the T1w to the FLAIR."""
        return geometry.read_itk_affine(f"{self._reference}_from-T1w_to-FLAIR_mode-image_xfm.txt")

    @property
    def _reference(self) -> Path:
        return self.shared / "ms_raw_reference" / self.name


def lesion(volume_ml: float, seed: int) -> np.ndarray:
    """Soft lobulated shape of 1 mm voxels in the middle of its array."""
    rng = np.random.default_rng(seed)
    voxels = volume_ml * 1000 / FINE_MM**3
    side = int(np.ceil(2.4 * voxels ** (1 / 3))) + 6
    return ndimage.gaussian_filter(
        synthesis.random_shape((side,) * 3, rng, voxels).astype(np.float32), 0.7
    )


def middle_mm(mask: nib.Nifti1Image) -> np.ndarray:
    """Centre of a brain mask in RAS+ mm."""
    voxels = np.argwhere(np.asarray(mask.dataobj) > 0).mean(axis=0)
    return nib.affines.apply_affine(mask.affine, voxels)


def somewhere_mm(mask: nib.Nifti1Image, rng: np.random.Generator) -> np.ndarray:
    """A place well within a brain mask, in RAS+ mm."""
    brain = np.asarray(mask.dataobj) > 0
    depth = ndimage.distance_transform_edt(brain, mask.header.get_zooms()[:3])
    return nib.affines.apply_affine(mask.affine, rng.choice(np.argwhere(depth > DEEP_MM)))


def drawn(mask: nib.Nifti1Image, seed: int) -> Stroke:
    """A stroke of the cohort; stages take turns."""
    rng = np.random.default_rng(seed)
    return Stroke(
        ml=float(np.exp(rng.uniform(*np.log(COHORT_ML)))),
        centre_mm=somewhere_mm(mask, rng),
        stage=synthesis.STAGES[seed % 2],
        seed=seed,
    )


def paint(scan: Scan, stroke: Stroke, out: Path, name: str) -> None:
    """Write a session called ``name`` (sub-..._ses-...): a scan with a stroke, and its masks."""
    shape = lesion(stroke.ml, stroke.seed)
    place = np.diag([FINE_MM] * 3 + [1.0])
    place[:3, 3] = stroke.centre_mm - FINE_MM * (np.array(shape.shape) - 1) / 2
    ways = {"T1w": np.eye(4), "FLAIR": scan.flair_to_t1w()}
    for suffix, world in ways.items():
        image = scan.image(suffix)
        grid = geometry.grid_of(image)
        brain = np.asarray(scan.brain(suffix).dataobj) > 0
        source = geometry.Grid(shape.shape, place)
        soft = np.clip(geometry.resample(shape, source, grid, transform=world), 0, 1) * brain
        look = Look(stroke.stage, stroke.seed + 1)
        save(with_stroke(image, suffix, soft, brain, look), image, out, name, suffix)
        truth = (soft >= 0.5).astype(np.uint8)
        save(truth, image, out / "derivatives" / "truth", name, TRUTH.format(suffix))
        ml = float(truth.sum()) * geometry.voxel_volume_mm3(grid.affine) / 1000
        print(f"{name} {suffix}: {ml:.2f} mL, {stroke.stage}")


def with_stroke(
    image: nib.Nifti1Image, suffix: str, soft: NDArray, brain: NDArray[np.bool_], look: Look
) -> NDArray:
    """Voxels of an image with a stroke painted where ``soft`` is, in the image's own type."""
    found = synthesis.paint(
        {suffix: image.get_fdata(dtype=np.float32)},
        soft,
        np.random.default_rng(look.seed),
        stage=look.stage,
        brain=brain,
        strength=STRENGTH,
    )[suffix]
    return np.clip(np.rint(found), 0, None).astype(image.get_data_dtype())


def save(array: NDArray, like: nib.Nifti1Image, root: Path, name: str, end: str) -> None:
    """Write an array on the grid of an image, where BIDS wants it."""
    folder = root / Path(*name.split("_"), "anat")
    folder.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, like.affine, like.header, dtype=array.dtype)
    nib.save(image, folder / f"{name}_{end}.nii.gz")


def dataset(out: Path) -> None:
    """What makes the folders BIDS datasets."""
    describe(out)
    truth = out / "derivatives" / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    facts = {
        "Name": "Masks of the painted lesions",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "benchmarks/painted.py"}],
    }
    (truth / "dataset_description.json").write_text(json.dumps(facts), encoding="utf-8")


def one(shared: Path, out: Path, session: str, volume_ml: float) -> None:
    """One session with one sub-acute stroke in the right hemisphere."""
    scan = Scan(shared, session)
    centre = middle_mm(scan.brain("T1w")) + PLACE_MM
    paint(scan, Stroke(volume_ml, centre, "subacute", seed=7), out, session)


def cohort(shared: Path, out: Path) -> None:
    """Nine sessions of two people; sessions of a person are numbered through."""
    made: dict[str, int] = {}
    for number, scan in enumerate(Scan(shared, name) for name in SCANS):
        subject = scan.name.split("_")[0]
        for seed in range(100 + 10 * number, 100 + 10 * number + STROKES):
            made[subject] = made.get(subject, 0) + 1
            stroke = drawn(scan.brain("T1w"), seed)
            paint(scan, stroke, out, f"{subject}_ses-{made[subject]:02d}")


def main() -> int:
    """Read the command line and write the dataset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--session", default="sub-04_ses-01")
    parser.add_argument("--ml", type=float, default=12.0)
    parser.add_argument("--cohort", action="store_true", help="nine sessions of two people")
    asked = parser.parse_args()
    dataset(asked.out)
    if asked.cohort:
        cohort(asked.shared, asked.out)
    else:
        one(asked.shared, asked.out, asked.session, asked.ml)
    return 0


if __name__ == "__main__":
    sys.exit(main())
