"""Ratings as the pages export them, and tables that are wrong in every way."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_stroke.bids import ratings
from bids_stroke.errors import InputMissing, UnusableData

HEAD = "\t".join(ratings.COLUMNS)


def table(folder: Path, *rows: str, head: str = HEAD) -> Path:
    path = folder / "ratings.tsv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def row(**values: str) -> str:
    known = {"participant_id": "sub-01", "rater": "AB", **values}
    return "\t".join(known.get(name, "n/a") for name in ratings.COLUMNS)


def test_a_session_and_a_place(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        row(session_id="ses-1", run_id="run-2", rating="doubtful", comment="motion, edge"),
        row(session_id="ses-1", run_id="run-2", lesion="3", mark="not_a_lesion", x_mm="-1.5"),
    )
    whole, place = ratings.read([path])
    assert whole.key == place.key == ("01", "1", "2")
    assert (whole.rating, whole.comment, whole.lesion) == ("doubtful", "motion, edge", None)
    assert (place.rating, place.lesion, place.mark) == (None, 3, "not_a_lesion")


def test_no_session_no_run_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = table(tmp_path, row(rating="pass"), head="\ufeff" + HEAD)
    (one,) = ratings.read([path])
    assert one.key == ("01", None, None)


def test_columns_that_are_not_needed_may_be_absent(tmp_path: Path) -> None:
    path = table(tmp_path, "sub-1\tn/a\tn/a\tX\tfail", head="\t".join(ratings.REQUIRED))
    assert ratings.read([path])[0].rating == "fail"
    assert ratings.read([table(tmp_path)]) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rating": "good"}, "rating 'good' in line 2 of .*ratings.tsv is none of pass"),
        ({"mark": "lesion"}, "mark 'lesion' in line 2"),
        ({"lesion": "two"}, "lesion 'two' in line 2"),
        ({"rater": "n/a"}, "no rater in line 2"),
        ({"participant_id": ""}, "no participant"),
    ],
)
def test_bad_values_are_named_with_their_line(
    tmp_path: Path, values: dict[str, str], message: str
) -> None:
    with pytest.raises(UnusableData, match=message):
        ratings.read([table(tmp_path, row(**values))])


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="can't be read"):
        ratings.read([tmp_path / "none.tsv"])
    with pytest.raises(UnusableData, match="no column 'participant_id'"):
        ratings.read([table(tmp_path, "1,2", head="a,b")])
    binary = tmp_path / "binary.tsv"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UnusableData, match="no table"):
        ratings.read([binary])


def test_the_latest_of_a_rater_counts(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        row(rating="pass", timestamp="2026-02-01T10:00:00Z"),
        row(rating="fail", timestamp="2026-01-01T10:00:00Z"),
        row(rating="doubtful", rater="CD", timestamp="2026-01-01T10:00:00Z"),
    )
    assert ratings.by_rater(ratings.read([path])) == {
        ("01", None, None): {"AB": "pass", "CD": "doubtful"}
    }


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (["pass"], "pass"),
        (["pass", "fail"], "fail"),
        (["pass", "pass", "fail"], "pass"),
        (["pass", "doubtful"], "doubtful"),
        (["pass", "doubtful", "fail"], "fail"),
    ],
)
def test_consensus(given_: list[str], expected: str) -> None:
    assert ratings.consensus(given_) == expected


@given(st.lists(st.sampled_from(ratings.LEVELS), min_size=1, max_size=7))
def test_consensus_is_one_that_was_given_most(given_: list[str]) -> None:
    chosen = ratings.consensus(given_)
    assert given_.count(chosen) == max(given_.count(level) for level in ratings.LEVELS)
