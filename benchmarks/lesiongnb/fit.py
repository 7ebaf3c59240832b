"""Fit LesionGnb's Gaussians on lesions painted into real T1w, and score it on held-out scans.

``train`` paints lesion shapes of the training split into the scans of the tune split of
``benchmarks/embedded`` (real T1w, no lesion of ours) and computes features; ``cases`` does so for
the cases that ``insert.py`` wrote; ``fit`` writes the parameters; ``score`` prints the table.
Features of a scan or a case that are there already are not made again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "embedded"))

from evaluate import without_bias
from prepare import load_grid
from scipy import ndimage

from bids_stroke import data
from bids_stroke.core import gnb, synthesis
from bids_stroke.core import lesions as lesion_tools
from bids_stroke.core.geometry import Grid, resample
from bids_stroke.core.similarity import dice
from bids_stroke.interfaces import lesiongnb as subjects
from bids_stroke.models import descriptor, lesiongnb
from bids_stroke.models.sampling import Shape, load_shapes

ASKED = descriptor.load(data.path("models", "lesiongnb.toml")).preprocessing
NEAR_MM = 10.0
SCANS = ("patient26", "sub-04_ses-01")
SMALLEST_ML, LARGEST_ML = 2.5, 200.0  # smaller ones are left out of training (Lhermitte 2024)
PROVENANCE = (
    "Fitted by benchmarks/lesiongnb/fit.py on {lesions} synthetic lesions: shapes of real strokes "
    "(SOOP, LESYMAP; training split, 2.5 to 200 mL) painted by core/synthesis into real T1w of the "
    "open MS data of LIT Ljubljana ({scans}). No real stroke scan was used."
)


def grid_of(case: dict[str, NDArray]) -> Grid:
    return Grid(case["T1w"].shape, case["affine"])


def keep(out: Path, name: str, subject: subjects.Subject, truth: NDArray, **more: object) -> None:
    """One subject's features and the truth on the template's grid."""
    np.savez_compressed(
        out / f"{name}.npz",
        features=subject.features,
        brain=subject.brain,
        matrix=subject.to_subject,
        truth=truth,
        **more,
    )
    print(name, f"{truth.sum() * lesiongnb.VOXEL_MM**3 / 1000:.1f} mL in the template", flush=True)


def train(run: Path, out: Path, count: int) -> None:
    """Paint ``count`` shapes into each scan; the scan's affine is found once, without a lesion.

    N4 comes first, so that it takes nothing of a lesion.
    """
    grid, shapes = load_grid(run), load_shapes(run / "lesions.npz", "train")
    fitting = [shape for shape in shapes if SMALLEST_ML <= shape.ml <= LARGEST_ML]
    for number, name in enumerate(SCANS):
        if len(list(out.glob(f"train_{name}_*.npz"))) >= count:
            continue
        case = dict(np.load(run / "tune" / f"{name}_000.npz"))
        case["T1w"] = without_bias(case["T1w"], case, ASKED)
        matrix = subjects.affine_to_template(case["T1w"], case["affine"])
        rng = np.random.default_rng([7, number])
        for index, place in enumerate(rng.permutation(len(fitting))[:count]):
            paint(case, fitting[place], grid, matrix, rng, out, f"train_{name}_{index:02d}", index)


def paint(
    case: dict[str, NDArray],
    shape: Shape,
    grid: Grid,
    matrix: NDArray,
    rng: np.random.Generator,
    out: Path,
    name: str,
    index: int,
) -> None:
    """One lesion in one scan."""
    nothing = np.zeros(grid.shape)
    whole = synthesis.place(shape.mask / np.float32(255), nothing, rng, centre=shape.centre)
    soft = resample(whole, grid, grid_of(case), transform=np.linalg.inv(matrix)) * case["brain"]
    images = synthesis.paint(
        {"T1w": case["T1w"]},
        soft,
        rng,
        stage=synthesis.STAGES[index % 2],
        brain=case["brain"],
        strength=rng.uniform(0.5, 1.0),
    )
    subject = subjects.in_template(images["T1w"], case["brain"], case["affine"], matrix)
    keep(out, name, subject, resample(whole, grid, lesiongnb.grid()) >= 0.5)


def cases(run: Path, out: Path, split: str, only: list[str]) -> None:
    """Features of inserted cases, from nothing but the T1w and the brain mask."""
    files = [file for end in only or [""] for file in sorted((run / split).glob(f"*{end}.npz"))]
    for file in files:
        if (out / f"{split}_{file.stem}.npz").exists():
            continue
        case = dict(np.load(file))
        t1w = without_bias(case["T1w"], case, ASKED)
        subject = subjects.describe(t1w, case["brain"], case["affine"])
        truth = (case["truth"] > 0).astype(np.float32)
        carried = resample(truth, grid_of(case), lesiongnb.grid(), transform=subject.to_subject)
        keep(out, f"{split}_{file.stem}", subject, carried >= 0.5, source=str(file))


def fit(out: Path, target: Path) -> None:
    """Gaussians of all voxels of the brain of all training lesions."""
    samples, lesion = [], []
    files = sorted(out.glob("train_*.npz"))
    for file in files:
        arrays = np.load(file)
        samples.append(arrays["features"][:, arrays["brain"]].T)
        lesion.append(arrays["truth"][arrays["brain"]])
    found = gnb.fit(np.concatenate(samples), np.concatenate(lesion))
    print(lesiongnb.write_parameters(found, target, _provenance(files)))
    print(found)


def _provenance(files: list[Path]) -> str:
    scans = sorted({file.stem.removeprefix("train_").rsplit("_", 1)[0] for file in files})
    return PROVENANCE.format(lesions=len(files), scans=", ".join(scans))


def score_cases(out: Path, split: str) -> pd.DataFrame:
    """Scores on the cases' own grids, at the descriptor's operating point."""
    model = descriptor.find("lesiongnb")
    parameters = lesiongnb.read_parameters(model.model_folder)
    rows = []
    for file in sorted(out.glob(f"{split}_*.npz")):
        arrays = dict(np.load(file))
        case = dict(np.load(str(arrays["source"])))
        subject = subjects.Subject(
            None,
            arrays["features"],
            arrays["brain"],
            arrays["matrix"],  # type: ignore[arg-type]
        )
        native = resample(
            subjects.probability(subject, parameters),
            lesiongnb.grid(),
            grid_of(case),
            transform=np.linalg.inv(arrays["matrix"]),
        )
        rows.append({"case": file.stem, **scores(native * case["brain"], case, model)})
    return pd.DataFrame(rows)


def scores(native: NDArray, case: dict[str, NDArray], model: descriptor.Descriptor) -> dict:
    """Dice, Dice near the lesion, detection and false volume of one case."""
    point, truth = model.operating_point, case["truth"] > 0
    zooms = nib.affines.voxel_sizes(case["affine"])
    found = lesion_tools.segment(
        native,
        case["affine"],
        threshold=point.threshold,
        min_volume_mm3=point.min_volume_mm3,
        connectivity=point.connectivity,
        inclusive=point.inclusive,
    )
    near = ndimage.distance_transform_edt(~truth, sampling=zooms) <= NEAR_MM
    near &= truth.any()
    voxel_ml = float(np.prod(zooms)) / 1000
    return {
        "ml": truth.sum() * voxel_ml,
        "dice": dice(found, truth) if truth.any() else np.nan,
        "dice_near": dice((found > 0) & near, truth) if truth.any() else np.nan,
        "detected": detected(found > 0, case["truth"]),
        "false_ml": float(((found > 0) & ~near).sum()) * voxel_ml,
    }


def detected(found: NDArray, truth: NDArray) -> float:
    """Share of the numbered lesions of which a tenth is marked."""
    sizes = np.bincount(truth.ravel())[1:]
    hits = np.bincount(truth[found], minlength=len(sizes) + 1)[1:]
    return float(np.mean(hits >= 0.1 * sizes)) if len(sizes) else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("train", "cases", "fit", "score"))
    parser.add_argument("run", type=Path, help="folder that benchmarks/embedded made")
    parser.add_argument("out", type=Path, help="folder for features")
    parser.add_argument("--count", type=int, default=6, help="training lesions of each scan")
    parser.add_argument("--split", choices=("tune", "report"), default="report")
    parser.add_argument("--only", nargs="+", default=[], help="numbers of cases (default: all)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.action == "train":
        train(args.run, args.out, args.count)
    elif args.action == "cases":
        cases(args.run, args.out, args.split, args.only)
    elif args.action == "fit":
        fit(args.out, data.path("models", "lesiongnb"))
    else:
        table = score_cases(args.out, args.split)
        print(table.round(3).to_string())
        print(
            table.groupby(pd.cut(table.ml, [-1, 0, 1, 10, 500]), observed=True)
            .mean(numeric_only=True)
            .round(3)
        )


if __name__ == "__main__":
    main()
