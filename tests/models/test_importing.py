"""Import into the store: what is found in folders and zips, what the descriptor says, refusals."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bids_stroke.core.files import read_json, write_json
from bids_stroke.errors import InputMissing, UnusableData, UsageError
from bids_stroke.models import descriptor, predictor, v1
from bids_stroke.models.channels import CHANNELS
from bids_stroke.models.importing import Wishes, import_model, modality
from tests import v1_model
from tests.bad_models import UNPINNED
from tests.tiny_model import write_model

CHECKPOINT = "fold_0/checkpoint_final.pth"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def v2_folder(tmp_path: Path, **more: Any) -> Path:
    """A model folder of nnU-Net v2, as its trainer leaves it."""
    results = tmp_path / "results"
    write_model(results, **more)
    folder = results / "Dataset999_Tiny" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    folder.parent.mkdir()
    (results / "tiny").rename(folder)
    (results / "tiny.toml").unlink()
    (folder / "fold_0" / "progress.png").write_bytes(b"picture")
    (folder / "fold_0" / "checkpoint_best.pth").write_bytes(b"another")
    (folder / "dataset_fingerprint.json").write_text("{}")
    return folder


def v1_folder(tmp_path: Path, names: tuple[str, ...] = ("flair", "t1"), **more: Any) -> Path:
    folder = tmp_path / "3d_fullres" / "Task777" / "nnUNetTrainerV2__nnUNetPlansv2.1"
    state = v1_model.weights(len(names))
    return v1_model.write(folder, state, v1_model.plans(names), **more)


def zipped(folder: Path, path: Path) -> Path:
    """What nnUNetv2_export_model_to_zip writes: the folders from the results folder on."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parents[1]))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_or_zip_of_v2(tmp_path: Path, store: Path, packed: bool) -> None:
    folder = v2_folder(tmp_path, folds=2)
    source = zipped(folder, tmp_path / "model.zip") if packed else folder.parent
    wishes = Wishes(reference="T1w", threshold=0.4, texts={"licence": "CC0-1.0", "title": ""})
    model, checks = import_model(source, store, wishes)
    assert checks == ()
    assert model == descriptor.find("dataset999_tiny", store)
    descriptor.verify(model)
    listed = {f.path.removeprefix("dataset999_tiny/") for f in model.files}
    assert listed == {"plans.json", "dataset.json", CHECKPOINT, "fold_1/checkpoint_final.pth"}
    assert all(f.sha256 and f.size for f in model.files)
    assert (model.model_folder / CHECKPOINT).read_bytes() == (folder / CHECKPOINT).read_bytes()
    assert model.channels == ("T1w", "FLAIR")
    assert model.operating_point.threshold == 0.4
    assert model.inference.resample == "logits"
    assert model.licence == "CC0-1.0"
    assert model.title == "Dataset999_Tiny"
    assert "Assumed" in model.description and "threshold" not in model.description
    assert sorted(p.name for p in store.iterdir()) == ["dataset999_tiny", "dataset999_tiny.toml"]
    assert descriptor.choose("auto", ("T1w", "FLAIR"), store)[0].name == "dataset999_tiny"


def test_an_imported_model_predicts_as_its_folder_did(tmp_path: Path, store: Path) -> None:
    here = tmp_path / "here"
    before = predictor.load(descriptor.load(write_model(here)))
    wishes = Wishes(name="mine", reference="FLAIR", inputs=(("T1w", "FLAIR"), ("FLAIR",)))
    model, _ = import_model(here / "tiny", store, wishes)
    assert model.inputs == (("T1w", "FLAIR"), ("FLAIR",))
    image = {m: np.random.default_rng(i).random((20, 22, 18)) for i, m in enumerate(model.channels)}
    after = predictor.load(model)
    spacing = (2.0, 2.0, 2.0)
    assert np.array_equal(
        predictor.predict(before, image, spacing), predictor.predict(after, image, spacing)
    )


def test_another_checkpoint_and_some_folds(tmp_path: Path, store: Path) -> None:
    folder = v2_folder(tmp_path, folds=2)
    for fold in ("fold_0", "fold_1"):
        final = folder / fold / "checkpoint_final.pth"
        final.replace(folder / fold / "checkpoint_best.pth")
    with pytest.raises(InputMissing, match="checkpoint_best"):
        import_model(folder, store, Wishes(reference="T1w"))
    wishes = Wishes(
        reference="T1w", checkpoint="checkpoint_best.pth", folds=("1",), mirror_axes=(2,)
    )
    model, _ = import_model(folder, store, wishes)
    assert list(predictor.load(model).folds) == ["1"]
    assert model.inference.mirror_axes == (2,)


