"""Descriptors: what they hold, what is refused, and how a model is chosen."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from bids_stroke.core import files
from bids_stroke.errors import InputMissing, UnusableData
from bids_stroke.models import descriptor
from tests.tiny_model import write_model

BOTH = ("T1w", "FLAIR")
STEPS_OF_ONE = 'steps = ["reorient", "brain_extraction", "zscore"]\nreference = "T1w"'


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
        ('reference = "T1w"', 'reference = "T1w"\nn4_levels = 0', "n4_levels is 1 to 6"),
        ('reference = "T1w"', 'reference = "T1w"\nn4_levels = 7', "n4_levels is 1 to 6"),
        ('"brain_extraction", ', "", "brain_extraction"),
        ("threshold = 0.5", "threshold = 1.5", "threshold"),
        ("threshold = 0.5", "threshold = 0.5\nconnectivity = 8", "connectivity"),
        ('folder = "tiny"', 'folder = "../elsewhere"', "outside"),
        ('path = "tiny/plans.json"', 'path = "/etc/passwd"', "outside"),
        ('channels = ["T1w", "FLAIR"]', 'channels = ["DWI"]', "channels"),
        ('["FLAIR"]]', '["DWI"]]', "inputs"),
        ('["FLAIR"]]', '["T1w-mirrored"]]', "inputs"),
        ('channels = ["T1w", "FLAIR"]', 'channels = ["T1w", "T2w-mirrored"]', "channels"),
        ('format = "nnunetv2"', 'format = "pickle"', "format"),
        ("[inference]\n", "[inference]\nstep_size = 0", "step_size"),
        ("[inference]\n", '[inference]\ncheckpoint = "../../x.pth"', "plain name"),
        ("[inference]\n", '[inference]\nfolds = ["0/../../x"]', "plain name"),
        ('name = "tiny"', 'name = "../tiny"', "plain word"),
        ("synthetic = true", 'purpose = "tumours"', "purpose"),
        ('channels = ["T1w", "FLAIR"]', 'channels = ["T1w", "T1w"]', "different"),
        ("[inference]\n", '[source]\nurl = "x"\n[inference]\n', "unknown key 'url'"),
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


def test_checksums_that_are_not_stated_are_read_once_for_a_state_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = descriptor.load(write_model(tmp_path))
    model = replace(model, files=tuple(replace(file, sha256="") for file in model.files))
    read: list[Path] = []
    real = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: read.append(path) or real(path))
    first = model.checksums()
    assert first == model.checksums() == {f.path: real(model.root / f.path) for f in model.files}
    assert len(read) == len(model.files)
    changed = model.files[0].path
    (model.root / changed).write_bytes(b"other weights")
    assert model.checksums() == first | {changed: real(model.root / changed)}
    assert read[len(model.files) :] == [model.root / changed]


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


def test_auto_prefers_the_model_made_for_these_images(tmp_path: Path) -> None:
    """Before a newer one that leaves a channel empty."""
    path = write_model(tmp_path, channels=("FLAIR",), inputs=(("FLAIR",),))
    path.write_text(path.read_text().replace('version = "1.0"', 'version = "0.1"'))
    assert descriptor.choose("auto", ("FLAIR",), tmp_path)[0].name == "tiny"


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


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "store")
    (tmp_path / "elsewhere.json").write_text("{}")
    plans = tmp_path / "store" / "tiny" / "plans.json"
    plans.unlink()
    plans.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UnusableData, match="outside"):
        descriptor.load(path)


def test_written_descriptors_are_read_back_equal(tmp_path: Path) -> None:
    path = write_model(tmp_path, inference='folds = [0, "all"]\nmirror_axes = [2]')
    model = descriptor.load(path)
    path.write_text(descriptor.dumps(model))
    assert descriptor.load(path) == model


@pytest.mark.parametrize("model", descriptor.known(), ids=lambda m: m.name)
def test_known_models_say_where_they_come_from(model: descriptor.Descriptor) -> None:
    assert model.source.page.startswith("https://")
    assert model.source.note
    assert model.folder == model.name
    assert model.licence and model.citation
    pinned = bool(model.files) and all(f.sha256 for f in model.files)
    assert pinned or "pinned" in model.source.note
    addresses = [f.url for f in model.files] + [model.source.archive, model.source.manifest]
    assert all(a.startswith("https://") for a in addresses if a)
    assert not descriptor.is_whole(model)


def test_known_models_of_the_guide_are_there() -> None:
    models = {m.name: m for m in descriptor.known()}
    dual = models["mmstrokenet-dual"]
    assert dual.channels == ("FLAIR", "T1w")
    assert dual.inference.resample == "probabilities"
    assert (dual.operating_point.threshold, dual.operating_point.min_volume_mm3) == (0.2, 10)
    assert {"mmstrokenet-atlas", "mmstrokenet-t1w", "hd-bet"} <= set(models)
    isles = models["isles26-d507-topk10"]
    assert (isles.operating_point.threshold, isles.operating_point.min_volume_mm3) == (0.35, 20)
    assert len(isles.files) == 7
    assert isles.source.manifest


def test_known_models_are_never_chosen_while_absent(tmp_path: Path) -> None:
    chosen, _ = descriptor.choose("auto", ("T1w",), tmp_path)
    assert chosen.name == "embedded-t1w"
    with pytest.raises(InputMissing, match="not installed .* show isles26-d507-topk10"):
        descriptor.choose("isles26-d507-topk10", ("T1w",), tmp_path)


@pytest.mark.parametrize("name", ["embedded", "embedded-t1w", "lesiongnb"])
def test_our_models_see_n4_of_the_brain_only(name: str, tmp_path: Path) -> None:
    """As the cases that they were fitted on or measured with."""
    steps = descriptor.find(name, tmp_path).preprocessing.steps
    assert steps.index("brain_extraction") < steps.index("crop") < steps.index("n4")


def test_incomplete_models_are_never_chosen(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    path.write_text(path.read_text().replace("synthetic = true", "synthetic = false"))
    (tmp_path / "tiny" / "plans.json").unlink()
    chosen, _ = descriptor.choose("auto", BOTH, tmp_path)
    assert chosen.name == "embedded"


def test_models_of_brains_are_never_chosen_for_lesions(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    text = path.read_text().replace("synthetic = true", 'purpose = "brain"')
    path.write_text(text)
    assert descriptor.choose("auto", BOTH, tmp_path)[0].name == "embedded"
    with pytest.raises(UnusableData, match="finds the brain"):
        descriptor.choose("tiny", BOTH, tmp_path)
    assert descriptor.brain_weights(tmp_path) == tmp_path / "tiny"
    assert descriptor.brain_weights(tmp_path / "none") is None


def test_the_store_is_the_flag_the_variable_or_the_data_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIDS_STROKE_MODELS", "/named")
    assert descriptor.models_folder(tmp_path) == tmp_path
    assert descriptor.models_folder() == Path("/named")
    monkeypatch.delenv("BIDS_STROKE_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert descriptor.models_folder() == Path("/data/bids_stroke/models")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert descriptor.models_folder() == Path("/home/me/.local/share/bids_stroke/models")


def test_a_store_of_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_DATA_HOME", descriptor.STORE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # not among the users
    assert descriptor.models_folder() == Path("/.local/share/bids_stroke/models")


def test_models_of_the_variable_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path)
    monkeypatch.setenv("BIDS_STROKE_MODELS", str(tmp_path))
    assert descriptor.find("tiny").root == tmp_path


@pytest.mark.parametrize(
    ("steps", "fits"),
    [
        ('["reorient", "brain_extraction"]', True),
        ('["reorient", "brain_extraction", "register"]', True),
        ('["brain_extraction", "reorient"]', False),
        ('["reorient", "brain_extraction", "zscore"]', False),
        ('["reorient", "brain_extraction", "crop"]', False),
    ],
)
def test_a_whole_head_is_not_preprocessed_further(tmp_path: Path, steps: str, fits: bool) -> None:
    table = f'steps = {steps}\nreference = "T1w"\nwhole_head = true'
    path = write_model(tmp_path, preprocessing=table)
    if fits:
        assert descriptor.load(path).preprocessing.whole_head
    else:
        with pytest.raises(UnusableData, match="whole_head allows only"):
            descriptor.load(path)


def test_a_mirrored_channel_needs_no_image_of_its_own(tmp_path: Path) -> None:
    """Nor is it an empty channel when models are ranked: the newer of two alike is chosen."""
    t1w = {"inputs": (("T1w",),), "preprocessing": STEPS_OF_ONE}
    plain = write_model(tmp_path, channels=("T1w",), **t1w)
    newer = write_model(tmp_path / "newer", channels=("T1w", "T1w-mirrored"), **t1w)
    text = newer.read_text().replace('name = "tiny"', 'name = "mirror"')
    newer.write_text(text.replace('version = "1.0"', 'version = "1.1"'))
    models = [descriptor.load(path) for path in (plain, newer)]
    assert descriptor.accepted(models[1], ("T1w",)) == ("T1w",)
    assert max(models, key=lambda m: descriptor._rank(m, ("T1w",))).name == "mirror"
