"""Does a large lesion bend the brain on its way to the template? With and without its mask.

A lesion of a real stroke mask (template space) is written as dark tissue into a real scan. The
scan is registered to the template three times: as it is, with the lesion and no mask, with the
lesion left out of the cost function. Printed: by how many mm the mapping of each voxel of the
template differs from that of the scan as it is.

    python benchmarks/mni.py T1W BRAIN_MASK LESION_MASK_IN_MNI
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np

from bids_stroke.core import geometry, normalization, warps
from bids_stroke.interfaces.normalize import register_to_template
from bids_stroke.models.templates import SHIPPED, find_template


def insert(brain: np.ndarray, lesion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image with cavity-like tissue (a fifth of the brain's median, noisy) in the lesion."""
    level = np.median(brain[brain > 0])
    tissue = 0.2 * level + 0.03 * level * rng.standard_normal(brain.shape)
    return np.where((lesion > 0) & (brain > 0), tissue, brain).astype(np.float32)


def field(template, image, usable, folder: Path, name: str):
    """Transforms to and from the template, and the displacement on its grid."""
    start = time.perf_counter()
    forward, inverse = register_to_template(template, image, usable, prefix=folder / name)
    seconds = time.perf_counter() - start
    return warps.displacement(template.grid, warps.read_transform(forward)), inverse, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("t1w", "mask", "lesion"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    template = find_template(SHIPPED)
    scan, mask, stroke = (nib.load(path) for path in (args.t1w, args.mask, args.lesion))
    inside = np.asarray(mask.dataobj) > 0
    brain = scan.get_fdata(dtype=np.float32) * inside
    affine = scan.affine
    everywhere = np.ones(brain.shape, dtype=bool)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clean, inverse, seconds = field(template, (brain, affine), everywhere, folder, "clean_")
        print(f"scan as it is: {seconds:.1f} s", flush=True)
        grid = geometry.grid_of(scan)
        native = warps.warp(
            np.asarray(stroke.dataobj) > 0,
            stroke.affine,
            grid,
            warps.read_transform(inverse),
            order=0,
        )
        volume = native[inside].sum() * geometry.voxel_volume_mm3(affine) / 1000
        print(f"lesion inserted: {volume:.1f} mL", flush=True)
        damaged = insert(brain, native, np.random.default_rng(1))
        in_template = (
            geometry.resample(
                (np.asarray(stroke.dataobj) > 0).astype(np.float32),
                geometry.grid_of(stroke),
                template.grid,
                order=0,
            )
            > 0
        )
        distance = normalization.grown_distance(in_template, template.grid.affine)
        regions = {
            "in the lesion": in_template & template.brain,
            "within 20 mm of it": (distance > 0) & (distance <= 20) & template.brain,
            "rest of the brain": (distance > 20) & template.brain,
        }
        usable = normalization.usable(inside, native, affine)
        for name, allowed in (("no mask", everywhere), ("masked", usable)):
            moved, _, seconds = field(template, (damaged, affine), allowed, folder, f"{name[:2]}_")
            print(f"with the lesion, {name}: {seconds:.1f} s")
            difference = normalization.displacement_difference(moved, clean, regions)
            for region, of in difference.items():
                text = "  ".join(f"{key} {value:.2f}" for key, value in of.items())
                print(f"  {region:20} {text} mm", flush=True)


if __name__ == "__main__":
    main()
