"""A real session of thick slices with a synthetic stroke: a BIDS dataset for one_subject.py.

    python benchmarks/painted.py SHARED_DATA OUT [--session sub-04_ses-01] [--ml 12]

The scans are those of ``ms_raw``, with their skull. One lobulated lesion is painted into the right
hemisphere of the T1w, and through the publisher's transform into the FLAIR at the same place, by
the code that painted the training samples: it serves to compare programs, and measures no model.
"""

import argparse
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from measuring import describe
from scipy import ndimage

from bids_stroke.core import geometry, synthesis

PLACE_MM = (28.0, -10.0, 15.0)  # right, anterior and superior of the middle of the brain
FINE_MM = 1.0


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


def paint(shared: Path, out: Path, session: str, volume_ml: float) -> Path:
    """Write the dataset and return its folder."""
    folder = Path(*session.split("_"), "anat")
    reference = shared / "ms_raw_reference"
    masks = {
        name: nib.load(reference / f"{session}_space-{name}_desc-brain_mask.nii.gz")
        for name in ("T1w", "FLAIR")
    }
    to_flair = geometry.read_itk_affine(
        reference / f"{session}_from-T1w_to-FLAIR_mode-image_xfm.txt"
    )
    shape = lesion(volume_ml, seed=7)
    place = np.diag([FINE_MM] * 3 + [1.0])
    half = FINE_MM * (np.array(shape.shape) - 1) / 2
    place[:3, 3] = middle_mm(masks["T1w"]) + PLACE_MM - half
    describe(out)
    (out / folder).mkdir(parents=True, exist_ok=True)
    for name, world in (("T1w", np.eye(4)), ("FLAIR", np.linalg.inv(to_flair))):
        image = nib.load(shared / "ms_raw" / folder / f"{session}_{name}.nii.gz")
        grid = geometry.grid_of(image)
        brain = np.asarray(masks[name].dataobj) > 0
        source = geometry.Grid(shape.shape, place)
        soft = np.clip(geometry.resample(shape, source, grid, transform=world), 0, 1) * brain
        painted = synthesis.paint(
            {name: image.get_fdata(dtype=np.float32)},
            soft,
            np.random.default_rng(8),
            stage="subacute",
            brain=brain,
            strength=0.9,
        )[name]
        clipped = np.clip(np.rint(painted), 0, None).astype(np.float32)
        path = out / folder / f"{session}_{name}.nii.gz"
        nib.save(nib.Nifti1Image(clipped, image.affine, image.header), path)
        print(
            name,
            round(float((soft >= 0.5).sum()) * geometry.voxel_volume_mm3(grid.affine) / 1000, 2),
            "mL",
        )
    return out


def main() -> int:
    """Read the command line and write the dataset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--session", default="sub-04_ses-01")
    parser.add_argument("--ml", type=float, default=12.0)
    asked = parser.parse_args()
    paint(asked.shared, asked.out, asked.session, asked.ml)
    return 0


if __name__ == "__main__":
    sys.exit(main())
