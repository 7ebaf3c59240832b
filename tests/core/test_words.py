"""Numbers and names of columns in plain words."""

import pytest

from bids_stroke.core.words import counted, millilitres, plain_name


def test_millilitres_have_the_digits_that_mean_something() -> None:
    said = [millilitres(v) for v in (12.34, 1.234, 0.0419, 0)]
    assert said == ["12.3 mL", "1.23 mL", "0.042 mL", "0.00 mL"]


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("T1w_brain_volume_ml", "T1w brain volume (mL)"),
        ("registration_rotation_deg", "Registration rotation (degrees)"),
        ("registration_brain_overlap_dice", "Registration brain overlap (Dice)"),
        ("least volume mm3", "Least volume (mm³)"),
        ("lesion_count", "Lesion count"),
        ("dice", "Dice"),
    ],
)
def test_a_column_as_a_heading(column: str, name: str) -> None:
    assert plain_name(column) == name


@pytest.mark.parametrize(("count", "text"), [(0, "0 folds"), (1, "1 fold"), (2, "2 folds")])
def test_nouns_follow_their_number(count: int, text: str) -> None:
    assert counted(count, "fold") == text
