"""The page of a model: its measures in words that need no key."""

import re
from pathlib import Path

import pytest

from bids_stroke.models.card import card
from bids_stroke.models.descriptor import find
from bids_stroke.reports.model import measure_name, write_model_page


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "T1w+FLAIR, marked without lesion ml",
            "T1w+FLAIR: Falsely marked on a scan without lesions (mL)",
        ),
        (
            "FLAIR, found of 72 between 30 and 1500 mm3",
            "FLAIR: Found of 72 small lesions (30 to 1500 mm³)",
        ),
        (
            "T1w, found of 72 plain between 30 and 1500 mm3",
            "T1w: Found of 72 small lesions (30 to 1500 mm³), painted by other code than "
            "the training has",
        ),
        ("dice within 10mm", "Dice within 10 mm of the lesion"),
        ("mean dice at operating point", "Mean dice at operating point"),
        ("false ml", "False (mL)"),
    ],
)
def test_measures_in_plain_words(name: str, words: str) -> None:
    assert measure_name(name) == words


@pytest.mark.parametrize("name", ["embedded", "lesiongnb"])
def test_the_page_of_a_shipped_model_has_no_bare_names(tmp_path: Path, name: str) -> None:
    model = find(name)
    record = {"name": name, "version": model.version, "title": model.title, "synthetic": True}
    page = write_model_page(tmp_path, {**record, "card": card(model)})
    html = page.read_text(encoding="utf-8")
    said = re.findall(r"<dt>(.*?)</dt>|<tr><td>[^<]*</td><td>(.*?)</td>", html)
    names = [fact or measure for fact, measure in said if "/" not in fact]
    assert names and all(each[0].isupper() for each in names)
    assert not [each for each in names if re.search(r"\bml\b|mm3|10mm|without lesion ", each)]
    assert all(file.path in html for file in model.files)
