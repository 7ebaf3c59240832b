"""The cohort: tables of lesions, sessions and agreement, and one page, from files on disk only."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_stroke import boilerplate
from bids_stroke.bids.masks import find_reference_masks
from bids_stroke.bids.names import output_path
from bids_stroke.bids.pairs import Pair
from bids_stroke.core import geometry, metrics
from bids_stroke.core.files import atomic_path, load_image, read_json, write_json
from bids_stroke.core.lesions import COLUMNS as LESION_COLUMNS
from bids_stroke.errors import NothingSelected
from bids_stroke.reports import collect
from bids_stroke.reports.collect import Session
from bids_stroke.reports.pages import millilitres, render
from bids_stroke.reports.plots import dot_plot

References = Mapping[str, Mapping[str, Path]]

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


def _keys(session: Session) -> dict[str, Any]:
    session_id = session.record["entities"].get("session")
    return {
        "participant_id": f"sub-{session.subject}",
        "session_id": f"ses-{session_id}" if session_id else None,
        "label": session.label,
    }


def lesion_table(sessions: Iterable[Session]) -> pd.DataFrame:
    """One row for each lesion on each native grid."""
    rows = [
        {**_keys(session), "space": space, **lesion}
        for session in sessions
        for space, table in session.tables.items()
        for lesion in table.to_dict("records")
    ]
    return pd.DataFrame(rows, columns=[*KEYS, *SPACE, *LESION_COLUMNS])


def session_table(sessions: Iterable[Session]) -> pd.DataFrame:
    """One row for each session, with the numbers of its reference space."""
    rows = [{**_keys(session), **_session_row(session)} for session in sessions]
    return pd.DataFrame(rows, columns=list(SESSION_COLUMNS))


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
        "model": f"{record['model']['name']} {record['model']['version']}",
        "model_synthetic": bool(record["model"]["synthetic"]),
    }


def compare(
    reference: Path,
    predicted: Path,
    *,
    probability: Path | None = None,
    brain: Path | None = None,
) -> dict[str, float]:
    """Agreement of two mask files; a reference on another grid is brought to the prediction's.

    The probability map and the brain mask lie on the prediction's grid.
    """
    truth, found = load_image(Path(reference)), load_image(Path(predicted))
    grid = geometry.grid_of(found)
    mask = np.asarray(truth.dataobj) > 0
    if not geometry.same_grid(geometry.grid_of(truth), grid):
        mask = geometry.resample(mask.astype(np.uint8), geometry.grid_of(truth), grid, order=0) > 0
    maps = {
        name: np.asanyarray(load_image(path).dataobj)
        for name, path in {"probability": probability, "brain": brain}.items()
        if path
    }
    return metrics.agreement(mask, np.asarray(found.dataobj) > 0, grid.affine, **maps)


def _maps(output_dir: Path, session: Session, space: str) -> dict[str, Path]:
    """Probability map and brain mask of a session in a space, where they are on disk."""
    source = next(iter(session.record["inputs"]))
    named = {} if space == source else {"space": space}
    entities = session.record["entities"]
    files = {
        "probability": output_dir / output_path(entities, "lesion_probseg", space=space),
        "brain": output_dir / output_path(entities, "brain_mask", **named),
    }
    return {name: path for name, path in files.items() if path.is_file()}


def metric_table(
    output_dir: Path, sessions: Iterable[Session], references: References
) -> pd.DataFrame:
    """Agreement with each reference mask, one row a session and space."""
    rows = []
    for session in sessions:
        for space, reference in sorted(references.get(session.label, {}).items()):
            name = output_path(session.record["entities"], "lesion_mask", space=space)
            if (output_dir / name).is_file():
                maps = _maps(output_dir, session, space)
                values = compare(reference, output_dir / name, **maps)
                rows.append({**_keys(session), "space": space, **values})
    return pd.DataFrame(rows, columns=[*KEYS, *SPACE, *metrics.COLUMNS])


def write_table(table: pd.DataFrame, columns: Mapping[str, str], path: Path) -> Path:
    """Write a TSV, and beside it the JSON file that says what its columns are."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
    write_json(path.with_suffix(".json"), {c: {"Description": d} for c, d in columns.items()})
    return path


def one_per_session(table: pd.DataFrame, sessions: Iterable[Session]) -> pd.DataFrame:
    """One row of agreement a session: of its reference space, else of the first that there is."""
    main = {session.label: session.reference for session in sessions}
    other = table["space"] != table["label"].map(main)
    return table.assign(_other=other).sort_values("_other", kind="stable").groupby("label").first()


