"""Tables of the cohort on disk: one row a lesion, a session, a session's measures of quality."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_stroke.bids.names import sidecar_path
from bids_stroke.core import stats
from bids_stroke.core.files import atomic_path, read_json, write_json
from bids_stroke.core.lesions import COLUMNS as LESION_COLUMNS
from bids_stroke.reports.collect import Session

OUTLIER_Z = 3.5
"""Robust z beyond which a value is an outlier (Iglewicz and Hoaglin 1993)."""
OUTLIER_N = 8
"""With fewer values there is no telling what is usual."""

KEYS = {
    "participant_id": "Participant.",
    "session_id": "Session; n/a where the dataset has none.",
    "label": "First part of the names of the session's files.",
}
SPACE = {"space": "Image on whose native grid the numbers of the row were measured."}
SESSION_COLUMNS = {
    **KEYS,
    "images": "Images that were processed.",
    "space": "Image on whose native grid volume and count of the row were measured.",
    "lesion_volume_ml": "Total volume of the lesions in millilitres.",
    "lesion_count": "Number of lesions.",
    "brain_volume_ml": "Volume of the brain mask of that image in millilitres.",
    "warnings": "Number of warnings.",
    "flags": "Codes of all flags, with a comma between them; n/a where there is none.",
    "model": "Name and version of the model.",
    "model_synthetic": "True where the model was trained on synthetic lesions.",
}
QC_NAMES = {
    "lesion_volume_ml": "Total lesion volume in millilitres; outliers are told by its logarithm, "
    "among the sessions with a lesion.",
    "lesion_count": "Number of lesions; outliers are told by its logarithm, among the sessions "
    "with a lesion.",
    "similarity_before": "Similarity of T1w and FLAIR as the headers place them.",
    "similarity_after": "Similarity of T1w and FLAIR after the registration.",
    "rotation_deg": "Rotation of the registration in degrees.",
    "translation_mm": "Translation of the registration in mm.",
    "brain_overlap_dice": "Dice of the brain masks of T1w and FLAIR after the registration.",
    "brain_volume_ml": "Volume of the brain mask in millilitres.",
}
OUTLIERS = {"outliers": "Columns in which the session is an outlier, with a comma between them."}
_SKEWED = ("lesion_volume_ml", "lesion_count")
_NO_MEASURES = {"label", "entities", "reason", "reference", "model", "lesions", "flags", "versions"}


def keys(session: Session) -> dict[str, Any]:
    """Values of KEYS."""
    return {
        "participant_id": f"sub-{session.subject}",
        "session_id": f"ses-{session.session}" if session.session else None,
        "label": session.label,
    }


def lesion_columns(sessions: Iterable[Session]) -> dict[str, str]:
    """Columns of the table of lesions: the known ones, and those that some session's table adds."""
    columns = {**KEYS, **SPACE, **LESION_COLUMNS}
    for session in sessions:
        for _, path in session.table_paths():
            with path.open(encoding="utf-8") as stream:
                found = stream.readline().rstrip("\r\n").split("\t")
            if more := [name for name in found if name not in columns]:
                said = read_json(sidecar) if (sidecar := sidecar_path(path)).is_file() else {}
                columns |= {name: said.get(name, {}).get("Description", name) for name in more}
    return columns


def lesion_rows(sessions: Iterable[Session], names: Sequence[str]) -> Iterator[list[str]]:
    """Rows of all lesion tables as text, by ``names``; files are read one at a time."""
    for session in sessions:
        own = {name: value or "n/a" for name, value in keys(session).items()}
        for space, path in session.table_paths():
            with path.open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream, delimiter="\t"):
                    values = {**row, **own, "space": space}
                    yield [values.get(name) or "n/a" for name in names]


def write_lesions(sessions: Sequence[Session], path: Path) -> Path:
    """Write the table of all lesions on every native grid, row by row."""
    columns = lesion_columns(sessions)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(lesion_rows(sessions, list(columns)))
    return _explain(columns, path)


def session_table(sessions: Iterable[Session]) -> pd.DataFrame:
    """One row for each session, with the numbers of its reference space."""
    rows = [{**keys(session), **_session_row(session)} for session in sessions]
    return pd.DataFrame(rows, columns=list(SESSION_COLUMNS))


def model_name(session: Session) -> str:
    """Name and version of the model that a session was segmented by."""
    return f"{session.record['model']['name']} {session.record['model']['version']}"


def _session_row(session: Session) -> dict[str, Any]:
    record, flags = session.record, session.record["flags"]
    brain = record["inputs"].get(session.reference, {}).get("brain") or {}
    return {
        "images": "+".join(record["inputs"]),
        "space": session.reference,
        "lesion_volume_ml": session.lesions["volume_ml"],
        "lesion_count": session.lesions["count"],
        "brain_volume_ml": brain.get("volume_ml"),
        "warnings": sum(flag["severity"] == "warning" for flag in flags),
        "flags": ",".join(flag["code"] for flag in flags) or None,
        "model": model_name(session),
        "model_synthetic": bool(record["model"]["synthetic"]),
    }


