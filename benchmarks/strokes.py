"""Large strokes in whole heads: what the program makes of them, from the scans to its masks.

    python benchmarks/strokes.py SPLIT SCANS CASES OUT [--count 4] [--model MODEL ...]

The cases of embedded/insert.py are brains that were found before a lesion was put into them, and
are scored on the T1w's grid. Here real shapes of 20 to 250 mL lie in scans with their skull and
their bias field, so that brain extraction, N4 and registration have to do with them, and masks are
scored on each image's own grid. ``SPLIT`` and ``SCANS`` are those of insert.py (scans without their
skull are left out), whose folder ``CASES`` holds the shapes and the way from the template to each
scan. Lesions are painted by the code that made the training samples: **synthetic**.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import nibabel as nib
import numpy as np
import painted
from measuring import bids_stroke, finish, overlap, print_table
from numpy.typing import NDArray

from bids_stroke.core import geometry, synthesis
from bids_stroke.models.sampling import Shape, load_shapes

sys.path.append(str(Path(__file__).with_name("embedded")))
import insert
import prepare
import viewers

LARGE_ML = (20.0, 250.0)
STRIPPED = ("patient26", "medimg")
SPACES = {"T1w": "", "FLAIR": "_space-FLAIR"}  # as the names of brain masks have it


@dataclass(frozen=True, eq=False)
class View:
    """One image of a scan, its brain, and the matrix that takes its points to the template's."""

    image: nib.Nifti1Image
    brain: NDArray[np.bool_]
    to_template: NDArray[np.float64]


def views(name: str, scans: Path, cases: Path) -> dict[str, View]:
    """Images of a scan by suffix; brains are the publisher's, or deepbet's before the stroke."""
    way = geometry.read_itk_affine(cases / f"{name}_0GenericAffine.mat")
    if name in viewers.SOURCES:
        image = nib.load(insert.source(name, scans))
        turned = nib.as_closest_canonical(image)
        found = prepare.brain_of(np.asarray(turned.dataobj, np.float32), turned.affine)
        grids = geometry.grid_of(turned), geometry.grid_of(image)
        brain = geometry.resample(found.astype(np.float32), *grids, order=0) > 0
        return {"T1w": View(image, brain, way)}
    scan = painted.Scan(scans, name)
    worlds = {"T1w": np.eye(4), "FLAIR": scan.flair_to_t1w()}
    brains = {suffix: np.asarray(scan.brain(suffix).dataobj) > 0 for suffix in worlds}
    return {s: View(scan.image(s), brains[s], way @ world) for s, world in worlds.items()}


def chosen(cases: Path, split: insert.Split, count: int) -> Iterator[tuple[str, list[Shape]]]:
    """Random large shapes for each scan that has a skull, no shape twice.

    Raises SystemExit when there are too few.
    """
    rng = np.random.default_rng(split.seed)
    low, high = LARGE_ML
    shapes = [s for s in load_shapes(cases / "lesions.npz", split.shapes) if low <= s.ml <= high]
    heads = [name for name in split.scans if name not in STRIPPED]
    if count * len(heads) > len(shapes):
        raise SystemExit(f"There are {len(shapes)} large shapes: ask for less by --count.")
    order = rng.permutation(len(shapes))[: count * len(heads)].reshape(len(heads), count)
    for name, picked in zip(heads, order, strict=True):
        yield name, [shapes[i] for i in picked]


def write(
    name: str, seen: Mapping[str, View], shape: Shape, look: painted.Look, cases: Path, out: Path
) -> None:
    """One session: the scan with a stroke in it, and its reference masks."""
    grid = prepare.load_grid(cases)
    whole = insert.placed(shape, grid)
    for suffix, view in seen.items():
        target = geometry.grid_of(view.image)
        moved = geometry.resample(whole, grid, target, transform=view.to_template)
        soft = np.clip(moved, 0, 1) * view.brain
        image = painted.with_stroke(view.image, suffix, soft, view.brain, look)
        painted.save(image, view.image, out, name, suffix)
        truth = (soft >= 0.5).astype(np.uint8)
        end = painted.TRUTH.format(suffix)
        painted.save(truth, view.image, out / "derivatives" / "truth", name, end)


def scores(name: str, bids: Path, results: Path) -> Iterator[dict[str, Any]]:
    """One row for each image of a session, on its own grid."""
    folder = Path(*name.split("_"), "anat")
    for suffix, space in SPACES.items():
        end = painted.TRUTH.format(suffix)
        reference = bids / "derivatives" / "truth" / folder / f"{name}_{end}.nii.gz"
        if not reference.is_file():
            continue
        truth, ml = _mask(reference)
        brain, _ = _mask(results / folder / f"{name}{space}_desc-brain_mask.nii.gz")
        stem = f"{name}_space-{suffix}_label-L_desc-stroke"
        marked, _ = _mask(results / folder / f"{stem}_mask.nii.gz")
        yield {
            "session": name,
            "grid": suffix,
            "mL": round(truth.sum() * ml, 1),
            "marked mL": round(marked.sum() * ml, 1),
            "Dice": round(overlap(marked, truth), 3),
            "in the brain mask": round((truth & brain).sum() / truth.sum(), 3),
        }


def _mask(path: Path) -> tuple[NDArray[np.bool_], float]:
    """A mask, and the volume of its voxels in mL."""
    image = nib.load(path)
    return np.asarray(image.dataobj) > 0, geometry.voxel_volume_mm3(image.affine) / 1000


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the sessions of a grid, the worst of them, and the volume of all."""
    marked, true = (sum(row[key] for row in rows) for key in ("marked mL", "mL"))
    return {
        "strokes": len(rows),
        "Dice": round(mean(row["Dice"] for row in rows), 3),
        "lowest Dice": min(row["Dice"] for row in rows),
        "marked of their volume": round(marked / true, 3),
        "least in the brain mask": min(row["in the brain mask"] for row in rows),
    }


def main() -> int:
    """Read the command line, write the sessions, run the program, print the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", choices=sorted(insert.SPLITS))
    parser.add_argument("scans", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=4, help="strokes a scan")
    parser.add_argument("--model", nargs="+", default=["auto"])
    asked = parser.parse_args()
    bids, results, names = asked.out / "bids", asked.out / "results", []
    painted.dataset(bids)
    for scan, shapes in chosen(asked.cases, insert.SPLITS[asked.split], asked.count):
        seen = views(scan, asked.scans, asked.cases)
        for number, shape in enumerate(shapes):
            name = f"{scan if scan.startswith('sub-') else 'sub-' + scan}x{number}"
            look = painted.Look(synthesis.STAGES[number % 2], seed=number)
            write(name, seen, shape, look, asked.cases, bids)
            names.append(name)
    bids_stroke([bids, results, "participant", "-w", asked.out / "work", "--model", *asked.model])
    rows = [row for name in names for row in scores(name, bids, results)]
    print_table(rows)
    grids = {s: [row for row in rows if row["grid"] == s] for s in SPACES}
    finish({grid: summary(found) for grid, found in grids.items() if found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