def summary(table: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Mean, median and number of each metric, over all rows and over those with a lesion."""
    with_lesion = table[table["reference_volume_ml"] > 0]
    return [
        {
            "name": name,
            "meaning": metrics.COLUMNS[name],
            "all": _mean(table[name]),
            "with_lesion": _mean(with_lesion[name]),
        }
        for name in names
    ]


def _mean(values: pd.Series) -> str:
    known = values.dropna()
    if known.empty:
        return "n/a"
    return f"{known.mean():.3f} (median {known.median():.3f}, n = {len(known)})"


SUMMARY = ("dice", "precision", "sensitivity", "lesion_f1_onevoxel", "volume_difference_ml")


def _cohort_rows(sessions: Iterable[Session]) -> list[dict[str, Any]]:
    """Rows of the page's table of sessions."""
    return [
        {
            "label": session.label,
            "page": f"sub-{session.subject}.html#{session.label}",
            "images": " + ".join(session.record["inputs"]),
            "volume": session.lesions["volume_ml"],
            "count": session.lesions["count"],
            "flags": session.record["flags"],
            "model": f"{session.record['model']['name']} {session.record['model']['version']}",
        }
        for session in sessions
    ]


def _tiles(sessions: Sequence[Session], failed: Sequence[Any]) -> dict[str, str]:
    """Numbers at the top of the page."""
    volumes = [s.lesions["volume_ml"] for s in sessions if s.lesions["count"]]
    warned = sum(any(f["severity"] == "warning" for f in s.record["flags"]) for s in sessions)
    return {
        "participants": str(len({s.subject for s in sessions})),
        "sessions": str(len(sessions)),
        "with a lesion": str(len(volumes)),
        "median volume of those": millilitres(float(np.median(volumes))) if volumes else "–",
        "sessions with a warning": str(warned),
        "failed steps": str(len(failed)),
    }


def _dataset_name(bids_dir: Path) -> str:
    path = Path(bids_dir) / "dataset_description.json"
    return str(read_json(path).get("Name", "")) if path.is_file() else ""


def _write_metrics(agreement: pd.DataFrame, path: Path) -> None:
    """Write the table of agreement, or take away that of an earlier run."""
    if len(agreement):
        write_table(agreement, {**KEYS, **SPACE, **metrics.COLUMNS}, path)
        return
    for old in (path, path.with_suffix(".json")):
        old.unlink(missing_ok=True)


def find_references(
    sessions: Iterable[Session], bids_dir: Path, roots: Sequence[Path]
) -> dict[str, dict[str, Path]]:
    """Reference masks of each session that has some, by its label and by space."""
    found = {s.label: find_reference_masks(roots, _pair(s, Path(bids_dir))) for s in sessions}
    return {label: masks for label, masks in found.items() if masks}


def _pair(session: Session, bids_dir: Path) -> Pair:
    """The images of a session where they lie in the input dataset."""
    entities = session.record["entities"]
    folder = bids_dir / f"sub-{session.subject}"
    folder = folder / f"ses-{entities['session']}" if entities.get("session") else folder
    files = {m.lower(): folder / "anat" / of["file"] for m, of in session.record["inputs"].items()}
    return Pair(
        subject=session.subject, session=entities.get("session"), entities=entities, **files
    )


def write_group(bids_dir: Path, output_dir: Path, reference_roots: Sequence[Path] = ()) -> Path:
    """Write ``group_lesions``, ``group_sessions``, ``group_metrics`` (TSV, JSON) and the page.

    Reference masks are looked for in ``reference_roots`` (``bids.masks.find_reference_masks``);
    without any there is no ``group_metrics``. Returns the path of ``group.html``. Raises
    NothingSelected when no participant was processed.
    """
    output_dir = Path(output_dir)
    sessions = collect.sessions(output_dir)
    failed = collect.failures(collect.newest_log(output_dir))
    if not sessions and not failed:
        raise NothingSelected(
            f"{output_dir} holds no participant: run the participant level first."
        )
    columns = {**KEYS, **SPACE, **LESION_COLUMNS}
    write_table(lesion_table(sessions), columns, output_dir / "group_lesions.tsv")
    write_table(session_table(sessions), SESSION_COLUMNS, output_dir / "group_sessions.tsv")
    references = find_references(sessions, bids_dir, reference_roots)
    agreement = metric_table(output_dir, sessions, references)
    _write_metrics(agreement, output_dir / "group_metrics.tsv")
    rows = _cohort_rows(sessions)
    return render(
        "group.html.j2",
        output_dir / "group.html",
        dataset=_dataset_name(bids_dir),
        tiles=_tiles(sessions, failed),
        rows=rows,
        plot=dot_plot([(row["label"], row["page"], row["volume"]) for row in rows]),
        failures=failed,
        synthetic=any(s.record["model"]["synthetic"] for s in sessions),
        summary=summary(one_per_session(agreement, sessions), SUMMARY) if len(agreement) else [],
        agreement=agreement.to_dict("records"),
        convention=boilerplate.text("evaluate"),
    )


def agreement_lines(output_dir: Path) -> list[str]:
    """Agreement with reference masks for the terminal: a line a mask, and the means over masks.

    Read from ``group_metrics.tsv``; empty where there is none.
    """
    path = Path(output_dir) / "group_metrics.tsv"
    if not path.is_file():
        return []
    table = pd.read_csv(path, sep="\t")
    width = table["label"].str.len().max()
    rows = [
        f"  {row.label:{width}}  {row.space:5}  Dice {row.dice:5.3f}"
        f"  known {row.reference_volume_ml:7.2f} mL  found {row.predicted_volume_ml:7.2f} mL"
        for row in table.itertuples()
    ]
    lesions = table[table["reference_volume_ml"] > 0]
    mean = f"  mean Dice {table['dice'].mean():.3f} over {len(table)} masks"
    with_lesion = f"{lesions['dice'].mean():.3f} over the {len(lesions)} with a lesion"
    return ["Agreement with the reference masks:", *rows, f"{mean}, {with_lesion}"]