def qc_table(sessions: Sequence[Session]) -> pd.DataFrame:
    """One row a session: its measures of quality, and in which of them it is an outlier."""
    rows = [{**keys(session), **measures(session.record)} for session in sessions]
    table = pd.DataFrame(rows)
    scores = outlier_scores(table)
    far = scores.abs() > OUTLIER_Z
    names = [",".join(far.columns[row]) or None for row in far.to_numpy()]
    return table.assign(outliers=pd.Series(names, index=table.index, dtype=object))


def qc_columns(table: pd.DataFrame) -> dict[str, str]:
    """What the columns of ``qc_table`` are."""
    known = {**KEYS, **OUTLIERS}
    return {name: known.get(name) or _qc_meaning(name) for name in table}


def _qc_meaning(name: str) -> str:
    for ending, text in QC_NAMES.items():
        if name == ending:
            return text
        if name.endswith(f"_{ending}"):
            of = name.removesuffix(f"_{ending}")
            return f"{of[:1].upper()}{of[1:]}: {text}"
    return f"{name}, from the record of the session."


def measures(record: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a session's record that can be compared over a cohort.

    Lesion volume and count, the brain volume of each image, and every number in the record's
    sections on single steps (registration, normalisation).
    """
    lesions = record["lesions"][record["reference"]]
    found = {"lesion_volume_ml": lesions["volume_ml"], "lesion_count": lesions["count"]}
    for modality, image in record["inputs"].items():
        if (volume := (image.get("brain") or {}).get("volume_ml")) is not None:
            found[f"{modality}_brain_volume_ml"] = volume
    steps = (name for name in record if name not in {*_NO_MEASURES, "inputs"})
    for step in steps:
        found |= {f"{step}_{name}": value for name, value in _numbers(record[step])}
    return found


def _numbers(section: Any) -> Iterator[tuple[str, float]]:
    for name, value in section.items() if isinstance(section, Mapping) else ():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, float(value)


def outlier_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Robust z of each measure of ``qc_table``; of lesions by their logarithm."""
    names = [name for name in table if name not in {*KEYS, *OUTLIERS}]
    scores = {}
    for name in names:
        values = table[name].to_numpy(dtype=float)
        judged = _logarithm(values) if name in _SKEWED else values
        enough = np.count_nonzero(np.isfinite(judged)) >= OUTLIER_N
        scores[name] = stats.robust_z(judged) if enough else np.full(len(values), np.nan)
    return pd.DataFrame(scores, index=table.index)


def _logarithm(values: np.ndarray) -> np.ndarray:
    """log10 of positive values, NaN for the others."""
    return np.log10(values, out=np.full(len(values), np.nan), where=values > 0)


def write_table(table: pd.DataFrame, columns: Mapping[str, str], path: Path) -> Path:
    """Write a TSV, and beside it the JSON file that says what its columns are."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
    return _explain(columns, path)


def write_or_remove(table: pd.DataFrame, columns: Mapping[str, str], path: Path) -> None:
    """Write a table that has rows; take away that of an earlier run where there are none."""
    if len(table):
        write_table(table, columns, path)
        return
    for old in (path, path.with_suffix(".json")):
        old.unlink(missing_ok=True)


def write_runs(
    table: pd.DataFrame, columns: Mapping[str, str], path: Path, is_mine: Callable[[str], bool]
) -> None:
    """Write a table in which others have rows too: rows of a ``run`` that is not mine stay.

    Columns that only those have follow after mine. Without any row the file is taken away.
    """
    others = _rows_of_others(path, is_mine)
    known = read_json(path.with_suffix(".json")) if others else {}
    more = {name: known[name]["Description"] for name in known if name not in columns}
    rows = [*table.to_dict("records"), *others]
    both = pd.DataFrame(rows, columns=[*columns, *more])
    write_or_remove(both, {**columns, **more}, path)


def _rows_of_others(path: Path, is_mine: Callable[[str], bool]) -> list[dict[Any, Any]]:
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return []
    before = pd.read_csv(path, sep="\t", dtype={"run": str})
    if "run" not in before:
        return []
    return before[~before["run"].fillna("").map(is_mine).astype(bool)].to_dict("records")


def _explain(columns: Mapping[str, str], path: Path) -> Path:
    write_json(path.with_suffix(".json"), {c: {"Description": d} for c, d in columns.items()})
    return path


def number(value: Any, digits: int = 3) -> str:
    """A number of a table, ``n/a`` where there is none."""
    return "n/a" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def interval(row: Mapping[str, Any], name: str, digits: int = 3) -> str:
    """A value with its interval: ``.712 (.650 to .760)``."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    value = number(row[name], digits)
    return value if pd.isna(low) else f"{value} ({number(low, digits)} to {number(high, digits)})"
