"""Small cohorts on disk: records, tables, and masks in native and template space."""

from pathlib import Path

import numpy as np
import pandas as pd

from bids_stroke.bids.names import output_path
from bids_stroke.core import lesions
from bids_stroke.core.files import save_image, write_json
from tests.reports import fake

SHAPE = (20, 24, 18)
NATIVE = np.diag([4.0, 4.0, 4.0, 1.0])
TEMPLATE = np.array([[8.0, 0, 0, -76], [0, 8, 0, -100], [0, 0, 8, -70], [0, 0, 0, 1]])


def block(x: int, size: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[x : x + size, 4 : 4 + size, 5 : 5 + size] = True
    return mask


def write_session(
    out: Path,
    entities: dict[str, str],
    mask: np.ndarray,
    *,
    template: bool = False,
    rotation: float = 1.0,
    images: bool = False,
    affine: np.ndarray = NATIVE,
) -> None:
    """One session of a T1w: record, table, mask and, as asked, template mask and images."""

    def at(kind: str, **extra: str) -> Path:
        path = out / output_path(entities, kind, **extra)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    labels, _ = lesions.components(mask)
    probability = np.where(mask, 0.9, 0.0).astype(np.float32)
    table = lesions.table(labels, probability, affine)
    table.to_csv(at("lesion_table", space="T1w"), sep="\t", index=False)
    native = at("lesion_mask", space="T1w")
    save_image(mask, affine, native, dtype=np.uint8)
    if template:
        name = native.name.replace("space-T1w", "space-MNI152NLin2009aSym")
        save_image(mask, TEMPLATE, native.with_name(name), dtype=np.uint8)
    if images:
        save_image(labels, affine, at("lesion_dseg", space="T1w"), dtype=np.int16)
        save_image(probability, affine, at("lesion_probseg", space="T1w"), dtype=np.float32)
        head, brain = fake.head()
        save_image(head * brain, affine, at("preproc", suffix="T1w"), dtype=np.float32)
        save_image(brain, affine, at("brain_mask"), dtype=np.uint8)
    count = int(labels.max(initial=0))
    volume = float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)
    name = "_".join(f"{k[:3]}-{v}" for k, v in entities.items())
    record = {
        "label": name,
        "entities": entities,
        "inputs": {
            "T1w": {"file": f"{name}_T1w.nii.gz", "conform": {}, "brain": {"volume_ml": 1400.0}}
        },
        "reason": "",
        "reference": "T1w",
        "registration": {"rotation_deg": rotation, "metric": "x", "flags": []},
        "model": {**fake.MODEL, "min_volume_mm3": 60.0},
        "lesions": {"T1w": {"count": count, "volume_ml": volume}},
        "flags": [],
        "versions": {},
    }
    write_json(at("qc"), record)


def write_reference(root: Path, subject: str, mask: np.ndarray) -> None:
    """A manual mask in the derivative ``manual`` of a dataset."""
    anat = root / "derivatives" / "manual" / f"sub-{subject}" / "anat"
    anat.mkdir(parents=True)
    path = anat / f"sub-{subject}_space-T1w_label-lesion_mask.nii.gz"
    save_image(mask, NATIVE, path, dtype=np.uint8)


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", na_values="n/a", keep_default_na=False)
