"""Ratings of the cohort: which session got which, how far raters agree, and what is left out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_stroke.bids import ratings
from bids_stroke.bids.ratings import LEVELS, Key, Rating
from bids_stroke.core import agreement
from bids_stroke.reports.collect import Session
from bids_stroke.reports.tables import KEYS

RATING_COLUMNS = {
    **KEYS,
    "rater": "Who rated.",
    "rating": "pass, doubtful or fail; the latest of this rater.",
    "consensus": "The rating that most raters gave the session; of several with as many, the "
    "worst.",
    "excluded": "Was the session left out of statistics and maps for its rating?",
    "not_a_lesion": "Number of places that this rater marked as found, but no lesion.",
    "missed": "Number of places that this rater marked as a missed lesion.",
    "comment": "What the rater wrote on the session.",
}
AGREEMENT_COLUMNS = {
    "raters": "The raters whose agreement the row gives.",
    "n": "Number of sessions that all of them rated.",
    "agreement": "Share of these sessions that all gave the same rating.",
    "kappa": "Cohen's kappa for two raters, Fleiss' kappa for more.",
    "kappa_linear": "Cohen's kappa with linear weights; n/a for more than two raters.",
    "kappa_quadratic": "Cohen's kappa with quadratic weights; n/a for more than two raters.",
}


@dataclass(frozen=True)
class Rated:
    """Ratings of a cohort: tables, the consensus by label, and what does not fit."""

    table: pd.DataFrame
    agreement: pd.DataFrame
    consensus: Mapping[str, str]
    excluded: frozenset[str]
    problems: tuple[str, ...]


def read(paths: Sequence[Path], sessions: Sequence[Session], exclude: str) -> Rated:
    """Ratings of the sessions from exported files.

    Sessions whose consensus is ``exclude`` or worse are excluded (``none``: no session is). Raises
    what ``bids.ratings.read`` raises for a bad file.
    """
    rows = ratings.read(paths)
    given = ratings.by_rater(rows)
    of = {session.label: given.get(_key(session), {}) for session in sessions}
    consensus = {label: ratings.consensus(by.values()) for label, by in of.items() if by}
    excluded = frozenset(label for label, level in consensus.items() if _is_out(level, exclude))
    known = {_key(session) for session in sessions}
    strangers = sorted({_name(row.key) for row in rows if row.key not in known})
    problems = tuple(f"The ratings name {name}, of which there is no result." for name in strangers)
    table = _table(sessions, of, rows, consensus, excluded)
    return Rated(table, agreement_table(given), consensus, excluded, problems)


def _key(session: Session) -> Key:
    return session.subject, session.session, session.record["entities"].get("run")


def _name(key: Key) -> str:
    participant, session, run = key
    return (
        f"sub-{participant}"
        + (f"_ses-{session}" if session else "")
        + (f"_run-{run}" if run else "")
    )


def _is_out(level: str, exclude: str) -> bool:
    return exclude != "none" and LEVELS.index(level) >= LEVELS.index(exclude)


def _table(
    sessions: Iterable[Session],
    of: Mapping[str, Mapping[str, str]],
    rows: Iterable[Rating],
    consensus: Mapping[str, str],
    excluded: frozenset[str],
) -> pd.DataFrame:
    """One row a session and rater: RATING_COLUMNS."""
    by_key: dict[tuple[Key, str], list[Rating]] = {}
    for row in rows:
        by_key.setdefault((row.key, row.rater), []).append(row)
    found = [
        {
            "participant_id": f"sub-{session.subject}",
            "session_id": f"ses-{session.session}" if session.session else None,
            "label": session.label,
            "rater": rater,
            "rating": level,
            "consensus": consensus[session.label],
            "excluded": session.label in excluded,
            **_remarks(by_key[_key(session), rater]),
        }
        for session in sessions
        for rater, level in sorted(of[session.label].items())
    ]
    return pd.DataFrame(found, columns=list(RATING_COLUMNS))


def _remarks(rows: Sequence[Rating]) -> dict[str, Any]:
    latest = max((r for r in rows if r.rating), key=lambda r: r.timestamp)
    return {
        "not_a_lesion": sum(r.mark == "not_a_lesion" for r in rows),
        "missed": sum(r.mark == "missed" for r in rows),
        "comment": " ".join(latest.comment.split()) or None,
    }


def agreement_table(given: Mapping[Key, Mapping[str, str]]) -> pd.DataFrame:
    """Kappa of every pair of raters, and of all where they are more: AGREEMENT_COLUMNS."""
    raters = sorted({rater for by in given.values() for rater in by})
    rows = [_pair_row(given, pair) for pair in combinations(raters, 2)]
    if len(raters) > 2:
        rows.append(_all_row(given, raters))
    return pd.DataFrame([row for row in rows if row["n"]], columns=list(AGREEMENT_COLUMNS))


def _common(given: Mapping[Key, Mapping[str, str]], raters: Sequence[str]) -> list[tuple[str, ...]]:
    """Ratings by the raters, in their order, of the sessions that all of them rated."""
    wanted = set(raters)
    return [tuple(by[r] for r in raters) for by in given.values() if wanted <= set(by)]


def _pair_row(given: Mapping[Key, Mapping[str, str]], pair: Sequence[str]) -> dict[str, Any]:
    both = _common(given, pair)
    first, second = ([row[i] for row in both] for i in (0, 1))
    return {
        "raters": ", ".join(pair),
        "n": len(both),
        "agreement": _same(both),
        "kappa": agreement.cohen_kappa(first, second, LEVELS),
        "kappa_linear": agreement.cohen_kappa(first, second, LEVELS, "linear"),
        "kappa_quadratic": agreement.cohen_kappa(first, second, LEVELS, "quadratic"),
    }


def _all_row(given: Mapping[Key, Mapping[str, str]], raters: Sequence[str]) -> dict[str, Any]:
    rows = _common(given, raters)
    counts = np.array([[row.count(level) for level in LEVELS] for row in rows])
    return {
        "raters": ", ".join(raters),
        "n": len(rows),
        "agreement": _same(rows),
        "kappa": agreement.fleiss_kappa(counts) if rows else float("nan"),
    }


def _same(rows: Sequence[tuple[str, ...]]) -> float:
    return float(np.mean([len(set(row)) == 1 for row in rows])) if rows else float("nan")
