"""Is the input a BIDS dataset? Quick checks; each failure is one sentence that says what to do."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from bids_stroke.errors import InputMissing, InvalidDataset, NothingSelected, UnusableData

REQUIRED = ("Name", "BIDSVersion")
LONGEST_LABEL = 160
"""Characters that leave room for the rest of an output's name; file systems allow 255 bytes."""
_LABEL = re.compile(r"[a-zA-Z0-9]+-[a-zA-Z0-9+]+(_[a-zA-Z0-9]+-[a-zA-Z0-9+]+)*")


def check_dataset(bids_dir: Path) -> None:
    """Raise InputMissing for no folder, InvalidDataset for one that is no BIDS dataset.

    A dataset of derivatives may hold images named as raw ones (defaced, or with lesions put in).
    """
    check_folder(bids_dir)
    description = read_description(bids_dir)
    for key in REQUIRED:
        if not isinstance(description.get(key), str):
            raise InvalidDataset(
                f"{bids_dir / 'dataset_description.json'} lacks '{key}': add it, or use "
                "--skip-bids-validation."
            )
    if not subjects(bids_dir):
        raise InvalidDataset(f"{bids_dir} has no folder sub-<label>: is it the right BIDS_DIR?")


def check_folder(bids_dir: Path) -> None:
    """Raise InputMissing when the dataset's folder is not there or can't be listed."""
    if not bids_dir.is_dir():
        raise InputMissing(f"There is no folder {bids_dir}: check BIDS_DIR.")
    if not os.access(bids_dir, os.R_OK | os.X_OK):
        raise InputMissing(f"The folder {bids_dir} can't be read: check its permissions.")


def read_description(bids_dir: Path) -> dict:
    """Content of ``dataset_description.json``; raises InvalidDataset when it can't be had."""
    path = bids_dir / "dataset_description.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InvalidDataset(
            f"{path} is missing: every BIDS dataset has one; use --skip-bids-validation to go on."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidDataset(f"{path} can't be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InvalidDataset(f"{path} must hold a JSON object.")
    return content


def subjects(bids_dir: Path) -> list[str]:
    """Labels of all participants that have a folder, sorted."""
    return sorted(p.name.removeprefix("sub-") for p in bids_dir.glob("sub-*") if p.is_dir())


def check_participants(bids_dir: Path, participants: Sequence[str]) -> None:
    """Raise NothingSelected when a participant that was asked for has no folder."""
    if absent := sorted(set(participants) - set(subjects(bids_dir))):
        names = ", ".join(f"sub-{label}" for label in absent)
        raise NothingSelected(f"There is no {names} in {bids_dir}: check --participant-label.")


def check_label(label: str, source: Path) -> None:
    """Raise UnusableData when the entities of an image can't name outputs."""
    if not _LABEL.fullmatch(label):
        raise UnusableData(
            f"{source} has a name that BIDS does not allow ({label!r}): rename it, and its "
            "folders, with letters, digits and + only."
        )
    if len(label) > LONGEST_LABEL:
        raise UnusableData(
            f"{source} has too long a name for its outputs ({len(label)} characters, at most "
            f"{LONGEST_LABEL}): rename it."
        )


def check_files(paths: Iterable[Path]) -> None:
    """Raise InputMissing for a path that leads to no file, as content that was not fetched."""
    for path in paths:
        if not path.is_file():
            raise InputMissing(
                f"{path} does not exist or is no file: check the path or fetch the file's content."
            )
