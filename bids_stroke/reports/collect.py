"""What an output folder and its logs hold: sessions, failures, times."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from bids_stroke.bids.names import output_path
from bids_stroke.bids.pairs import workflow_name
from bids_stroke.core.crashes import read_crash
from bids_stroke.core.files import read_json
from bids_stroke.errors import UnusableData

_KEPT = {"label", "entities", "inputs", "reference", "model", "lesions", "flags"}
"""What each record of a session has."""


@dataclass(frozen=True)
class Session:
    """One pair that was processed: its record, and where its figures and tables lie.

    Figures and tables are read when they are asked for, so that a large cohort costs its records.
    """

    record: Mapping[str, Any]
    output_dir: Path

    @property
    def label(self) -> str:
        """``sub-01_ses-01_run-1``."""
        return str(self.record["label"])

    @property
    def subject(self) -> str:
        """Participant, without ``sub-``."""
        return str(self.record["entities"]["subject"])

    @property
    def session(self) -> str | None:
        """Session, without ``ses-``."""
        return self.record["entities"].get("session")

    @property
    def reference(self) -> str:
        """Space whose numbers come first."""
        return str(self.record["reference"])

    @property
    def page(self) -> str:
        """Address of the session's place on its participant's page."""
        return f"sub-{self.subject}.html#{self.label}"

    @property
    def lesions(self) -> Mapping[str, Any]:
        """``count`` and ``volume_ml`` in the reference space."""
        return self.record["lesions"][self.reference]

    def output(self, kind: str, **extra: str) -> Path:
        """Path of an output of the session (``bids.names.output_path``)."""
        return self.output_dir / output_path(self.record["entities"], kind, **extra)

    @cached_property
    def figures(self) -> Mapping[str, Path]:
        """Figures by ``desc_suffix``."""
        return _figures(self.output_dir / f"sub-{self.subject}" / "figures", self.label)

    @cached_property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Lesion tables by space, where their files are."""
        paths = self.table_paths()
        return {space: pd.read_csv(path, sep="\t", na_values="n/a") for space, path in paths}

    def table_paths(self) -> list[tuple[str, Path]]:
        """Spaces and files of the lesion tables that are on disk."""
        named = [
            (space, self.output("lesion_table", space=space)) for space in self.record["lesions"]
        ]
        return [(space, path) for space, path in named if path.is_file()]

    @property
    def table(self) -> pd.DataFrame:
        """Lesion table in the reference space; empty where its file is missing."""
        return self.tables.get(self.reference, pd.DataFrame())


@dataclass(frozen=True)
class Failure:
    """A step that failed: whose, where, why, and the whole text of the crash file."""

    subject: str
    node: str
    message: str
    traceback: str
    file: Path


def _figures(folder: Path, label: str) -> dict[str, Path]:
    """Figures of a label by ``desc_suffix``, for example ``brain_T1w``."""
    found = {}
    for path in sorted(folder.glob(f"{label}_*desc-*.*")):
        match = re.fullmatch(rf"{re.escape(label)}_desc-([A-Za-z0-9]+)_(\w+)", path.stem)
        if match and path.suffix in {".webp", ".png", ".svg"}:
            found[f"{match[1]}_{match[2]}"] = path
    return found


def sessions(output_dir: Path, subject: str = "*") -> list[Session]:
    """Sessions with a quality record, of one participant or of all, by label.

    Raises UnusableData for a record that can't be read.
    """
    folder = Path(output_dir)
    paths = sorted(folder.glob(f"sub-{subject}/figures/*_desc-qc.json"))
    return [Session(_record(path), folder) for path in paths]


def _record(path: Path) -> Any:
    try:
        record = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableData(f"{path} can't be read: run this participant again.") from error
    if not isinstance(record, dict) or not record.keys() >= _KEPT:
        raise UnusableData(f"{path} is no record of a session: run this participant again.")
    return record


def last_logs(output_dir: Path) -> dict[str, Path]:
    """Folder in ``logs`` of each participant's last run: the newest with times or failures of it.

    A run that passes over who is complete, and that of another participant, tell nothing of it.
    """
    folders = [folder for folder in (Path(output_dir) / "logs").glob("*") if folder.is_dir()]
    return {
        participant: folder
        for folder in sorted(folders, key=_changed)
        for participant in (*_timed(folder), *(path.name for path in folder.glob("sub-*")))
    }


def _timed(log_dir: Path) -> set[str]:
    """Participants (with ``sub-``) who have times in a log."""
    path = log_dir / "timing.tsv"
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8") as stream:
        next(stream, "")
        return {line.partition("\t")[0] for line in stream}


def failures(log_dir: Path | None, subject: str = "*") -> list[Failure]:
    """Failed steps that a run's crash files tell of, by file name."""
    if log_dir is None:
        return []
    return [_failure(path) for path in sorted(Path(log_dir).glob(f"sub-{subject}/crash*.txt"))]


def standing_failures(output_dir: Path) -> list[Failure]:
    """Failures of each participant's last run that had some, unless the pair was done since.

    On a cluster with one job a participant every job has a log of its own, so that the newest log
    does not tell of all.
    """
    newest: dict[str, Path] = {}
    for path in sorted((Path(output_dir) / "logs").glob("*/sub-*/crash*.txt"), key=_changed):
        newest[path.parent.name] = path.parent.parent
    found = [f for name, log in sorted(newest.items()) for f in failures(log, name[4:])]
    return [failure for failure in found if not _done_since(Path(output_dir), failure)]


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def _done_since(output_dir: Path, failure: Failure) -> bool:
    """Is there a record of the failed pair that is newer than the crash?"""
    records = output_dir.glob(f"sub-{failure.subject}/figures/*_desc-qc.json")
    crashed = _changed(failure.file)
    return any(
        belongs(failure, path.name.removesuffix("_desc-qc.json")) and _changed(path) > crashed
        for path in records
    )


def belongs(failure: Failure, label: str) -> bool:
    """Lies the failed node in the sub-workflow of a label?"""
    return f".{workflow_name(label)}." in f".{failure.node}."


def _failure(path: Path) -> Failure:
    text = path.read_text(encoding="utf-8", errors="replace")
    crash = read_crash(text)
    return Failure(
        subject=path.parent.name.removeprefix("sub-"),
        node=crash.node,
        message=crash.message,
        traceback=text.strip(),
        file=path,
    )
