"""The page of a participant: what it says, and that nothing on it points elsewhere."""

import re
from base64 import b64decode
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bids_stroke.core.crashes import read_crash
from bids_stroke.reports import collect, pages, participant, viewer
from tests.reports import fake

PAGES = ("sub-01.html", "sub-02.html", "sub-03.html", "group.html", "model-embedded.html")


def own(html: str) -> str:
    """A page without the library that it carries, which names addresses in its comments."""
    return html.replace(str(viewer.niivue()), "")


@pytest.mark.parametrize("page", PAGES)
def test_no_address_outside_the_file(outputs: Path, page: str) -> None:
    html = own((outputs / page).read_text(encoding="utf-8"))
    assert not re.search(r"https?://|//\w+\.\w+/|@import|url\(", html)
    for address in re.findall(r'(?:src|href)="([^"]*)"', html):
        beside = re.fullmatch(r"(sub|model)-\w+\.html(#.*)?", address)
        assert address.startswith(("data:", "#")) or beside


@pytest.mark.parametrize("page", PAGES)
def test_hostile_text_is_escaped(outputs: Path, page: str) -> None:
    html = (outputs / page).read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "<i>raw" not in html
    assert "short <b>" not in html


def test_the_answer_comes_first(outputs: Path) -> None:
    html = (outputs / "sub-01.html").read_text(encoding="utf-8")
    assert html.index("7.30 mL in 2 lesions") < html.index("Why this model")
    assert "5.18 mL in 1 lesion, in the left hemisphere" in html
    assert "the model was trained on synthetic lesions" in html


def test_columns_without_any_value_are_not_shown(outputs: Path) -> None:
    html = (outputs / "sub-01.html").read_text(encoding="utf-8")
    assert "Members that see it" not in html and "Disagreement" not in html
    table = pd.DataFrame({"members_share": [np.nan, 0.5], "disagreement": [np.nan, np.nan]})
    shown = participant.table_columns(table)
    assert "members_share" in shown and "disagreement" not in shown


def test_a_session_without_lesions_says_so_and_has_nothing_to_switch(outputs: Path) -> None:
    html = (outputs / "sub-02.html").read_text(encoding="utf-8")
    assert "None: no place has a probability of" in html
    assert "Outlined" not in html and "through each lesion" not in html


def test_all_figures_of_the_session_are_there(outputs: Path) -> None:
    html = (outputs / "sub-01.html").read_text(encoding="utf-8")
    figures = list((outputs / "sub-01" / "figures").glob("*.webp"))
    assert html.count('src="data:image/webp') == len(figures) == 24
    assert own(html).count("<img ") == own(html).count('alt="')


def test_ids_are_unique(outputs: Path) -> None:
    for page in PAGES:
        ids = re.findall(r'\bid="([^"]+)"', own((outputs / page).read_text(encoding="utf-8")))
        assert len(ids) == len(set(ids)), page


def test_no_lesion_and_one_modality(outputs: Path) -> None:
    html = (outputs / "sub-02.html").read_text(encoding="utf-8")
    assert "No lesion found" in html
    assert "Registration of T1w" not in html


def test_a_failed_participant_has_a_page_with_the_reason(outputs: Path) -> None:
    html = (outputs / "sub-03.html").read_text(encoding="utf-8")
    assert "sub-03_T1w.nii.gz is cut short &lt;b&gt;: copy it again." in html
    assert "<details>" in html


def test_a_session_shows_the_failure_that_is_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fake.write_session(out, {"subject": "01", "session": "1"}, ("T1w",))
    crash = out / "logs" / "run" / "sub-01" / "crash-1.txt"
    crash.parent.mkdir(parents=True)
    crash.write_text(fake.CRASH.replace("sub_03_wf", "sub_01_ses_1_wf"))
    html = participant.write_participant_report(out, "01").read_text(encoding="utf-8")
    assert html.index('id="sub-01_ses-1"') < html.index("is cut short")


def test_an_unknown_participant_gets_a_page_that_says_so(tmp_path: Path) -> None:
    html = participant.write_participant_report(tmp_path, "99").read_text(encoding="utf-8")
    assert "no results for this participant" in html


