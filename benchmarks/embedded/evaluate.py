"""Score the embedded model on the cases that insert.py wrote.

``tune`` prints a table of operating points; ``report`` scores at the descriptor's, and prints what
the descriptor is to say; ``tune-t1w`` and ``report-t1w`` likewise on heads with a T1w alone. The
scans with FLAIR hold MS lesions of their own, which nobody labelled: what is found of them counts
as false.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from bids_stroke import data
from bids_stroke.core import fields, intensity
from bids_stroke.core import lesions as lesion_tools
from bids_stroke.core.bias import n4
from bids_stroke.core.files import write_json
from bids_stroke.models import descriptor as descriptors
from bids_stroke.models.predictor import Predictor, load, predict
from bids_stroke.models.torchvision_shim import ensure_torchvision

INPUTS = (("T1w", "FLAIR"), ("T1w",), ("FLAIR",))
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
VOLUMES_MM3 = (10.0, 20.0, 30.0, 60.0)
NEAR_MM = 10.0
CLEAR_ML = 1.0
BINS = {"<0.1": 0.1, "0.1-1": 1.0, "1-10": 10.0, ">10": np.inf}
Mask = NDArray[np.bool_]
Volume = NDArray[np.float32]
Case = dict[str, NDArray]


def as_scanned(name: str, image: Volume, case: Case) -> Volume:
    """The scan as it is (its slices are 3 to 4 mm thick already)."""
    return image


def thick_flair(name: str, image: Volume, case: Case) -> Volume:
    """FLAIR with slices of 6 mm; the T1w as it is."""
    if name == "T1w":
        return image
    sizes = nib.affines.voxel_sizes(case["affine"])
    return fields.thick_slices(image, 2, max(6.0 / sizes[2], 1.0))


def noisy(name: str, image: Volume, case: Case) -> Volume:
    """Rician noise of 6 % of the brain's bright end, as of an old 1.5 T scanner."""
    rng = np.random.default_rng(len(name))
    return fields.rician(image, rng, 0.06 * float(np.percentile(image[case["brain"]], 98)))


AS_IS = "as scanned"
CONDITIONS = {AS_IS: as_scanned, "FLAIR 6 mm": thick_flair, "noise": noisy}


def without_bias(image: Volume, case: Case, asked: descriptors.Preprocessing) -> Volume:
    """One image of a case by N4 as the program runs it for a model, 0 outside the brain."""
    shrink = intensity.shrink_factor(image.shape, asked.n4_shrink)
    levels = asked.n4_levels
    flat = n4(image, case["brain"], case["affine"], shrink=shrink, levels=levels)
    return intensity.masked(flat, case["brain"])


def probability(
    predictor: Predictor, case: Case, inputs: Iterable[str], condition: str
) -> NDArray[np.float32]:
    """N4 if and as the model asks for it, z-score in the brain, the network; on the case's grid."""
    asked, channels = predictor.descriptor.preprocessing, {}
    for name in inputs:
        image = CONDITIONS[condition](name, case[name], case)
        if "n4" in asked.steps:
            image = without_bias(image, case, asked)
        channels[name] = intensity.zscore(image, case["brain"])
    sizes = list(nib.affines.voxel_sizes(case["affine"]))
    return predict(predictor, channels, sizes) * case["brain"]


def dice(a: Mask, b: Mask) -> float:
    """Dice; 1 for two empty masks."""
    total = a.sum() + b.sum()
    return float(2 * (a & b).sum() / total) if total else 1.0


