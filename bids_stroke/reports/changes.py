"""Longitudinal tables: what became of each lesion of a participant from session to session.

The sessions' images are registered rigidly, once, and the transform is kept among the outputs, so
that volumes stay those of each session's own grid: a template would bend them.
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_stroke.core import geometry, longitudinal
from bids_stroke.core.files import UNREADABLE, load_image, read_json, write_json, write_text
from bids_stroke.core.geometry import Grid
from bids_stroke.reports.collect import Session

COLUMNS = {
    "participant_id": "Participant.",
    "session_before": "Earlier session.",
    "session_after": "Later session.",
    "label_before": "First part of the names of the earlier session's files.",
    "label_after": "First part of the names of the later session's files.",
    "image": "Image whose grids the volumes are of, and by which the sessions were registered.",
    "n_new": "Number of lesions that are new.",
    "n_resolved": "Number of lesions that are resolved.",
    "n_grown": "Number of lesions, or groups of them, that grew beyond the noise floor.",
    "n_shrunken": "Number of those that shrank beyond it.",
    "n_stable": "Number of those that changed by no more than it.",
    "new_ml": "Volume of the new lesions in millilitres.",
    "resolved_ml": "Volume of the resolved lesions in millilitres.",
    "volume_before_ml": "Lesion volume of the earlier session in millilitres.",
    "volume_after_ml": "Lesion volume of the later session in millilitres.",
    "change_ml": "Later minus earlier volume in millilitres.",
    "noise_floor_ml": "Noise floor of that change: those of all lesions, added in squares.",
    "beyond_noise": "Does the change exceed the noise floor?",
    "similarity": "Normalised mutual information of the registered images in the brain, 1 to 2.",
    "brain_overlap_dice": "Dice of the brain masks after the registration.",
    "flags": "What makes the registration doubtful; n/a where nothing does.",
}
LESION_COLUMNS = {
    **{name: COLUMNS[name] for name in ("participant_id", "label_before", "label_after")},
    **longitudinal.CHANGE_COLUMNS,
}


@dataclass(frozen=True)
class Scan:
    """What a session has of one image: files on that image's native grid."""

    session: Session
    modality: str

    def file(self, kind: str, **extra: str) -> Path:
        """An output on the grid of the image; the source image's carries no ``space``."""
        source = next(iter(self.session.record["inputs"]))
        named = {} if self.modality == source else {"space": self.modality}
        return self.session.output(kind, **named, **extra)

    @property
    def image(self) -> Path:
        """Preprocessed image, brain only."""
        return self.session.output("preproc", suffix=self.modality)

    @property
    def brain(self) -> Path:
        """Brain mask."""
        return self.file("brain_mask")

    @property
    def labels(self) -> Path:
        """Lesions by number."""
        return self.session.output("lesion_dseg", space=self.modality)

    @property
    def probability(self) -> Path:
        """Probability of lesion."""
        return self.session.output("lesion_probseg", space=self.modality)

    @property
    def complete(self) -> bool:
        """Are all files there?"""
        return all(f.is_file() for f in (self.image, self.brain, self.labels, self.probability))


def session_pairs(sessions: Iterable[Session]) -> list[tuple[Session, Session]]:
    """Consecutive sessions of each participant, whose names differ in the session only.

    Sessions follow each other by their labels, numbers by value.
    """
    series: dict[tuple[Any, ...], list[Session]] = {}
    for session in sessions:
        if session.session:
            rest = {k: v for k, v in session.record["entities"].items() if k != "session"}
            series.setdefault(tuple(sorted(rest.items())), []).append(session)
    return [pair for one in series.values() for pair in pairwise(sorted(one, key=_order))]


def _order(session: Session) -> tuple[int, str]:
    label = session.session or ""
    return (int(label) if label.isdecimal() else 0, label)


def shared_scans(before: Session, after: Session) -> tuple[Scan, Scan] | None:
    """The same image of both sessions, with all that is needed: the reference space's first."""
    for modality in dict.fromkeys((after.reference, before.reference, "FLAIR", "T1w")):
        scans = Scan(before, modality), Scan(after, modality)
        if all(modality in s.session.record["inputs"] and s.complete for s in scans):
            return scans
    return None


