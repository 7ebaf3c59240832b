"""Ratings of results by people, as the subject pages export them: tables read, judged, combined."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_stroke.errors import InputMissing, UnusableData

COLUMNS = {
    "participant_id": "Participant, with sub-.",
    "session_id": "Session, with ses-; n/a where the dataset has none.",
    "run_id": "Run, with run-; n/a where the file names have none.",
    "rater": "Who rated.",
    "rating": "pass, doubtful or fail; n/a on a row that is about one place.",
    "comment": "What the rater wrote.",
    "lesion": "Number of the lesion that the row is about; n/a where it is about the session.",
    "mark": "not_a_lesion: what was found is none; missed: a lesion lies there that was not found.",
    "x_mm": "x of the place in mm, RAS+ scanner space; n/a where the row is about no place.",
    "y_mm": "y of that place.",
    "z_mm": "z of that place.",
    "timestamp": "When the rating was given.",
}
LEVELS = ("pass", "doubtful", "fail")
MARKS = ("not_a_lesion", "missed")
REQUIRED = ("participant_id", "session_id", "run_id", "rater", "rating")
_NOTHING = ("", "n/a")

Key = tuple[str, str | None, str | None]


@dataclass(frozen=True)
class Rating:
    """One row: a rater's judgement of a session, or a mark at a place of it."""

    participant: str
    session: str | None
    run: str | None
    rater: str
    rating: str | None
    comment: str
    lesion: int | None
    mark: str | None
    timestamp: str

    @property
    def key(self) -> Key:
        """Participant, session and run, without their prefixes."""
        return self.participant, self.session, self.run


def read(paths: Iterable[Path]) -> list[Rating]:
    """All rows of some tables of ratings, in their order.

    Raises InputMissing for a file that can't be opened and UnusableData, with file and line, for a
    missing column, an unknown rating or mark, or a lesion that is no number.
    """
    return [rating for path in paths for rating in _read_one(Path(path))]


def _read_one(path: Path) -> list[Rating]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
            names = rows[0].keys() if rows else ()
    except OSError as error:
        raise InputMissing(f"The ratings {path} can't be read: {error}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnusableData(f"The ratings {path} are no table of tabs in UTF-8: {error}.") from error
    if missing := [name for name in REQUIRED if rows and name not in names]:
        raise UnusableData(
            f"The ratings {path} have no column '{missing[0]}': is it a TSV of ours?"
        )
    return [_rating(row, path, line) for line, row in enumerate(rows, 2)]


def _rating(row: dict[str, str], path: Path, line: int) -> Rating:
    def value(name: str) -> str | None:
        text = (row.get(name) or "").strip()
        return None if text in _NOTHING else text

    place = f"line {line} of {path}"
    if not (participant := value("participant_id")) or not (rater := value("rater")):
        raise UnusableData(f"There is no participant or no rater in {place}.")
    return Rating(
        participant=participant.removeprefix("sub-"),
        session=_without(value("session_id"), "ses-"),
        run=_without(value("run_id"), "run-"),
        rater=rater,
        rating=_one_of(value("rating"), LEVELS, "rating", place),
        comment=value("comment") or "",
        lesion=_number(value("lesion"), place),
        mark=_one_of(value("mark"), MARKS, "mark", place),
        timestamp=value("timestamp") or "",
    )


def _without(text: str | None, prefix: str) -> str | None:
    return text.removeprefix(prefix) if text else None


def _one_of(value: str | None, allowed: Sequence[str], what: str, place: str) -> str | None:
    if value is not None and value not in allowed:
        raise UnusableData(
            f"The {what} '{value}' in {place} is none of {', '.join(allowed)} and n/a."
        )
    return value


def _number(value: str | None, place: str) -> int | None:
    try:
        return None if value is None else int(value)
    except ValueError:
        raise UnusableData(f"The lesion '{value}' in {place} is not a number.") from None


def by_rater(ratings: Iterable[Rating]) -> dict[Key, dict[str, str]]:
    """The rating that each rater gave each session; of several of one rater the latest counts."""
    found: dict[Key, dict[str, str]] = {}
    for one in sorted(ratings, key=lambda rating: rating.timestamp):
        if one.rating:
            found.setdefault(one.key, {})[one.rater] = one.rating
    return found


def consensus(given: Iterable[str]) -> str:
    """The rating that most raters gave; of several with as many, the worst."""
    counts = Counter(given)
    return max(counts, key=lambda rating: (counts[rating], LEVELS.index(rating)))
