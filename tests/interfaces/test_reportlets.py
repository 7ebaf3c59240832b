"""Nodes of figures and of the quality record, on small phantoms."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_stroke.core import lesions
from bids_stroke.core.files import save_image, write_json
from bids_stroke.interfaces import reportlets
from tests.reports import fake


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A T1w session on disk: image, brain mask, probability, labels, table."""
    image, brain = fake.head()
    probability = fake.lesion_probability(2)
    labels = lesions.segment(probability, fake.AFFINE, threshold=0.5, min_volume_mm3=10)
    table = lesions.table(labels, probability, fake.AFFINE)
    table.to_csv(tmp_path / "table.tsv", sep="\t", index=False)
    arrays = {
        "image": (image, np.float32),
        "brain": (brain, np.uint8),
        "probability": (probability, np.float32),
        "labels": (labels, np.int16),
    }
    paths = {"table": str(tmp_path / "table.tsv")}
    for name, (data, dtype) in arrays.items():
        paths[name] = str(save_image(data, fake.AFFINE, tmp_path / f"{name}.nii.gz", dtype=dtype))
    return paths


def run(interface: Any, cwd: Path) -> Any:
    folder = cwd / "node"
    folder.mkdir()
    return interface.run(cwd=str(folder)).outputs


def test_brain_figure(files: dict[str, str], tmp_path: Path) -> None:
    node = reportlets.BrainFigure(image=files["image"], mask=files["brain"])
    assert Path(run(node, tmp_path).figure).stat().st_size > 1000


def test_n4_figure(files: dict[str, str], tmp_path: Path) -> None:
    node = reportlets.N4Figure(before=files["image"], after=files["image"])
    done = run(node, tmp_path)
    assert Path(done.before).stat().st_size > 1000
    assert Path(done.field).read_bytes() != Path(done.after).read_bytes()


def test_registration_figure(files: dict[str, str], tmp_path: Path) -> None:
    image = files["image"]
    node = reportlets.RegistrationFigure(fixed=image, moving_before=image, moving_after=image)
    done = run(node, tmp_path)
    assert Path(done.before).read_bytes() == Path(done.after).read_bytes()


def test_lesion_figure_with_and_without_lines(files: dict[str, str], tmp_path: Path) -> None:
    node = reportlets.LesionFigure(
        t1w=files["image"],
        brain_mask=files["brain"],
        labels=files["labels"],
        probability=files["probability"],
    )
    done = run(node, tmp_path)
    assert Path(done.outlined).read_bytes() != Path(done.plain).read_bytes()


def record(files: dict[str, str], tmp_path: Path, **more: Any) -> dict[str, Any]:
    node = reportlets.QualityRecord(
        label="sub-01",
        entities={"subject": "01"},
        files={"T1w": "sub-01_T1w.nii.gz"},
        reference="T1w",
        model=fake.MODEL,
        t1w_labels=files["labels"],
        t1w_mask=files["brain"],
        t1w_table=files["table"],
        **more,
    )
    return json.loads(Path(run(node, tmp_path).qc).read_text())


def test_record_counts_what_the_labels_hold(files: dict[str, str], tmp_path: Path) -> None:
    found = record(files, tmp_path)
    labels = np.asarray(nib.load(files["labels"]).dataobj)
    assert found["lesions"]["T1w"]["count"] == labels.max() == 2
    assert found["lesions"]["T1w"]["volume_ml"] == pytest.approx((labels > 0).sum() * 0.064)
    assert found["registration"] is None
    assert found["versions"]["numpy"] == np.__version__


def test_record_takes_over_flags_of_earlier_steps(files: dict[str, str], tmp_path: Path) -> None:
    brain = write_json(tmp_path / "b.json", {"volume_ml": 90, "flags": ["The mask is small."]})
    moved = write_json(tmp_path / "r.json", {"rotation_deg": 50, "flags": ["It turns."]})
    found = record(files, tmp_path, brain_qc_t1w=str(brain), registration_qc=str(moved))
    messages = [flag["message"] for flag in found["flags"]]
    assert messages[:2] == ["It turns.", "T1w: The mask is small."]
    assert found["inputs"]["T1w"]["brain"]["volume_ml"] == 90


def test_record_without_a_lesion(files: dict[str, str], tmp_path: Path) -> None:
    empty = np.zeros(fake.SHAPE)
    save_image(empty, fake.AFFINE, Path(files["labels"]), dtype=np.int16)
    table = lesions.table(empty.astype(np.int16), empty, fake.AFFINE)
    table.to_csv(files["table"], sep="\t", index=False)
    found = record(files, tmp_path)
    assert [flag["code"] for flag in found["flags"]] == ["no_lesion"]