def registered(before: Scan, after: Scan, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Rigid matrix from points of the earlier image to the later one (RAS+ mm), and its record.

    Kept as ``from-<image>_to-<image>ses<label>`` beside the later session's outputs, and read from
    there as long as it is newer than both images.
    """
    session = "".join(filter(str.isalnum, before.session.session or ""))
    target = f"{before.modality}ses{session}"
    path = after.session.output("xfm", from_=after.modality, to=target, extension=".txt")
    record = path.with_suffix(".json")
    if not _newer(path, record, than=(before.image, after.image)):
        _register(before, after, seed, path, record)
    return geometry.read_itk_affine(path), read_json(record)["Registration"]


def _newer(*files: Path, than: Sequence[Path]) -> bool:
    if not all(file.is_file() for file in files):
        return False
    youngest = max(file.stat().st_mtime for file in than)
    return min(file.stat().st_mtime for file in files) >= youngest


def _register(before: Scan, after: Scan, seed: int, path: Path, record: Path) -> None:
    from bids_stroke.interfaces.ants import RigidRegistration

    with tempfile.TemporaryDirectory() as folder:
        done = RigidRegistration(
            fixed=str(before.image),
            fixed_mask=str(before.brain),
            moving=str(after.image),
            moving_mask=str(after.brain),
            seed=seed,
        ).run(cwd=folder)
        write_text(path, Path(done.outputs.forward).read_text(encoding="utf-8"))
        quality = read_json(Path(done.outputs.qc))
    content = {
        "Description": "Rigid transform that brings the later session's image to the earlier one's "
        "grid, in the format of ITK.",
        "Registration": quality,
    }
    write_json(record, content)


def _labels(scan: Scan) -> tuple[np.ndarray, Grid]:
    image = load_image(scan.labels)
    return np.asarray(image.dataobj).astype(np.int16), geometry.grid_of(image)


def _noise(scan: Scan, labels: np.ndarray, grid: Grid) -> np.ndarray:
    probability = np.asarray(load_image(scan.probability).dataobj)
    threshold = float(scan.session.record["model"]["threshold"])
    millilitres = geometry.voxel_volume_mm3(grid.affine) / 1000
    return longitudinal.threshold_noise(labels, probability, threshold, millilitres)


def compare(before: Scan, after: Scan, seed: int) -> tuple[dict[str, Any], pd.DataFrame]:
    """Row of COLUMNS (without keys) and table of lesions of two sessions of a participant."""
    matrix, quality = registered(before, after, seed)
    (first, grid), (second, later_grid) = _labels(before), _labels(after)
    # the matrix takes points of the earlier image to the later one, as resampling pulls
    moved = geometry.resample(second, later_grid, grid, transform=matrix, order=0).astype(np.int16)
    volumes = (
        longitudinal.label_volumes(first, grid.affine),
        longitudinal.label_volumes(second, later_grid.affine),
    )
    noise = _noise(before, first, grid), _noise(after, second, later_grid)
    smallest = max(float(s.session.record["model"]["min_volume_mm3"]) for s in (before, after))
    table = longitudinal.compare(
        first, moved, grid.affine, volumes, noise, smallest_ml=smallest / 1000
    )
    row = {
        **longitudinal.totals(table),
        "similarity": quality["similarity_after"],
        "brain_overlap_dice": quality["brain_overlap_dice"],
        "flags": " ".join(quality["flags"]) or None,
    }
    return row, table


def write_changes(
    sessions: Sequence[Session], seed: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Tables of COLUMNS and LESION_COLUMNS, and sentences on pairs that could not be compared.

    Rigid transforms between sessions are written beside the later session's outputs.
    """
    rows, parts, problems = [], [], []
    for before, after in session_pairs(sessions):
        keys = _keys(before, after)
        scans = shared_scans(before, after)
        if scans is None:
            problems.append(f"{before.label} and {after.label} share no image with all its files.")
            continue
        try:
            row, lesions = compare(*scans, seed)
        except (*UNREADABLE, RuntimeError) as error:
            problems.append(f"{before.label} and {after.label} can't be compared: {error}")
            continue
        rows.append({**keys, "image": scans[0].modality, **row})
        parts.append(lesions.assign(**{k: v for k, v in keys.items() if k in LESION_COLUMNS}))
    lesions = pd.concat(parts) if parts else pd.DataFrame()
    return (
        pd.DataFrame(rows, columns=list(COLUMNS)),
        lesions.reindex(columns=list(LESION_COLUMNS)).reset_index(drop=True),
        problems,
    )


def _keys(before: Session, after: Session) -> dict[str, str]:
    return {
        "participant_id": f"sub-{before.subject}",
        "session_before": f"ses-{before.session}",
        "session_after": f"ses-{after.session}",
        "label_before": before.label,
        "label_after": after.label,
    }
