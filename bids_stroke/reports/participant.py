"""The page of a participant, from files on disk only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from bids_stroke.core.files import read_json
from bids_stroke.reports import collect
from bids_stroke.reports.citation import methods_html
from bids_stroke.reports.collect import Failure, Session
from bids_stroke.reports.pages import duration, millilitres, render

TABLE_COLUMNS = {
    "index": "Lesion",
    "volume_mm3": "Volume",
    "side": "Side",
    "mean_probability": "Mean probability",
    "max_probability": "Highest",
    "centroid": "Centre x, y, z (mm)",
}
ONE_SIDED = 0.9


def _side(table: pd.DataFrame) -> str:
    """Where the lesion volume lies, in a few words."""
    if table.empty or "side" not in table:
        return ""
    volume = table.groupby("side")["volume_mm3"].sum()
    share = volume / volume.sum()
    main = str(share.idxmax())
    place = {"left": "in the left hemisphere", "right": "in the right hemisphere"}
    where = place.get(main, "near the midline")
    return where if share.max() >= ONE_SIDED else f"mostly {where} ({share.max():.0%})"


def answer(session: Session) -> str:
    """The result of a session in one line."""
    count = session.lesions["count"]
    if not count:
        return "No lesion found"
    plural = "lesion" if count == 1 else "lesions"
    side = _side(session.table)
    volume = millilitres(session.lesions["volume_ml"])
    return f"{volume} in {count} {plural}" + (f", {side}" if side else "")


def confidence(session: Session) -> str:
    """Mean probability over all lesion voxels, in words that don't promise accuracy."""
    table = session.table
    if table.empty or "mean_probability" not in table:
        return ""
    mean = (table["mean_probability"] * table["volume_mm3"]).sum() / table["volume_mm3"].sum()
    return f"{mean:.2f}"


def lesion_rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """Rows of a lesion table as text, by the columns of TABLE_COLUMNS."""
    rows = []
    for row in table.to_dict("records"):
        centre = ", ".join(f"{row[f'centroid_{axis}']:.0f}" for axis in "xyz")
        rows.append(
            {
                "index": str(row["index"]),
                "volume_mm3": millilitres(row["volume_mm3"] / 1000),
                "side": str(row["side"]),
                "mean_probability": f"{row['mean_probability']:.2f}",
                "max_probability": f"{row['max_probability']:.2f}",
                "centroid": centre,
            }
        )
    return rows


def _inputs(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry an input image: its file, its geometry, notes on it and its brain."""
    entries = []
    for modality, of in record["inputs"].items():
        conform, brain = of.get("conform") or {}, of.get("brain") or {}
        shape = " × ".join(str(n) for n in conform.get("shape", []))
        zooms = " × ".join(f"{z:.2f}" for z in conform.get("zooms", []))
        volume = brain.get("volume_ml")
        entries.append(
            {
                "modality": modality,
                "file": of["file"],
                "grid": f"{shape} voxels of {zooms} mm" if shape else "",
                "orientation": _orientation(conform.get("orientation", "")),
                "notes": [*conform.get("notes", []), *brain.get("notes", [])],
                "brain_method": brain.get("method", ""),
                "brain_volume": f"{volume:.0f} mL" if volume is not None else "",
            }
        )
    return entries


def _orientation(codes: Any) -> str:
    return codes if isinstance(codes, str) else "".join(codes)


def _registration(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Numbers of the registration as pairs of a name and a text."""
    found = record.get("registration") or {}
    metric = found.get("metric", "similarity")
    names = {
        "similarity_before": (f"Similarity before ({metric})", "{:.3f}"),
        "similarity_after": ("Similarity after", "{:.3f}"),
        "rotation_deg": ("Rotation", "{:.1f}°"),
        "translation_mm": ("Translation", "{:.1f} mm"),
        "brain_overlap_dice": ("Overlap of the brains (Dice)", "{:.2f}"),
    }
    return [
        (name, form.format(found[key]))
        for key, (name, form) in names.items()
        if found.get(key) is not None
    ]


def _views(session: Session, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Figures to switch between: those that exist, with their names."""
    return [
        {"name": name, "path": session.figures[key]}
        for key, name in names.items()
        if key in session.figures
    ]


def _steps(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Steps by share of the time, for a bar each."""
    longest = max(seconds.values(), default=0.0) or 1.0
    return [
        {"step": step, "time": duration(value), "share": round(100 * value / longest, 1)}
        for step, value in sorted(seconds.items(), key=lambda item: -item[1])
    ]


def _section(
    session: Session, seconds: Mapping[str, float], failed: Sequence[Failure]
) -> dict[str, Any]:
    """Everything that the template shows of one session."""
    record = session.record
    return {
        "label": session.label,
        "answer": answer(session),
        "confidence": confidence(session),
        "flags": record["flags"],
        "record": record,
        "reference": session.reference,
        "inputs": _inputs(record),
        "registration": _registration(record),
        "columns": TABLE_COLUMNS,
        "rows": lesion_rows(session.table),
        "lesions": _views(session, {"lesions_dseg": "Outlined", "plain_dseg": "Plain"}),
        "brains": _views(session, {"brain_T1w": "T1w", "brain_FLAIR": "FLAIR"}),
        "moved": _views(session, {"before_xfm": "Before", "after_xfm": "After"}),
        "n4": _views(session, {"n4_T1w": "T1w", "n4_FLAIR": "FLAIR"}),
        "steps": _steps(seconds),
        "total": duration(sum(seconds.values())) if seconds else "",
        "failures": failed,
    }


def _belongs(failure: Failure, label: str) -> bool:
    """True when the failed node lies in the sub-workflow of a label."""
    return f".{label.replace('-', '_')}_wf." in f".{failure.node}."


def _generated_by(output_dir: Path) -> list[Mapping[str, Any]]:
    path = output_dir / "dataset_description.json"
    return read_json(path).get("GeneratedBy", []) if path.is_file() else []


def _methods(output_dir: Path) -> Markup:
    """Methods text of the last run as safe HTML."""
    path = output_dir / "logs" / "CITATION.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return methods_html(text, level=3)


def write_participant_report(output_dir: Path, subject: str, log_dir: Path | None = None) -> Path:
    """Write ``sub-<subject>.html``: one file without any address outside it.

    Reads the quality records, figures and tables of the participant in ``output_dir``, and crash
    files and times in ``log_dir`` (default: the newest folder in ``logs``). ``subject`` may have
    its ``sub-``. Returns the path of the page.
    """
    output_dir, subject = Path(output_dir), subject.removeprefix("sub-")
    log_dir = log_dir or collect.newest_log(output_dir)
    found, failed = collect.sessions(output_dir, subject), collect.failures(log_dir, subject)
    seconds = collect.timing(log_dir)
    sections = [
        _section(s, seconds.get(s.label, {}), [f for f in failed if _belongs(f, s.label)])
        for s in found
    ]
    orphans = [f for f in failed if not any(_belongs(f, s.label) for s in found)]
    return render(
        "participant.html.j2",
        output_dir / f"sub-{subject}.html",
        subject=subject,
        sections=sections,
        failures=orphans,
        methods=_methods(output_dir),
        generated_by=_generated_by(output_dir),
    )
