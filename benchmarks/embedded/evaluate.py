"""Score the embedded model on the cases that insert.py wrote.

``tune`` prints a table of operating points; ``report`` scores at the descriptor's. The scans hold
MS lesions of their own, which nobody labelled: what is found of them counts as false.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from bids_stroke import data
from bids_stroke.core import lesions as lesion_tools
from bids_stroke.core.files import write_json
from bids_stroke.models import descriptor as descriptors
from bids_stroke.models.predictor import Predictor, load, predict
from bids_stroke.models.torchvision_shim import ensure_torchvision

INPUTS = (("T1w", "FLAIR"), ("T1w",), ("FLAIR",))
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
VOLUMES_MM3 = (10.0, 30.0, 60.0, 120.0)
NEAR_MM = 10.0
Mask = NDArray[np.bool_]
Case = dict[str, NDArray]


def probability(predictor: Predictor, case: Case, inputs: Iterable[str]) -> NDArray[np.float32]:
    """z-score in the brain, then the network, on the case's grid."""
    brain = case["brain"]
    channels = {}
    for name in inputs:
        values = case[name][brain]
        channels[name] = np.where(brain, (case[name] - values.mean()) / values.std(), 0)
    return predict(predictor, channels, list(nib.affines.voxel_sizes(case["affine"]))) * brain


def dice(a: Mask, b: Mask) -> float:
    """Dice; 1 for two empty masks."""
    total = a.sum() + b.sum()
    return float(2 * (a & b).sum() / total) if total else 1.0


def score(found: Mask, truth: Mask, near: Mask, voxel_ml: float) -> dict[str, float]:
    """Dice in the whole brain and near the lesion, detection, false-positive volume."""
    return {
        "dice": dice(found, truth),
        "dice_near": dice(found & near, truth) if truth.any() else np.nan,
        "detected": float((found & truth).sum() > 0.1 * truth.sum()) if truth.any() else np.nan,
        "false_ml": float((found & ~near).sum()) * voxel_ml,
    }


def evaluate(
    predictor: Predictor, files: list[Path], points: list[tuple[float, float]]
) -> pd.DataFrame:
    """One row for each case, set of inputs and operating point."""
    rows = []
    for file in files:
        with np.load(file) as arrays:
            case = dict(arrays)
        truth, affine = case["truth"], case["affine"]
        sizes = nib.affines.voxel_sizes(affine)
        near = np.zeros_like(truth)
        if truth.any():
            near = ndimage.distance_transform_edt(~truth, sampling=sizes) <= NEAR_MM
        voxel_ml = float(np.prod(sizes)) / 1000
        known = {"case": file.stem, "stage": str(case["stage"]), "ml": truth.sum() * voxel_ml}
        for inputs in INPUTS:
            prob = probability(predictor, case, inputs)
            for threshold, volume in points:
                found = lesion_tools.segment(
                    prob, affine, threshold=threshold, min_volume_mm3=volume
                )
                row = score(found > 0, truth, near, voxel_ml)
                at = {"inputs": "+".join(inputs), "threshold": threshold, "min_mm3": volume}
                rows.append({**known, **at, **row})
        print(file.stem, round(known["ml"], 2), round(rows[-1]["dice"], 3), flush=True)
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means by inputs and bin of volume; ``none`` are the scans without an inserted lesion."""
    names = ["none", "<1 mL", "1-10 mL", ">10 mL"]
    table = table.assign(bin=pd.cut(table["ml"], [-1, 0, 1, 10, np.inf], labels=names))
    groups = table.groupby(["inputs", "bin"], observed=True)
    means = groups[["dice", "dice_near", "detected", "false_ml"]].mean()
    return means.assign(n=groups.size()).round(3)


def operating_points(table: pd.DataFrame) -> pd.DataFrame:
    """Mean scores of each operating point over the cases with a lesion, false volume over all."""
    by = ["threshold", "min_mm3"]
    means = table[table["ml"] > 0].groupby(by)[["dice", "dice_near", "detected"]].mean()
    return means.assign(false_ml=table.groupby(by)["false_ml"].mean()).round(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", choices=("tune", "report"))
    parser.add_argument("run", type=Path, help="folder with the cases in run/<split>")
    parser.add_argument("--model", type=Path, default=data.path("models", "embedded.toml"))
    args = parser.parse_args()
    ensure_torchvision()
    model = descriptors.load(args.model)
    point = model.operating_point
    points = [(point.threshold, point.min_volume_mm3)]
    if args.split == "tune":
        points = list(itertools.product(THRESHOLDS, VOLUMES_MM3))
    files = sorted((args.run / args.split).glob("*.npz"))
    table = evaluate(load(model), files, points)
    table.to_csv(args.run / f"{args.split}.tsv", sep="\t", index=False)
    result = operating_points(table) if args.split == "tune" else summary(table)
    print(result.to_string())
    write_json(
        args.run / f"{args.split}.json", json.loads(result.reset_index().to_json(orient="records"))
    )


if __name__ == "__main__":
    main()