def test_a_folder_of_v1_as_a_known_model(tmp_path: Path, store: Path) -> None:
    folder = v1_folder(tmp_path)
    model, (check,) = import_model(folder, store, Wishes(known="mmstrokenet-dual"))
    known = next(m for m in descriptor.known() if m.name == "mmstrokenet-dual")
    assert model == descriptor.find("mmstrokenet-dual", store)
    assert check.largest_difference <= v1.TOLERANCE
    assert model.channels == known.channels == ("FLAIR", "T1w")
    assert model.operating_point == known.operating_point
    assert model.inference.resample == "probabilities"
    assert model.licence == known.licence
    assert predictor.available_folds(model) == ("0",)
    images = {m: np.random.default_rng(1).random((20, 22, 18)) for m in ("T1w", "FLAIR")}
    probability = predictor.predict(predictor.load(model), images, (1.0, 1.0, 1.0))
    assert 0 <= probability.min() < probability.max() <= 1


def test_a_folder_of_v1_by_itself(tmp_path: Path, store: Path) -> None:
    v1_folder(tmp_path, ("t1",))
    model, _ = import_model(tmp_path / "3d_fullres", store, Wishes())
    assert model.name == "task777"
    assert (model.channels, model.preprocessing.reference) == (("T1w",), "T1w")
    assert model.inference.resample == "probabilities"
    assert "converted from nnU-Net v1" in model.description


@pytest.mark.parametrize("fold", ["fold_3", "all"])
def test_one_fold_of_v1_by_its_folder(tmp_path: Path, store: Path, fold: str) -> None:
    folder = v1_folder(tmp_path, ("t1",), fold=fold)
    for source in (folder, folder / fold):
        model, _ = import_model(source, store, Wishes(overwrite=True))
        assert predictor.available_folds(model) == (fold.removeprefix("fold_"),)


def test_a_known_model_with_other_channels_is_refused(tmp_path: Path, store: Path) -> None:
    folder = v1_folder(tmp_path, ("t1", "flair"))
    with pytest.raises(UnusableData, match="T1w, FLAIR, but 'mmstrokenet-dual' has FLAIR, T1w"):
        import_model(folder, store, Wishes(known="mmstrokenet-dual"))
    with pytest.raises(UsageError, match="is not known: --as takes"):
        import_model(folder, store, Wishes(known="other"))


def test_a_mirrored_channel_is_read_from_the_files(tmp_path: Path, store: Path) -> None:
    folder = write_model(tmp_path, channels=("T1w", "T1w-mirrored"), inputs=(("T1w",),)).parent
    model, _ = import_model(folder / "tiny", store, Wishes(name="mirror"))
    assert model.channels == ("T1w", "T1w-mirrored") and model.inputs == (("T1w",),)
    assert model.preprocessing.reference == "T1w"


def test_what_files_do_not_tell_must_be_said(tmp_path: Path, store: Path) -> None:
    folder = v2_folder(tmp_path)
    dataset = read_json(folder / "dataset.json")
    with pytest.raises(UsageError, match="--reference .*T1w or FLAIR"):
        import_model(folder, store, Wishes())
    write_json(folder / "dataset.json", {**dataset, "channel_names": {"0": "MR", "1": "other"}})
    with pytest.raises(UsageError, match="called MR, other: .*--channels"):
        import_model(folder, store, Wishes(reference="T1w"))
    wishes = Wishes(channels=("FLAIR", "T1w"), reference="FLAIR")
    assert import_model(folder, store, wishes)[0].channels == ("FLAIR", "T1w")


def test_another_number_of_channels_is_refused(tmp_path: Path, store: Path) -> None:
    folder = v2_folder(tmp_path)
    with pytest.raises(UnusableData, match="takes 2 channels, but 1 are named"):
        import_model(folder, store, Wishes(channels=("T1w",)))
    assert list(store.iterdir()) == []


def test_one_of_several_is_named(tmp_path: Path, store: Path) -> None:
    folder = v2_folder(tmp_path)
    v1_folder(tmp_path, ("t1",))
    with pytest.raises(UnusableData, match="holds 2 models .*--inside .*Dataset999_Tiny/nnUNet"):
        import_model(tmp_path, store, Wishes())
    inside = folder.relative_to(tmp_path).as_posix()
    model, _ = import_model(tmp_path, store, Wishes(inside=inside, reference="T1w"))
    assert model.name == "dataset999_tiny"
    with pytest.raises(UnusableData, match="holds 0 models"):
        import_model(folder / "fold_0", store, Wishes())
    with pytest.raises(InputMissing, match="--inside"):
        import_model(tmp_path, store, Wishes(inside="none"))
    with pytest.raises(InputMissing, match="to import"):
        import_model(tmp_path / "none.zip", store, Wishes())


