"""Masks of several runs, references and labels of regions, matched by participant and session."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bids_stroke.bids import names
from bids_stroke.bids.masks import is_reference, matches
from bids_stroke.core.ensemble_search import Case
from bids_stroke.core.files import load_image
from bids_stroke.core.geometry import Grid, bounding_box, grid_of, resample, same_grid
from bids_stroke.errors import InputMissing, UnusableData

MARGIN_VOX = 8
"""Kept around the lesions: more than the widest window, which may then not feel the cut."""
_KEY = {"subject": "sub", "session": "ses", "acquisition": "acq", "run": "run"}


def keyed(folder: Path, wanted: Callable[[Mapping[str, str]], bool]) -> dict[str, Path]:
    """Images below a folder whose parsed names are wanted, by ``sub-01[_ses-..][_acq-..]..``.

    Raises UnusableData where two files have one key.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("sub-*.nii*")):
        parsed = names.parse(path)
        if not wanted(parsed):
            continue
        key = "_".join(f"{short}-{parsed[long]}" for long, short in _KEY.items() if long in parsed)
        if key in found:
            raise UnusableData(f"{found[key]} and {path} are two masks of {key}: move one away.")
        found[key] = path
    return found


def find_cases(
    predictions: Mapping[str, Path],
    reference: Path,
    space: str,
    regions: Path | None = None,
    region_names: Mapping[str, Sequence[int]] | None = None,
) -> list[Case]:
    """One case for each reference that every run has a mask for, by name.

    ``predictions`` are output folders by name, ``space`` the one whose masks are taken. A reference
    without ``space-`` is in that space. ``regions`` is a label image for all cases (their grids lie
    in one space then), or a folder with one for each. Raises InputMissing where nothing fits.
    """
    truths = keyed(reference, lambda p: is_reference(p) and p.get("space", space) == space)
    ours = {"suffix": "mask", "desc": "stroke", "space": space}
    found = {
        name: keyed(folder, lambda parsed: matches(parsed, ours))
        for name, folder in predictions.items()
    }
    labels = _label_files(regions, truths)
    whole = [
        key for key in truths if key in labels and all(key in masks for masks in found.values())
    ]
    if not whole:
        counted = ", ".join(f"{name} {len(masks)}" for name, masks in found.items())
        raise InputMissing(
            f"No case has a reference in {reference} ({len(truths)} found) and masks in "
            f"space-{space} of all runs ({counted}): check the folders and --space."
        )
    return [
        Case(
            name=key,
            participant=key.split("_")[0],
            read=partial(
                _read, truths[key], {n: masks[key] for n, masks in found.items()}, labels[key]
            ),
            names=dict(region_names or {}),
        )
        for key in whole
    ]


def _label_files(regions: Path | None, truths: Mapping[str, Path]) -> dict[str, Path | None]:
    if regions is None or regions.is_file():
        return dict.fromkeys(truths, regions)
    found = keyed(regions, lambda parsed: parsed.get("suffix") in ("dseg", "mask"))
    return {key: found[key] for key in truths if key in found}


def _read(
    reference: Path, masks: Mapping[str, Path], labels: Path | None
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]:
    """Reference, masks and labels of a case, cut to the box of all lesions."""
    truth, grid = _mask(reference)
    members = {name: _on_grid(path, grid) for name, path in masks.items()}
    numbers = None if labels is None else _labels(labels, grid)
    everything = np.logical_or.reduce([truth, *members.values()])
    if not everything.any():
        everything[(0,) * everything.ndim] = True
    box = bounding_box(everything, MARGIN_VOX)
    cut = {name: mask[box] for name, mask in members.items()}
    return truth[box], cut, None if numbers is None else numbers[box]


def _mask(path: Path) -> tuple[np.ndarray, Grid]:
    image = load_image(path)
    return np.asanyarray(image.dataobj) > 0, grid_of(image)


def _on_grid(path: Path, grid: Grid) -> np.ndarray:
    mask, own = _mask(path)
    if not same_grid(own, grid):
        raise UnusableData(f"{path} is not on the grid of its reference: check --space.")
    return mask


def _labels(path: Path, grid: Grid) -> np.ndarray:
    """Labels on a grid, by the nearest voxel."""
    image: Any = load_image(path)
    data = np.asanyarray(image.dataobj).astype(np.int32)
    if same_grid(grid_of(image), grid):
        return data
    return resample(data, grid_of(image), grid, order=0).astype(np.int32)
