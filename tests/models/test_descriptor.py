"""Descriptors: what they hold, what is refused, and how a model is chosen."""

from pathlib import Path

import pytest

from bids_stroke.errors import InputMissing, UnusableData
from bids_stroke.models import descriptor
from tests.tiny_model import write_model

BOTH = ("T1w", "FLAIR")


def test_reads_every_field(tmp_path: Path) -> None:
    model = descriptor.load(write_model(tmp_path, inference="folds = [0]\nmirror_axes = [2]"))
    assert model.channels == BOTH
    assert model.inputs == (BOTH, ("T1w",), ("FLAIR",))
    assert model.inference.mirror_axes == (2,)
    assert model.operating_point.connectivity == 26
    assert model.model_folder == tmp_path / "tiny"
    descriptor.verify(model)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('name = "tiny"', "name = ", "not valid TOML"),
        ("synthetic", "sinthetic", "unknown key 'sinthetic'"),
        ('version = "1.0"', "", "incomplete"),
        ('"reorient"', '"reorientt"', "steps"),
        ('reference = "T1w"', 'reference = "T2w"', "reference"),
        ('"brain_extraction", ', "", "brain_extraction"),
        ("threshold = 0.5", "threshold = 1.5", "threshold"),
        ("threshold = 0.5", "threshold = 0.5\nconnectivity = 8", "connectivity"),
        ('folder = "tiny"', 'folder = "../elsewhere"', "outside"),
        ('path = "tiny/plans.json"', 'path = "/etc/passwd"', "outside"),
        ('channels = ["T1w", "FLAIR"]', 'channels = ["DWI"]', "channels"),
        ('["FLAIR"]]', '["DWI"]]', "inputs"),
        ('format = "nnunetv2"', 'format = "pickle"', "format"),
        ("[inference]\n", "[inference]\nstep_size = 0", "step_size"),
    ],
)
def test_refuses(tmp_path: Path, old: str, new: str, reason: str) -> None:
    path = write_model(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UnusableData, match=reason) as error:
        descriptor.load(path)
    assert str(path) in str(error.value)


def test_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"none\.toml"):
        descriptor.load(tmp_path / "none.toml")


def test_verify_sees_a_changed_byte(tmp_path: Path) -> None:
    model = descriptor.load(write_model(tmp_path))
    weights = model.model_folder / "fold_0" / "checkpoint_final.pth"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UnusableData, match="SHA-256"):
        descriptor.verify(model)
    weights.write_bytes(content[:-1])
    with pytest.raises(UnusableData, match="bytes long"):
        descriptor.verify(model)
    weights.unlink()
    with pytest.raises(InputMissing, match="lacks"):
        descriptor.verify(model)


@pytest.mark.parametrize(
    ("have", "used"), [(BOTH, BOTH), (("T1w",), ("T1w",)), (("FLAIR",), ("FLAIR",))]
)
def test_accepted_set(tmp_path: Path, have: tuple[str, ...], used: tuple[str, ...]) -> None:
    assert descriptor.accepted(descriptor.load(write_model(tmp_path)), have) == used


def test_auto_prefers_the_model_that_uses_more(tmp_path: Path) -> None:
    write_model(tmp_path, inputs=(("FLAIR",),))
    chosen, reason = descriptor.choose("auto", BOTH, tmp_path)
    assert chosen.name == "embedded"
    assert "T1w + FLAIR" in reason


def test_auto_prefers_real_lesions_to_synthetic(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    path.write_text(path.read_text().replace("synthetic = true", "synthetic = false"))
    chosen, _ = descriptor.choose("auto", BOTH, tmp_path)
    assert chosen.name == "tiny"


def test_a_named_model_must_fit_the_session(tmp_path: Path) -> None:
    write_model(tmp_path, inputs=(BOTH,))
    with pytest.raises(UnusableData, match="needs T1w \\+ FLAIR"):
        descriptor.choose("tiny", ("T1w",), tmp_path)


def test_a_model_is_found_by_name_file_and_folder(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    assert descriptor.find("tiny", tmp_path).name == "tiny"
    assert descriptor.find(str(path)).name == "tiny"
    assert descriptor.find(str(tmp_path)).name == "tiny"
    with pytest.raises(InputMissing, match="embedded"):
        descriptor.find("unheard-of", tmp_path)


def test_embedded_model_is_whole_and_says_what_it_is() -> None:
    model = descriptor.find("embedded")
    descriptor.verify(model)
    assert model.synthetic
    assert "synthetic" in model.training_data.lower()
    assert set(model.inputs) == {BOTH, ("T1w",), ("FLAIR",)}
    assert sum(f.size for f in model.files) <= 12_000_000