def test_a_name_is_taken_once(tmp_path: Path, store: Path) -> None:
    folder = v2_folder(tmp_path)
    first, _ = import_model(folder, store, Wishes(reference="T1w"))
    with pytest.raises(UsageError, match="already"):
        import_model(folder, store, Wishes(reference="FLAIR"))
    assert descriptor.find(first.name, store) == first
    second, _ = import_model(folder, store, Wishes(reference="FLAIR", overwrite=True))
    assert descriptor.find(first.name, store) == second != first
    with pytest.raises(UsageError, match="comes with the program"):
        import_model(folder, store, Wishes(reference="T1w", name="embedded", overwrite=True))
    for name in ("../escaped", "/escaped", ".hidden", "a/b", "a.toml"):
        with pytest.raises(UsageError, match="can't name a model"):
            import_model(folder, store, Wishes(reference="T1w", name=name))
    assert len(list(store.iterdir())) == 2


def change_weights(folder: Path, change: Any) -> None:
    checkpoint = torch.load(folder / CHECKPOINT, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, folder / CHECKPOINT)


def wrong_shape(checkpoint: dict[str, Any]) -> None:
    name = "decoder.stages.0.convs.0.conv.weight"
    checkpoint["network_weights"][name] = torch.zeros(2, 2, 3, 3, 3)


class Hostile:
    def __reduce__(self) -> Any:
        return print, ("this must never be printed",)


def hostile(checkpoint: dict[str, Any]) -> None:
    checkpoint["logging"] = Hostile()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (wrong_shape, "don't fit the network"),
        (hostile, "more than tensors"),
        (lambda c: c.pop("network_weights"), "network_weights"),
        (lambda c: c.pop("init_args"), "init_args"),
        (lambda c: c["init_args"].update(configuration="2d"), "2d"),
    ],
)
def test_weights_that_can_not_be_run_are_refused(
    tmp_path: Path,
    store: Path,
    capsys: pytest.CaptureFixture[str],
    change: Any,
    reason: str,
) -> None:
    folder = v2_folder(tmp_path)
    change_weights(folder, change)
    with pytest.raises(UnusableData, match=reason):
        import_model(folder, store, Wishes(reference="T1w"))
    assert list(store.iterdir()) == []
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("plans.json", "{}", "dataset_name"),
        ("plans.json", "no JSON", "can be read"),
        ("plans.json", '{"dataset_name": "X"}', "lack something"),
        ("dataset.json", "[]", "can be read"),
        ("dataset.json", '{"channel_names": {"0": "T1w", "1": "FLAIR"}}', "labels"),
    ],
)
def test_json_that_is_no_model_is_refused(
    tmp_path: Path, store: Path, name: str, content: str, reason: str
) -> None:
    folder = v2_folder(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(UnusableData, match=reason):
        import_model(folder, store, Wishes(reference="T1w"))
    assert list(store.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans format")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", UNPINNED)
def test_what_is_wrong_is_named_by_the_path_that_the_user_gave(
    tmp_path: Path, store: Path, case: str, packed: bool
) -> None:
    """Each fault of tests.bad_models, whether it is found in the user's folder or in the copy."""
    folder = v2_folder(tmp_path)
    (tmp_path / "tiny").symlink_to(folder)
    UNPINNED[case][0](tmp_path)
    source = zipped(folder, tmp_path / "model.zip") if packed else folder
    with pytest.raises((UnusableData, UsageError, InputMissing)) as caught:
        import_model(source, store, Wishes(reference="T1w"))
    assert str(source) in str(caught.value)
    assert ".staging" not in str(caught.value)
    assert list(store.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("T1", "T1w"),
        ("t1w", "T1w"),
        ("MR_T1", "T1w"),
        ("T1-weighted", "T1w"),
        ("anatomy-brain/t1_skull_stripped", "T1w"),
        ("flair", "FLAIR"),
        ("T2-FLAIR", "FLAIR"),
        ("flair_time01", "FLAIR"),
        ("T1w-mirrored", "T1w-mirrored"),
        ("T1ce", ""),
        ("T1Gd", ""),
        ("T10", ""),
        ("T2", ""),
        ("DWI", ""),
        ("CT", ""),
        ("", ""),
    ],
)
def test_names_of_channels(name: str, ours: str) -> None:
    assert modality(name) == ours


@given(st.text())
def test_any_name_is_a_modality_or_nothing(name: str) -> None:
    assert modality(name) in (*CHANNELS, "")
