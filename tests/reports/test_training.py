"""The report of a training: while it runs, and at its end."""

import numpy as np
import pandas as pd
import pytest

from bids_stroke.core import metrics
from bids_stroke.core.files import read_json, save_image, write_json
from bids_stroke.core.splits import make_splits
from bids_stroke.models.dataset import Case, Places, write_cases, write_splits
from bids_stroke.models.recipe import plain
from bids_stroke.reports.tables import write_runs
from bids_stroke.reports.training import COLUMNS, write_results, write_training_page
from tests.training_data import AFFINE, session, tiny_recipe


@pytest.fixture
def places(tmp_path):
    """A training of two folds, after two epochs of its only stage."""
    places, recipe = Places(tmp_path / "tiny", "tiny"), tiny_recipe()
    places.preprocessed.mkdir(parents=True)
    cases = [_case(tmp_path, number) for number in (1, 2, 3, 4)]
    write_cases(cases, places.root / "cases.json")
    write_splits(places, make_splits([c.item() for c in cases], 2, 1), cases)
    setup = {"recipe": plain(recipe), "training_data": "4 balls", "synthetic": True}
    setup |= {"pretrained_name": "", "methods": "We trained.", "group_by": "participant"}
    write_json(places.root / "setup.json", setup)
    settings = {
        "architecture": {"network_class_name": "a.b.PlainConvUNet"},
        "patch_size": [16, 16, 16],
        "spacing": [3.0, 3.0, 3.0],
        "batch_size": 2,
    }
    plans = {"bids_stroke": plain(recipe), "configurations": {"3d_fullres": settings}}
    write_json(places.preprocessed / "train.json", plans)
    for fold in (0, 1):
        folder = places.results / "RunTrainer__train__3d_fullres" / f"fold_{fold}"
        folder.mkdir(parents=True)
        rows = [
            {"epoch": e, "loss": 1 / e, "validation_loss": None, "dice": {"sub-01": 0.2 * e}}
            for e in (1, 2)
        ]
        write_json(folder / "curves.json", rows)
        progress = {"stage": "train", "fold": fold, "epoch": 3, "epochs": 4, "time": 1.0}
        progress |= {"seconds_per_iteration": 0.5, "seconds_left": 90.0}
        write_json(folder / "progress.json", progress)
    return places


def _case(folder, number):
    images, brain, lesion = session(number)
    files = {}
    for name, data in {"T1w": images["T1w"], "brain": brain, "truth": lesion}.items():
        path = folder / f"{number}_{name}.nii.gz"
        files[name] = str(save_image(data, AFFINE, path, dtype=np.float32))
    label = f"sub-{number:02d}"
    return Case(
        case=label,
        participant=label,
        session="",
        group=label,
        images={"T1w": files["T1w"]},
        brain=files["brain"],
        label=files["truth"],
        space="T1w",
        native=files["T1w"],
        native_brain=files["brain"],
        truth=files["truth"],
        volume_ml=float(number),
    )


def test_the_page_of_a_run_that_goes_on(places, tmp_path):
    html = write_training_page(places.root, tmp_path).read_text(encoding="utf-8")
    assert "not finished" in html
    assert html.count("<polyline") == 4  # loss and Dice of two folds
    assert "1 min 30 s" in html and "3 of 4" in html
    assert "synthetic lesions" in html
    assert "Worst sessions" not in html and "How to run the model" not in html


def test_after_one_epoch_the_curves_are_dots(places, tmp_path):
    for path in places.results.glob("*/fold_*/curves.json"):
        write_json(path, read_json(path)[:1])
    html = write_training_page(places.root, tmp_path).read_text(encoding="utf-8")
    assert html.count("<circle") == 4 and "<polyline" not in html
    assert ">1.2<" not in html  # epochs are whole


def test_one_participant_gives_no_interval(places, tmp_path):
    _finish(places)
    path = places.root / "cross_validation.tsv"
    pd.read_csv(path, sep="\t").head(1).to_csv(path, sep="\t", index=False, na_rep="n/a")
    html = write_training_page(places.root, tmp_path).read_text(encoding="utf-8")
    assert "nan" not in html.replace("Nan", "") and ", median 0." in html


def test_the_page_before_any_epoch(places, tmp_path):
    for path in places.results.glob("*/fold_*/*.json"):
        path.unlink()
    assert "No epoch has ended yet" in write_training_page(places.root, tmp_path).read_text()


def _finish(places):
    splits = read_json(places.root / "splits.json")
    rows = []
    for fold, split in enumerate(splits):
        for label in split["val"]:
            _, brain, lesion = session(int(label[-2:]))
            found = np.roll(lesion, fold, axis=0)
            folder = places.validation / f"fold_{fold}"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{label}.nii.gz"
            save_image(0.9 * found, AFFINE, path, dtype=np.float32)
            values = metrics.agreement(lesion, found, AFFINE, probability=found * 0.9, brain=brain)
            keys = {"participant_id": label, "session_id": None, "label": label, "space": "T1w"}
            point = {"fold": fold, "threshold": 0.5, "min_volume_mm3": 10.0}
            rows.append({**keys, **point, **values})
    path = places.root / "cross_validation.tsv"
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False, na_rep="n/a")


def test_the_end_of_a_run(places, tmp_path):
    _finish(places)
    lines = write_results(places.root, tmp_path)
    assert "over 4 sessions: Dice 0." in lines[0]
    table = pd.read_csv(tmp_path / "group_metrics.tsv", sep="\t")
    assert list(table.columns) == list(COLUMNS) == list(read_json(tmp_path / "group_metrics.json"))
    assert set(table["model"]) == {"tiny"}
    assert set(table["run"]) == {"cross-validation of tiny"}
    html = write_training_page(places.root, tmp_path).read_text(encoding="utf-8")
    assert "not finished" not in html
    assert html.count("data:image/webp") == 3
    worst = table.sort_values("dice")["label"].iloc[0]
    assert f"<h3>{worst}: Dice" in html


def test_the_group_level_and_other_trainings_keep_their_rows(places, tmp_path):
    _finish(places)
    path = tmp_path / "group_metrics.tsv"
    of_group = pd.DataFrame([{"run": "this", "label": "sub-01", "reference_resampled": True}])
    meanings = {"run": "Run.", "label": "Label.", "reference_resampled": "Brought to a grid?"}
    write_runs(of_group, meanings, path, lambda run: not run.startswith("cross-validation"))
    write_results(places.root, tmp_path)
    write_results(places.root, tmp_path)  # again: its own rows are replaced
    table = pd.read_csv(path, sep="\t")
    assert table["run"].tolist() == ["cross-validation of tiny"] * 4 + ["this"]
    assert table["reference_resampled"].tolist()[-1] in (True, "True")
    assert list(table.columns) == list(read_json(path.with_suffix(".json")))
    (places.root.parent / "other").mkdir()
    other = places.root.rename(places.root.parent / "other" / "second")
    write_results(other, tmp_path)
    write_runs(of_group.iloc[:0], meanings, path, lambda run: run == "this")
    runs = pd.read_csv(path, sep="\t")["run"].value_counts().to_dict()
    assert runs == {"cross-validation of tiny": 4, "cross-validation of second": 4}
    write_runs(of_group.iloc[:0], meanings, path, lambda run: True)
    assert not path.exists() and not path.with_suffix(".json").exists()
