"""The card of a model says what its descriptor says, and nothing for what that leaves out."""

from dataclasses import replace

from bids_stroke.models import card
from bids_stroke.models.descriptor import find


def section(sections: list[card.Section], title: str) -> card.Section:
    return next(one for one in sections if one["title"] == title)


def test_values_by_bin_become_columns() -> None:
    evaluation = {
        "bins_ml": ["<1", ">1"],
        "n": [3, 4],
        "scans": "few",
        "FLAIR": {"dice": [0.1, 0.9], "false_ml": [1, 2, 3]},
    }
    found = section(card.card(replace(find("embedded"), evaluation=evaluation)), "How it did")
    assert found["columns"] == ["On", "Measure", "<1 mL", ">1 mL"]
    assert found["rows"] == [["all", "n", "3", "4"], ["FLAIR", "dice", "0.1", "0.9"]]
    assert found["facts"] == [("scans", "few"), ("FLAIR, false ml", "1, 2, 3")]


def test_without_an_evaluation_it_says_so() -> None:
    found = section(card.card(replace(find("embedded"), evaluation={})), "How it did")
    assert "no evaluation" in found["text"] and not found["rows"]


def test_n4_is_told_where_a_model_has_it() -> None:
    model = find("embedded")
    with_n4 = dict(section(card.card(model), "How it is run")["facts"])["preprocessing"]
    assert with_n4.endswith(f"N4 of {model.preprocessing.n4_levels} levels")
    without = replace(model, preprocessing=replace(model.preprocessing, steps=("zscore",)))
    facts = dict(section(card.card(without), "How it is run")["facts"])
    assert facts["preprocessing"] == "zscore; on the grid of T1w"


def test_a_synthetic_model_says_so_first_and_a_real_one_never() -> None:
    model = find("embedded")
    assert card.not_for(model)[0] == card.SYNTHETIC
    assert card.SYNTHETIC not in card.not_for(replace(model, synthetic=False))


def test_the_terminal_says_every_word_of_the_card() -> None:
    model = find("embedded")
    text = "\n".join(card.lines(model))
    for one in card.card(model):
        cells = [cell for row in one["rows"] for cell in row]
        for words in (one["title"], one["text"], *(v for _, v in one["facts"]), *cells):
            assert words in text
