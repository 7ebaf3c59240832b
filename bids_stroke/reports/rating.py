"""What the page needs for the rating of a session: who it is about, and how its table is written.

The rating lives in the reader's browser until it is exported: one TSV in the columns of
``bids.ratings`` and the JSON that defines them.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bids_stroke.bids.ratings import COLUMNS, LEVELS, MARKS
from bids_stroke.reports.collect import Session


def fingerprint(record: Mapping[str, Any]) -> str:
    """Short name of a result: marks on one must not appear on another of the same session."""
    parts = {key: record.get(key) for key in ("label", "inputs", "lesions")}
    parts["model"] = {k: record["model"].get(k) for k in ("name", "version", "sha256", "threshold")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def rating_data(session: Session) -> dict[str, Any]:
    """Names, columns and data dictionary for the script of the rating."""
    entities = session.record["entities"]

    def label(name: str, short: str) -> str:
        value = entities.get(name)
        return f"{short}-{value}" if value else "n/a"

    dictionary: dict[str, Any] = {
        name: {"Description": text, **_levels(name)} for name, text in COLUMNS.items()
    }
    return {
        "label": session.label,
        "key": f"bids_stroke:rating:{session.label}:{fingerprint(session.record)}",
        "ids": {
            "participant_id": label("subject", "sub"),
            "session_id": label("session", "ses"),
            "run_id": label("run", "run"),
        },
        "columns": list(COLUMNS),
        "dictionary": dictionary,
    }


def _levels(name: str) -> dict[str, Any]:
    known = {
        "rating": dict(zip(LEVELS, ("Use it.", "Look at it again.", "Leave it out."), strict=True)),
        "mark": dict(
            zip(MARKS, ("Found, but no lesion.", "A lesion that was not found."), strict=True)
        ),
    }
    return {"Levels": known[name]} if name in known else {}
