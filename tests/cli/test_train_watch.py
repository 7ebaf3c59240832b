"""What is said while folds train."""

import time

from bids_stroke.cli.train_watch import Watch, estimate_line, newest_progress, progress_line
from bids_stroke.core.files import write_json
from bids_stroke.models.dataset import Places

PROGRESS = {
    "stage": "adapt",
    "fold": 1,
    "epoch": 3,
    "epochs": 10,
    "iteration": 25,
    "iterations": 250,
    "loss": -0.5,
    "dice": 0.75,
    "seconds_per_iteration": 0.5,
    "seconds_left": 90.0,
    "time": 2.0,
}


def test_a_line_says_where_a_fold_is_and_when_it_will_be_done():
    assert progress_line(PROGRESS) == (
        "fold 1, adapt: epoch 3 of 10, iteration 25 of 250, loss -0.500, Dice 0.750, "
        "0.50 s an iteration, 1 min 30 s left in this stage"
    )
    early = {**PROGRESS, "loss": None, "dice": None, "seconds_per_iteration": 0.0}
    assert progress_line(early) == "fold 1, adapt: starts at epoch 3"
    late = {**PROGRESS, "seconds_left": 0.0}
    assert progress_line(late) == "fold 1, adapt: all 10 epochs are done"


def test_the_estimate_is_for_all_folds():
    found = {"seconds_per_iteration": 0.5, "seconds": 60.0, "memory_gb": 1.2}
    found |= {"device": "cpu", "ranks": 1}
    said = estimate_line(found, 5)
    assert "1 min 0 s a fold, 5 min 0 s for 5 folds" in said and "1.2 GB each on cpu" in said
    assert "1.2 GB for each of 2 processes on cuda" in estimate_line(
        {**found, "device": "cuda", "ranks": 2}, 1
    )


def test_the_stage_that_was_told_last_counts(tmp_path):
    places = Places(tmp_path, "m")
    assert newest_progress(places, 1) is None
    for number, stage in enumerate(("skeleton", "adapt")):
        told = {**PROGRESS, "stage": stage, "time": float(number)}
        folder = places.results / stage / "fold_1"
        folder.mkdir(parents=True)
        write_json(folder / "progress.json", told)
    found = newest_progress(places, 1)
    assert found is not None and found["stage"] == "adapt"


def test_news_are_said_and_old_ones_are_not(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bids_stroke.cli.train_watch.LOOK_EVERY_S", 0.01)
    pages = []
    monkeypatch.setattr(Watch, "_write_page", lambda self: pages.append(1))
    places = Places(tmp_path, "m")
    for fold, told in ((0, time.time() + 5), (1, 1.0)):
        folder = places.results / "train" / f"fold_{fold}"
        folder.mkdir(parents=True)
        write_json(folder / "progress.json", {**PROGRESS, "fold": fold, "time": told})
    until = time.monotonic() + 60
    with Watch(places, tmp_path, [0, 1]):
        while not pages and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.1)  # it looks again
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and said[0].startswith("fold 0, adapt")
    assert pages == [1]
