"""The page of a participant, from files on disk only."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bids_stroke.bids.names import model_page
from bids_stroke.bids.ratings import LEVELS
from bids_stroke.core.files import UNREADABLE, read_json
from bids_stroke.core.words import millilitres
from bids_stroke.reports import collect, layers, location, resources
from bids_stroke.reports.citation import methods_html
from bids_stroke.reports.collect import Failure, Session
from bids_stroke.reports.histogram import Histogram, histogram
from bids_stroke.reports.layers import Images
from bids_stroke.reports.model import write_model_page
from bids_stroke.reports.pages import asset, render
from bids_stroke.reports.rating import rating_data
from bids_stroke.reports.viewer import MAX_BYTES, as_json
from bids_stroke.reports.viewer import assets as viewer_assets

Place = tuple[float, float, float]
Row = dict[str, str]

TABLE_COLUMNS = {
    "index": "Lesion",
    "volume_mm3": "Volume",
    "side": "Side",
    "mean_probability": "Mean probability",
    "max_probability": "Highest",
    "centroid": "Centre x, y, z (mm)",
}
MORE_COLUMNS = {
    "members_share": "Members that see it",
    "disagreement": "Disagreement (SD)",
    "hemisphere": "Hemisphere",
    "lobe": "Lobe",
    "region": "Region",
    "depth": "Depth",
    "super_region": "Part of the brain",
    "territory": "Territory",
    "ventricle_distance_mm": "To the ventricles (mm)",
}
"""Columns that are shown where the table has values in them."""
ALMOST_ALL, MOSTLY = 0.9, 0.6
"""Shares of the volume from which a page says "almost all in the ..." and "mostly in the ..."."""
BOTH = "in both hemispheres"
PAGE_BYTES = 14_000_000
LIBRARY_BYTES = 1_200_000
LEAST_BYTES = 300_000
"""Less is no picture of a brain: the viewers of so many sessions link their images."""
PICTURES_SHARE = 0.7
"""Of the page, without the library: at most so much is for the pictures, the rest for viewers."""


def _side(table: pd.DataFrame) -> str:
    """Where the lesion volume lies, in a few words: by the template where the table tells it."""
    by = "hemisphere" if "hemisphere" in table else "side"
    if table.empty or by not in table:
        return ""
    volume = table.groupby(by)["volume_mm3"].sum()
    share = volume / volume.sum()
    main = str(share.idxmax())
    place = {"left": "in the left hemisphere", "right": "in the right hemisphere"}
    if main == "both":
        return BOTH
    where = place.get(main, "near the midline")
    if (share > 0).sum() == 1:
        return where
    if share.max() >= ALMOST_ALL:
        return f"almost all {where}"
    return f"mostly {where} ({share.max():.0%})" if share.max() >= MOSTLY else BOTH


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


def verdict(session: Session) -> str:
    """What goes with the answer in its line: mean probability and the number of flags."""
    sure = confidence(session)
    count = Counter(flag["severity"] for flag in session.record["flags"])
    flags = [f"{n} {word}{'s' if n > 1 else ''}" for word, n in sorted(count.items(), reverse=True)]
    parts = [f"mean probability {sure}"] if sure else []
    return ", ".join([*parts, *(flags or ["no flags"])])


def table_columns(table: pd.DataFrame) -> dict[str, str]:
    """Columns of the page's table of lesions: the usual ones, and those that hold a value."""
    more = [name for name in MORE_COLUMNS if name in table and table[name].notna().any()]
    return {**TABLE_COLUMNS, **{name: MORE_COLUMNS[name] for name in more}}


def lesion_rows(table: pd.DataFrame, places: Mapping[int, Place] | None = None) -> list[Row]:
    """Rows of a lesion table as text, by the columns of ``table_columns``.

    ``places`` are points in mm by the number of the lesion, to which the viewer jumps.
    """
    return [_lesion_row(row, table, places or {}) for row in table.to_dict("records")]


def _lesion_row(row: Mapping[str, Any], table: pd.DataFrame, places: Mapping[int, Place]) -> Row:
    centre = ", ".join(f"{row[f'centroid_{axis}']:.0f}" for axis in "xyz")
    place = places.get(int(row["index"]))
    return {
        "index": str(row["index"]),
        "volume_mm3": millilitres(row["volume_mm3"] / 1000),
        "side": str(row["side"]),
        "mean_probability": f"{row['mean_probability']:.2f}",
        "max_probability": f"{row['max_probability']:.2f}",
        "centroid": centre,
        **{name: _cell(row[name]) for name in MORE_COLUMNS if name in table},
        "mm": ",".join(map(str, place)) if place else "",
    }


def _cell(value: Any) -> str:
    if pd.isna(value):
        return "n/a"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


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


def _corrections(session: Session) -> dict[str, list[dict[str, Any]]]:
    """Views of the bias correction of each modality that has some."""
    names = {"n4before": "Before", "n4after": "After", "n4field": "Bias field"}
    views = {
        modality: _views(session, {f"{desc}_{modality}": name for desc, name in names.items()})
        for modality in session.record["inputs"]
    }
    return {modality: pictures for modality, pictures in views.items() if pictures}


def _images(output_dir: Path, session: Session) -> tuple[Images | None, str]:
    """Images of a session, or None with a sentence where a file of them is damaged."""
    try:
        return layers.load(output_dir, session), ""
    except UNREADABLE as error:
        return None, f"The viewer is left out, because an image can't be read: {error}"