def nearest_lesion(truth: NDArray[np.uint8], sizes: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Number of the lesion that is nearest to each voxel, within 10 mm; else 0."""
    if not truth.any():
        return np.zeros_like(truth)
    distance, index = ndimage.distance_transform_edt(
        truth == 0, sampling=sizes, return_indices=True
    )
    return np.where(distance <= NEAR_MM, truth[tuple(index)], 0).astype(np.uint8)


def by_lesion(found: Mask, case: Case, near: NDArray[np.uint8]) -> list[dict[str, object]]:
    """Volume, place, Dice within 10 mm and detection (a tenth of it marked) of each lesion."""
    unit = abs(np.linalg.det(case["affine"])) / 1000
    rows: list[dict[str, object]] = []
    for number, (stage, place) in enumerate(zip(case["stages"], case["places"], strict=True), 1):
        lesion = case["truth"] == number
        rows.append(
            {
                "ml": lesion.sum() * unit,
                "stage": str(stage),
                "place": str(place),
                "dice_near": dice(found & (near == number), lesion),
                "detected": float((found & lesion).sum() > 0.1 * lesion.sum()),
            }
        )
    return rows


def masks(
    prob: Volume, affine: NDArray[np.float64], points: list[tuple[float, float]]
) -> Iterator[Mask]:
    """The mask at each (threshold, smallest volume); those of a threshold are labelled once."""
    unit = abs(np.linalg.det(affine))
    for threshold, group in itertools.groupby(points, key=lambda point: point[0]):
        labels = lesion_tools.segment(prob, affine, threshold=threshold, min_volume_mm3=0)
        volumes = np.bincount(labels.ravel()) * unit
        for _, volume in group:
            yield (labels > 0) & (volumes >= volume)[labels]


def evaluate(
    predictor: Predictor,
    files: list[Path],
    points: list[tuple[float, float]],
    conditions: Iterable[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of lesions and of cases, for each condition, set of inputs and operating point.

    Sets of inputs are those that the model accepts and the scans have.
    """
    lesions, cases = [], []
    accepted = [inputs for inputs in INPUTS if inputs in predictor.descriptor.inputs]
    for file, condition, inputs in itertools.product(files, conditions, accepted):
        if condition != AS_IS and (inputs == ("T1w",) or "ses-02" in file.name):
            continue  # the slices of FLAIR don't touch it; one session is enough to see a loss
        with np.load(file) as arrays:
            if not set(inputs) <= set(arrays):
                continue
            case = dict(arrays)
        affine, truth = case["affine"], case["truth"] > 0
        near = nearest_lesion(case["truth"], nib.affines.voxel_sizes(affine))
        unit = abs(np.linalg.det(affine)) / 1000
        prob = probability(predictor, case, inputs, condition)
        for (threshold, volume), found in zip(points, masks(prob, affine, points), strict=True):
            known = {"case": file.stem, "condition": condition, "inputs": "+".join(inputs)}
            known |= {"threshold": threshold, "min_mm3": volume}
            lesions += [{**known, **row} for row in by_lesion(found, case, near)]
            cases.append(
                {
                    **known,
                    "lesions": len(case["stages"]),
                    "ml": truth.sum() * unit,
                    "dice": dice(found, truth),
                    "false_ml": (found & (near == 0)).sum() * unit,
                }
            )
        print(file.stem, condition, inputs, round(cases[-1]["dice"], 3), flush=True)
    return pd.DataFrame(lesions), pd.DataFrame(cases)


def bins_of(ml: pd.Series) -> pd.Series:
    """Bin of volume of each lesion."""
    return pd.cut(ml, [0, *BINS.values()], labels=list(BINS))


def means(lesions: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean Dice near the lesion and share found, with the number of lesions."""
    groups = lesions.groupby(by, observed=True)
    return groups[["dice_near", "detected"]].mean().assign(n=groups.size()).round(3)


def tables(lesions: pd.DataFrame, cases: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What is reported: by volume, by place, small lesions, conditions, false volume."""
    lesions = lesions.assign(bin=bins_of(lesions["ml"]))
    single = cases[cases["lesions"] == 1].assign(bin=lambda t: bins_of(t["ml"]))
    plain = lesions["case"].str.contains("_p")
    lesions, other = lesions[~plain], lesions[plain]
    one = lesions[~lesions["case"].str.contains("_m")]
    many = lesions[lesions["case"].str.contains("_m")]
    clear = lesions[lesions["ml"] >= CLEAR_ML]
    whole = single.groupby(["condition", "inputs", "bin"], observed=True)
    false = cases[cases["lesions"] == 0].groupby(["condition", "inputs"])["false_ml"]
    return {
        "volume": means(one, ["condition", "inputs", "bin"]).join(whole["dice"].mean().round(3)),
        "place": means(clear[clear["condition"] == AS_IS], ["inputs", "place"]),
        "place_any_size": means(lesions[lesions["condition"] == AS_IS], ["inputs", "place"]),
        "small": means(many, ["condition", "inputs"]),
        "small_plain": means(other, ["condition", "inputs"]),
        "above_0.1_ml": means(lesions[lesions["ml"] >= 0.1], ["condition", "inputs"]),
        "above_1_ml": means(clear, ["condition", "inputs"]),
        "false_ml": false.agg(["min", "max", "count"]).round(2),
    }


def as_descriptor(found: dict[str, pd.DataFrame]) -> str:
    """The tables of a report on the scans as they are, as ``[evaluation.*]`` of a descriptor."""
    reported = [name for name in BINS if name != "<0.1"]
    volumes = found["volume"].loc[AS_IS]
    scored = [i for i in map("+".join, INPUTS) if i in volumes.index]
    lines = [f"n = {volumes.loc[scored[0]].loc[reported, 'n'].tolist()}"]
    for inputs in scored:
        volume = volumes.loc[inputs].loc[reported]
        free = found["false_ml"].loc[AS_IS, inputs]
        values: dict[str, object] = {
            "dice": volume["dice"].tolist(),
            "dice_within_10mm": volume["dice_near"].tolist(),
            "detected": volume["detected"].tolist(),
        }
        for table, look in (("small", ""), ("small_plain", "plain_")):
            row = found[table].loc[AS_IS, inputs]
            count = round(row["detected"] * row["n"])
            values[f"found_of_{row['n']:.0f}_{look}between_30_and_1500_mm3"] = count
        values["marked_without_lesion_ml"] = free[["min", "max"]].tolist()
        lines += ["", f'[evaluation."{inputs}"]']
        lines += [f"{name} = {value}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def operating_points(lesions: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """Mean scores of each operating point and set of inputs; false volume over all cases."""
    by = ["inputs", "threshold", "min_mm3"]
    table = means(lesions, by)
    clear = lesions[lesions["ml"] >= CLEAR_ML].groupby(by)["dice_near"].mean()
    return table.assign(
        clear=clear.round(3), false_ml=cases.groupby(by)["false_ml"].mean().round(2)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", choices=("tune", "report", "tune-t1w", "report-t1w"))
    parser.add_argument("run", type=Path, help="folder with the cases in run/<split>")
    parser.add_argument("--model", type=Path, default=data.path("models", "embedded.toml"))
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    args = parser.parse_args()
    ensure_torchvision()
    model, reported = descriptors.load(args.model), args.split.startswith("report")
    point = model.operating_point
    points, conditions = [(point.threshold, point.min_volume_mm3)], args.conditions
    if not reported:
        points, conditions = list(itertools.product(THRESHOLDS, VOLUMES_MM3)), [AS_IS]
    files = sorted((args.run / args.split).glob("*.npz"))
    lesions, cases = evaluate(load(model), files, points, conditions)
    lesions.to_csv(args.run / f"{args.split}_lesions.tsv", sep="\t", index=False)
    cases.to_csv(args.run / f"{args.split}_cases.tsv", sep="\t", index=False)
    found = tables(lesions, cases) if reported else {"points": operating_points(lesions, cases)}
    for name, table in found.items():
        print(f"\n{name}\n{table.to_string()}")
    if reported and AS_IS in conditions:
        print(as_descriptor(found))
    records = {
        name: json.loads(table.reset_index().to_json(orient="records"))
        for name, table in found.items()
    }
    write_json(args.run / f"{args.split}.json", records)


if __name__ == "__main__":
    main()
