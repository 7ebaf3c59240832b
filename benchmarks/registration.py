"""Rigid registration of T1w and FLAIR beside ANTs as it comes: time, and distance to the truth.

    python benchmarks/registration.py SHARED_DATA [--starts N] [--seed N]
    python benchmarks/registration.py --quick

The sessions are the three real ones of ``ms_raw``, whose truth is the publisher's transform, and
those of ``bids_stroke-demo`` (synthetic, ``--quick``: one small head, and nothing else), whose
motion is known. All are cut to the brain by the mask that comes with them, and N4 is applied, as in
the program. Both sides start from the headers; with ``--starts`` ours is run again from so many
false ones, 3 to 30 mm and up to 10 degrees away. The error is the mean distance over the brain, in
mm. The last line is one JSON object.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ants
import nibabel as nib
import numpy as np
from measuring import demonstration, finish, print_table
from nibabel.affines import apply_affine
from painted import SCANS, Scan
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).parents[1]))

from bids_stroke.core import geometry  # noqa: E402
from bids_stroke.core.bias import n4  # noqa: E402
from bids_stroke.interfaces.ants import RigidRegistration, reproducible  # noqa: E402

TRUTH = "_from-T1w_to-FLAIR_mode-image_xfm.txt"


@dataclass(frozen=True)
class Pair:
    """Files of a T1w (fixed) and a FLAIR (moving), and the matrix between them, RAS+ mm."""

    name: str
    files: dict[str, str]
    truth: np.ndarray


def written(folder: Path, name: str, images: dict[str, Any], brains: dict[str, Any]) -> dict:
    """Write brain-only images without their bias, and masks."""
    files = {}
    for role, suffix in (("fixed", "T1w"), ("moving", "FLAIR")):
        image, brain = images[suffix], np.asarray(brains[suffix].dataobj) > 0
        bare = n4(image.get_fdata(dtype=np.float32) * brain, brain, image.affine) * brain
        for end, array in (("", bare), ("_mask", brain.astype(np.uint8))):
            path = folder / f"{name}_{suffix}{end}.nii"
            nib.save(nib.Nifti1Image(array, image.affine), path)
            files[role + end] = str(path)
    return files


def real(shared: Path, folder: Path) -> Iterator[Pair]:
    """The sessions of ``ms_raw``: the publisher's file takes points of the FLAIR to the T1w."""
    for name in SCANS:
        scan = Scan(shared, name)
        images, brains = ({s: f(s) for s in ("T1w", "FLAIR")} for f in (scan.image, scan.brain))
        files = written(folder, name, images, brains)
        yield Pair(name, files, np.linalg.inv(scan.flair_to_t1w()))


def synthetic(folder: Path, *, is_tiny: bool) -> Iterator[Pair]:
    """The sessions of the demonstration that have both images."""
    root = folder / "demo"
    demonstration(root, *(["--tiny"] if is_tiny else []))
    for file in sorted((root / "derivatives" / "truth").rglob(f"*{TRUTH}")):
        name = file.name.removesuffix(TRUTH)
        anat = root / file.parent.relative_to(root / "derivatives" / "truth")
        images = {s: nib.load(anat / f"{name}_{s}.nii.gz") for s in ("T1w", "FLAIR")}
        brains = {
            s: nib.load(file.with_name(f"{name}_space-{s}_desc-brainTruth_mask.nii.gz"))
            for s in images
        }
        truth = np.linalg.inv(geometry.read_itk_affine(file))
        yield Pair(f"demo {name}", written(folder, f"demo-{name}", images, brains), truth)


def ours(pair: Pair, folder: Path) -> np.ndarray:
    """The program's step."""
    found = RigidRegistration(**pair.files).run(cwd=folder).outputs
    return geometry.read_itk_affine(Path(found.forward))


def stock(pair: Pair, folder: Path) -> np.ndarray:
    """ANTs' rigid registration as it comes, on one thread like ours."""
    with reproducible(1):
        images = [ants.image_read(pair.files[role]) for role in ("fixed", "moving")]
        result = ants.registration(*images, "Rigid", outprefix=str(folder / "stock_"))
    return geometry.read_itk_affine(Path(result["fwdtransforms"][0]))


def error_mm(pair: Pair, matrix: np.ndarray) -> float:
    """Mean distance between where both matrices take the brain."""
    mask = nib.load(pair.files["fixed_mask"])
    points = apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) > 0)[::20])
    away = apply_affine(matrix, points) - apply_affine(pair.truth, points)
    return float(np.linalg.norm(away, axis=1).mean())


def moved(pair: Pair, rng: np.random.Generator, folder: Path) -> Pair:
    """The pair with a false header of its FLAIR: turned and shifted."""
    files, push = dict(pair.files), np.eye(4)
    turn = Rotation.from_rotvec(np.deg2rad(rng.uniform(0, 10)) * _direction(rng)).as_matrix()
    image = nib.load(pair.files["moving"])
    centre = apply_affine(image.affine, (np.array(image.shape) - 1) / 2)
    push[:3, :3] = turn
    push[:3, 3] = centre - turn @ centre + rng.uniform(3, 30) * _direction(rng)
    for role in ("moving", "moving_mask"):
        image = nib.load(pair.files[role])
        files[role] = str(folder / f"{role}_moved.nii")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), push @ image.affine), files[role])
    return Pair(pair.name, files, push @ pair.truth)


def _direction(rng: np.random.Generator) -> np.ndarray:
    direction = rng.normal(size=3)
    return direction / np.linalg.norm(direction)


def timed(
    work: Callable[[Pair, Path], np.ndarray], pair: Pair, folder: Path
) -> tuple[float, float]:
    """Error in mm, and seconds of the processor."""
    begun = time.process_time()
    matrix = work(pair, folder)
    return error_mm(pair, matrix), time.process_time() - begun


def compare(pair: Pair, starts: int, rng: np.random.Generator, folder: Path) -> dict[str, Any]:
    """A row of the table."""
    both = {"ours": timed(ours, pair, folder), "ANTs": timed(stock, pair, folder)}
    row: dict[str, Any] = {"session": pair.name}
    row |= {f"{name}, mm": round(numbers[0], 3) for name, numbers in both.items()}
    row |= {f"{name}, processor s": round(numbers[1], 2) for name, numbers in both.items()}
    row["ratio of processor time"] = round(both["ANTs"][1] / both["ours"][1], 2)
    again = [timed(ours, moved(pair, rng, folder), folder)[0] for _ in range(starts)]
    row["other starts, mm"] = f"{min(again):.3f} to {max(again):.3f}" if again else "n/a"
    return row


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, nargs="?", help="folder of the shared data")
    parser.add_argument("--quick", action="store_true", help="small synthetic heads alone")
    parser.add_argument("--starts", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(argv)
    rng = np.random.default_rng(asked.seed)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        pairs = list(synthetic(folder, is_tiny=asked.quick))[: 1 if asked.quick else None]
        if asked.shared and not asked.quick:
            pairs = [*real(asked.shared, folder), *pairs]
        rows = [compare(pair, asked.starts, rng, folder) for pair in pairs]
    print_table(rows)
    print()
    figures = {
        f"mean_{key}": round(statistics.mean(row[f"{key}, mm"] for row in rows), 3)
        for key in ("ours", "ANTs")
    }
    ratio = statistics.median(row["ratio of processor time"] for row in rows)
    finish({"sessions": len(rows), **figures, "median_ratio": ratio})
    return 0


if __name__ == "__main__":
    sys.exit(main())
