"""How much of a lesion N4 takes for bias, by its levels, on the cases that insert.py wrote.

``kept`` is a lesion's contrast (z-score in the brain) under the field that N4 finds with the
lesion in the image, as a share of its contrast under the field of the same scan without a lesion.
``uneven`` is the coefficient of variation of white matter in the scan without a lesion: what a
field that is too stiff leaves. White matter is what three-class Otsu cuts of the T1w call so at
every level.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from evaluate import Case, Mask, Volume, without_bias
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from bids_stroke import data
from bids_stroke.core import intensity
from bids_stroke.models import descriptor
from bids_stroke.models.channels import MODALITIES

ASKED = descriptor.load(data.path("models", "embedded.toml")).preprocessing
LEVELS = (1, 2, 3, 4)
LEAST_ML = 3.0


def read(path: Path) -> Case:
    """The arrays of a case."""
    with np.load(path) as arrays:
        return dict(arrays)


def corrected(case: Case, name: str, levels: int) -> Volume:
    """One image of a case, by N4 of some levels."""
    return without_bias(case[name], case, replace(ASKED, n4_levels=levels))


def contrast(image: Volume, lesion: Mask, brain: Mask) -> float:
    """Mean z-score of a lesion in the brain."""
    return float(intensity.zscore(image, brain)[lesion & brain].mean())


def white_matter(flat: list[Volume], brain: Mask) -> Mask:
    """The brightest of three classes in every one of some T1w, without its border."""
    bright = [image > threshold_multiotsu(image[brain & (image > 0)], 3)[1] for image in flat]
    return ndimage.binary_erosion(np.logical_and.reduce(bright) & brain)


def uneven(image: Volume, where: Mask) -> float:
    """Coefficient of variation."""
    values = image[where]
    return float(values.std() / values.mean())


def field_of(image: Volume, corrected: Volume) -> Volume:
    """The bias field that was taken out of an image; 1 outside the brain."""
    return np.divide(image, corrected, out=np.ones_like(corrected), where=corrected > 0)


def measure(folder: Path, scan: str) -> list[dict[str, object]]:
    """A row for each lesion of at least LEAST_ML, image and level of one scan's cases."""
    free = read(folder / f"{scan}_000.npz")
    flat = {(m, n): corrected(free, m, n) for m in MODALITIES for n in LEVELS}
    where = white_matter([flat["T1w", n] for n in LEVELS], free["brain"])
    unevenness = {key: uneven(image, where) for key, image in flat.items()}
    fields = {key: field_of(free[key[0]], image) for key, image in flat.items()}
    rows: list[dict[str, object]] = []
    for file in sorted(folder.glob(f"{scan}_[0-9]*.npz")):
        case = read(file)
        lesion = case["truth"] > 0
        if lesion.sum() * abs(np.linalg.det(case["affine"])) / 1000 < LEAST_ML:
            continue
        for (name, levels), field in fields.items():
            best = contrast(case[name] / field, lesion, case["brain"])
            found = contrast(corrected(case, name, levels), lesion, case["brain"])
            rows.append(
                {
                    "image": name,
                    "levels": levels,
                    "case": file.stem,
                    "stage": str(case["stages"][0]),
                    "best": best,
                    "kept": found / best,
                    "uneven": unevenness[name, levels],
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", choices=("tune", "report"))
    parser.add_argument("run", type=Path, help="folder with the cases in run/<split>")
    args = parser.parse_args()
    folder = args.run / args.split
    scans = sorted(path.stem.removesuffix("_000") for path in folder.glob("*_000.npz"))
    table = pd.DataFrame([row for scan in scans for row in measure(folder, scan)])
    clear = table[table["best"].abs() >= 0.5]  # a share of next to nothing says nothing
    print(clear.drop(columns="uneven").round(2).to_string(index=False))
    groups = clear.groupby(["image", "levels"])
    kept = groups["kept"].agg(["median", "min", "count"])
    print(kept.join(table.groupby(["image", "levels"])["uneven"].mean()).round(3).to_string())


if __name__ == "__main__":
    main()