def test_labels_that_begin_alike_keep_their_figures_apart(tmp_path: Path) -> None:
    for run in ("1", "10"):
        fake.write_session(tmp_path, {"subject": "01", "run": run}, ("T1w",), count=int(run) % 2)
    first, second = collect.sessions(tmp_path, "01")
    assert {p.name.split("_desc")[0] for p in first.figures.values()} == {first.label}
    assert {p.name.split("_desc")[0] for p in second.figures.values()} == {second.label}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (fake.CRASH, "sub-03_T1w.nii.gz is cut short <b>: copy it again."),
        ("Node: a.b\n\nbids_stroke.errors.UnusableData: No model.\n", "No model."),
        ("Traceback\n  ZeroDivisionError: division by zero", "division by zero"),
        ("only words", "only words"),
        ("", "The step failed without a message."),
    ],
)
def test_first_sentence_of_a_crash(text: str, sentence: str) -> None:
    assert read_crash(text).message == sentence


@pytest.mark.parametrize(
    ("volumes", "words"),
    [
        ({"left": 10.0}, "in the left hemisphere"),
        ({"right": 95.0, "left": 5.0}, "almost all in the right hemisphere"),
        ({"right": 99.9, "left": 0.1}, "almost all in the right hemisphere"),
        ({"right": 60.0, "left": 40.0}, "mostly in the right hemisphere (60%)"),
        ({"left": 45.0, "right": 42.0, "midline": 13.0}, "in both hemispheres"),
        ({"left": 51.0, "right": 49.0}, "in both hemispheres"),
        ({"midline": 3.0}, "near the midline"),
        ({}, ""),
    ],
)
def test_side_in_words(volumes: dict[str, float], words: str) -> None:
    table = pd.DataFrame({"side": list(volumes), "volume_mm3": list(volumes.values())})
    assert participant._side(table) == words


def test_the_template_tells_the_side_better_than_the_scanner() -> None:
    table = pd.DataFrame(
        {"side": ["right", "left"], "hemisphere": ["both", "left"], "volume_mm3": [60.0, 40.0]}
    )
    assert participant._side(table) == "in both hemispheres"


def test_numbers_in_words() -> None:
    assert [pages.duration(s) for s in (0.2, 59.0, 200)] == ["0.2 s", "59.0 s", "3 min 20 s"]


def noise(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (300, 660, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path


@pytest.mark.parametrize("share", [0.7, 0.2])
def test_a_picture_keeps_its_share_of_bytes(tmp_path: Path, share: float) -> None:
    path = noise(tmp_path / "a.webp")
    content = b64decode(pages.data_uri(path, share).partition(",")[2])
    assert len(content) <= share * path.stat().st_size
    assert b64decode(pages.data_uri(path).partition(",")[2]) == path.read_bytes()


@pytest.mark.parametrize("sessions", [1, 3, 8, 40])
def test_the_budget_of_a_page_is_kept(tmp_path: Path, sessions: int) -> None:
    path = noise(tmp_path / "a.webp")
    drawn = 3_000_000 // path.stat().st_size
    session = SimpleNamespace(figures=dict.fromkeys(range(drawn), path))
    share, max_bytes = participant._budget([session] * sessions)
    pictures = share * drawn * path.stat().st_size * 4 / 3
    assert sessions * (pictures + max_bytes) <= participant.PAGE_BYTES - participant.LIBRARY_BYTES
    assert (max_bytes == 0) == (sessions == 40)


def test_change_over_time_is_shown_when_the_group_level_has_told_it(tmp_path: Path) -> None:
    fake.write_session(tmp_path, {"subject": "01", "session": "02"}, ("T1w",), count=1)
    write = participant.write_participant_report
    assert "Change over time" not in write(tmp_path, "01").read_text(encoding="utf-8")
    names = "session_before session_after volume_before_ml volume_after_ml change_ml beyond_noise "
    names += "noise_floor_ml n_new new_ml n_resolved resolved_ml n_grown n_shrunken n_stable "
    columns = ["participant_id", *names.split(), "brain_overlap_dice", "flags"]
    rows = [
        ["sub-01", "ses-01", "ses-02", 2.3, 6.9, 4.6, True, 0.4, 2, 2.9, 3, 0.3, 1, 0, 1, 0.98],
        ["sub-02", "ses-01", "ses-02", 7.77, 1, 1, True, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
    table = pd.DataFrame([[*row, None] for row in rows], columns=columns)
    table.to_csv(tmp_path / "group_longitudinal.tsv", sep="\t", index=False, na_rep="n/a")
    html = write(tmp_path, "01").read_text(encoding="utf-8")
    assert "<td>ses-01</td><td>ses-02</td><td>2.30</td><td>6.90</td><td>+4.60" in html
    assert "Dice of the brains 0.98" in html and "7.77" not in html
