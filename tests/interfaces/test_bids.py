"""The sink writes whole files with the right type, or none."""

import errno
import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_stroke.core.files import save_image
from bids_stroke.errors import InputOutputError, TryAgain
from bids_stroke.interfaces import bids as module
from bids_stroke.interfaces.bids import DerivativeSink, save_derivative

ENTITIES = {"subject": "01", "session": "a"}
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([0.7, 0.8, 3.0]), [1.0, -2.0, 3.0]
)


def sink(in_file: Path, out: Path, kind: str, **inputs: Any) -> Path:
    node = DerivativeSink(
        in_file=str(in_file), out_dir=str(out), entities=ENTITIES, kind=kind, **inputs
    )
    return Path(node.run().outputs.out_file)


def image(path: Path, data: np.ndarray) -> Path:
    """An image as any tool may leave it: without units, perhaps float, qform code 2."""
    made = nib.Nifti1Image(data, OBLIQUE)
    made.set_qform(OBLIQUE, code=2)
    made.set_sform(OBLIQUE, code=2)
    nib.save(made, path)
    return path


def test_name_sidecar_and_content(tmp_path: Path) -> None:
    mask = np.zeros((3, 4, 5), "u1")
    mask[1, 2, 3] = 1
    source = save_image(mask, OBLIQUE, tmp_path / "in.nii.gz", dtype="u1")
    about = {"Type": "Lesion", "Manual": False}
    final = sink(source, tmp_path / "out", "lesion_mask", extra={"space": "FLAIR"}, metadata=about)
    name = "sub-01_ses-a_space-FLAIR_label-L_desc-stroke_mask"
    assert final == tmp_path / "out" / "sub-01" / "ses-a" / "anat" / f"{name}.nii.gz"
    assert final.read_bytes() == source.read_bytes()
    assert final.stat().st_ino != source.stat().st_ino
    sidecar = json.loads(final.with_name(f"{name}.json").read_text())
    assert sidecar["Type"] == "Lesion"
    assert sidecar["Description"].startswith("Mask of stroke lesions")
    assert sorted(p.name for p in final.parent.iterdir()) == [f"{name}.json", f"{name}.nii.gz"]


@pytest.mark.parametrize(
    ("kind", "dtype", "extra"),
    [
        ("brain_mask", "uint8", {}),
        ("lesion_dseg", "int16", {"space": "T1w"}),
        ("lesion_probseg", "float32", {"space": "T1w"}),
        ("preproc", "float32", {"suffix": "T1w"}),
    ],
)
@pytest.mark.parametrize("name", ["in.nii.gz", "in.nii"])
def test_type_units_and_grid(tmp_path: Path, kind: str, dtype: str, extra: dict, name: str) -> None:
    data = np.arange(24, dtype="f8").reshape(2, 3, 4) + 1e-9
    source = image(tmp_path / name, data)
    made = nib.load(sink(source, tmp_path / "out", kind, extra=extra))
    assert made.get_data_dtype() == dtype
    assert made.header.get_xyzt_units() == ("mm", "sec")
    assert np.allclose(np.asanyarray(made.dataobj), np.arange(24).reshape(2, 3, 4))
    np.testing.assert_array_equal(made.affine, nib.load(source).affine)
    np.testing.assert_array_equal(made.get_qform(), nib.load(source).get_qform())
    assert int(made.header["sform_code"]) == 2


def test_scaled_integers_become_their_values(tmp_path: Path) -> None:
    scaled = nib.Nifti1Image(np.linspace(0, 1, 8).reshape(2, 2, 2), np.eye(4))
    scaled.header.set_xyzt_units("mm", "sec")
    scaled.set_data_dtype("u1")
    nib.save(scaled, tmp_path / "in.nii.gz")
    made = nib.load(
        sink(tmp_path / "in.nii.gz", tmp_path / "out", "lesion_probseg", extra={"space": "T1w"})
    )
    np.testing.assert_allclose(made.get_fdata().ravel(), np.linspace(0, 1, 8), atol=0.003)


def test_equal_images_give_equal_bytes(tmp_path: Path) -> None:
    data = np.ones((3, 3, 3))
    files = [
        save_derivative(
            image(tmp_path / f"{name}.nii.gz", data),
            tmp_path / name / "x.nii.gz",
            kind="brain_mask",
        )
        for name in ("one", "two")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert gzip.decompress(files[0].read_bytes())


def test_image_and_table_share_a_sidecar(tmp_path: Path) -> None:
    labels = save_image(np.ones((2, 2, 2)), np.eye(4), tmp_path / "l.nii.gz", dtype="i2")
    (tmp_path / "t.tsv").write_text("index\n1\n")
    space = {"space": "T1w"}
    columns = {"index": {"Description": "Number."}}
    for order in (("table", "dseg"), ("dseg", "table")):
        out = tmp_path / order[0]
        for what in order:
            if what == "dseg":
                final = sink(labels, out, "lesion_dseg", extra=space, metadata={"Manual": False})
            else:
                sink(tmp_path / "t.tsv", out, "lesion_table", extra=space, metadata=columns)
        sidecar = json.loads(final.with_name(final.name[:-7] + ".json").read_text())
        assert sidecar["Manual"] is False
        assert sidecar["index"] == columns["index"]
        assert final.with_name(final.name[:-7] + ".tsv").read_text() == "index\n1\n"


def test_figures_have_no_sidecar(tmp_path: Path) -> None:
    (tmp_path / "f.svg").write_text("<svg/>")
    extra = {"desc": "brain", "suffix": "T1w", "extension": ".svg"}
    final = sink(tmp_path / "f.svg", tmp_path / "out", "figure", extra=extra)
    assert [p.name for p in final.parent.iterdir()] == ["sub-01_ses-a_desc-brain_T1w.svg"]


@pytest.mark.parametrize(
    ("code", "expected"), [(errno.ENOSPC, TryAgain), (errno.EIO, InputOutputError)]
)
@pytest.mark.parametrize("step", ["_copy", "_write_sidecar"])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: type, step: str
) -> None:
    source = save_image(np.ones((2, 2, 2)), np.eye(4), tmp_path / "in.nii.gz", dtype="u1")
    final = tmp_path / "out" / "x_mask.nii.gz"

    def fail(*_: object) -> None:
        raise OSError(code, "broken")

    monkeypatch.setattr(module, step, fail)
    with pytest.raises(expected, match="x_mask.nii.gz"):
        save_derivative(source, final, kind="brain_mask")
    assert list(final.parent.iterdir()) == []
    monkeypatch.undo()
    save_derivative(source, final, kind="brain_mask")
    earlier = final.read_bytes()
    monkeypatch.setattr(module, step, fail)
    with pytest.raises(expected):
        save_derivative(source, final, kind="brain_mask")
    assert final.read_bytes() == earlier
    assert len(list(final.parent.iterdir())) == 2


def test_the_sidecar_is_there_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_image(np.ones((2, 2, 2)), np.eye(4), tmp_path / "in.nii.gz", dtype="u1")
    final = tmp_path / "x_mask.nii.gz"
    seen = []
    replace = Path.replace

    def spy(self: Path, target: Path) -> Path:
        seen.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    save_derivative(source, final, kind="brain_mask")
    assert seen == ["x_mask.json", "x_mask.nii.gz"]
