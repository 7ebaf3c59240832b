"""Datasets of empty files, for tests that look at names only."""

import json
from collections.abc import Iterable
from pathlib import Path


def describe(root: Path, **more: object) -> Path:
    """Give a folder a ``dataset_description.json``."""
    root.mkdir(parents=True, exist_ok=True)
    content = {"Name": "Test", "BIDSVersion": "1.10.0", "Authors": ["A. One", "B. Two"], **more}
    (root / "dataset_description.json").write_text(json.dumps(content))
    return root


def touch(root: Path, files: Iterable[str]) -> Path:
    """Make empty images: ``01/a/acq-x_T1w`` is sub-01/ses-a/anat/sub-01_ses-a_acq-x_T1w.nii.gz."""
    for file in files:
        *labels, rest = file.split("/")
        folders = [f"{kind}-{label}" for kind, label in zip(("sub", "ses"), labels, strict=False)]
        path = root.joinpath(*folders, "anat", "_".join([*folders, rest]) + ".nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def dataset(root: Path, *files: str) -> Path:
    """A raw dataset of empty images."""
    return touch(describe(root), files)