def _histograms(images: Images) -> list[Histogram]:
    """Intensities of each image within the brain."""
    if "brain" not in images.arrays:
        return []
    brain, lesions = images.arrays["brain"], images.arrays["lesions"]
    drawn = [histogram(name, images.arrays[name], brain, lesions) for name in images.modalities]
    return [one for one in drawn if one]


def _seen(output_dir: Path, session: Session, linked: bool, max_bytes: int) -> dict[str, Any]:
    """What is made of the images themselves: viewer, histograms, places of the lesions."""
    images, trouble = _images(output_dir, session)
    if images is None:
        return {"viewer": "", "trouble": trouble, "places": {}, "histograms": []}
    places = layers.places(images)
    viewer = layers.session_viewer(
        session,
        images,
        f"viewer-{session.label}",
        linked=linked,
        max_bytes=max_bytes,
        points=[places[number] for number in sorted(places)],
    )
    shown = places if images.space == session.reference else {}
    return {
        "viewer": viewer,
        "trouble": "",
        "places": shown,
        "histograms": _histograms(images),
    }


def _section(
    session: Session, log_dir: Path | None, failed: Sequence[Failure], seen: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that the template shows of one session."""
    record = session.record
    return {
        **seen,
        "label": session.label,
        "answer": answer(session),
        "verdict": verdict(session),
        "model_page": model_page(str(record["model"]["name"])),
        "rating": as_json(rating_data(session)),
        "flags": record["flags"],
        "record": record,
        "reference": session.reference,
        "inputs": _inputs(record),
        "registration": _registration(record),
        "columns": table_columns(session.table),
        "rows": lesion_rows(session.table, seen["places"]),
        "lesions": _views(session, {"lesions_dseg": "Outlined", "plain_dseg": "Plain"}),
        "brains": _views(session, {"brain_T1w": "T1w", "brain_FLAIR": "FLAIR"}),
        "moved": _views(session, {"before_xfm": "Before", "after_xfm": "After"}),
        "normalized": _views(session, location.VIEWS),
        "template": location.template(record),
        "location": location.location(record),
        "n4": _corrections(session),
        "steps": resources.steps(log_dir, session.label),
        "total": resources.total(log_dir, session.label),
        "failures": failed,
    }


def _generated_by(output_dir: Path) -> list[Mapping[str, Any]]:
    path = output_dir / "dataset_description.json"
    return read_json(path).get("GeneratedBy", []) if path.is_file() else []


def changes_of(output_dir: Path, subject: str) -> list[dict[str, Any]]:
    """Rows of a participant in ``group_longitudinal.tsv``, where a group run has left one."""
    path = output_dir / "group_longitudinal.tsv"
    if not path.is_file():
        return []
    names = dict.fromkeys(("participant_id", "session_before", "session_after"), str)
    table = pd.read_csv(path, sep="\t", na_values="n/a", dtype=names).astype(object)
    own = table[table["participant_id"] == f"sub-{subject}"]
    return own.where(own.notna(), None).to_dict("records")


def _citation(output_dir: Path, suffix: str) -> str:
    """Text of ``logs/CITATION.*`` of the last run; empty where there is none."""
    path = output_dir / "logs" / f"CITATION{suffix}"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _budget(found: Sequence[Session]) -> tuple[float, int]:
    """Share of their bytes that pictures keep, and bytes for the images of one session's viewer.

    Both so that the page stays under its limit, however many sessions it has; 0 bytes where there
    is no room for images.
    """
    figures = sum(path.stat().st_size for s in found for path in s.figures.values()) * 4 / 3
    room = PAGE_BYTES - LIBRARY_BYTES
    share = min(PICTURES_SHARE * room / max(figures, 1), 1.0)
    left = int(room - share * figures) // max(len(found), 1)
    return share, min(left, MAX_BYTES) if left >= LEAST_BYTES else 0


def write_participant_report(
    output_dir: Path, subject: str, log_dir: Path | None = None, *, linked: bool = False
) -> Path:
    """Write ``sub-<subject>.html``: one file without any address outside it.

    Reads the quality records, figures, tables and images of the participant in ``output_dir``, and
    crash files and times in ``log_dir`` (default: that of the participant's last run). ``subject``
    may have its ``sub-``. Reduced images are written into the page, so that it stays under 15 MB;
    ``linked`` leaves them out and links the full files. The pages of the models are written beside
    it. Many sessions have smaller pictures, and from about a dozen on linked images. Returns the
    path of the page.
    """
    output_dir, subject = Path(output_dir), subject.removeprefix("sub-")
    log_dir = log_dir or collect.last_logs(output_dir).get(f"sub-{subject}")
    found, failed = collect.sessions(output_dir, subject), collect.failures(log_dir, subject)
    share, max_bytes = _budget(found)
    linked = linked or not max_bytes
    sections = [
        _section(
            s,
            log_dir,
            [f for f in failed if collect.belongs(f, s.label)],
            _seen(output_dir, s, linked, max_bytes),
        )
        for s in found
    ]
    for session in found:
        write_model_page(output_dir, session.record["model"])
    values = dict(viewer_assets(one["viewer"] for one in sections))
    values["libraries"] = [*values.get("libraries", ()), asset("rating.js")] if found else ()
    return render(
        "participant.html.j2",
        output_dir / f"sub-{subject}.html",
        subject=subject,
        sections=sections,
        share=share,
        changes=changes_of(output_dir, subject),
        levels=LEVELS,
        failures=[f for f in failed if not any(collect.belongs(f, s.label) for s in found)],
        methods=methods_html(_citation(output_dir, ".md"), level=3),
        bibtex=_citation(output_dir, ".bib"),
        generated_by=_generated_by(output_dir),
        connect="'self'" if linked else "'none'",
        **values,
    )
