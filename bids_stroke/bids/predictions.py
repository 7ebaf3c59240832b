"""Masks of several runs, references and labels of regions, matched by participant and session."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine

from bids_stroke.bids import names
from bids_stroke.bids.masks import TEMPLATE, is_reference, matches
from bids_stroke.core import warps
from bids_stroke.core.atlases import Atlas
from bids_stroke.core.ensemble_search import Case
from bids_stroke.core.files import load_image
from bids_stroke.core.geometry import (
    Grid,
    bounding_box,
    grid_of,
    read_itk_affine,
    resample,
    same_grid,
)
from bids_stroke.errors import InputMissing, UnusableData

MARGIN_VOX = 8
"""Kept around the lesions: more than the widest window, which may then not feel the cut."""
_KEY = {"subject": "sub", "session": "ses", "acquisition": "acq", "run": "run"}
_TEMPLATES = "MNI"  # what names of template spaces begin with

Lookup = Callable[[Grid, np.ndarray], np.ndarray]
"""Numbers of regions on a grid, right at least where the mask on it says so."""


@dataclass(frozen=True)
class Way:
    """From an image's points to template space: the composite of ITK that brings the template to
    the registered image, and, of masks on another image, the rigid one from the former to it."""

    to_template: Path
    to_registered: Path | None = None

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (n x 3, RAS+ mm) of the image in template space; UnusableData for a bad file."""
        try:
            if self.to_registered is not None:
                points = apply_affine(read_itk_affine(self.to_registered), points)
            return warps.map_points(points, warps.read_transform(self.to_template))
        except ValueError as error:
            raise UnusableData(f"{error}: run participant again for this session.") from error


def keyed(folder: Path, wanted: Callable[[Mapping[str, str]], bool]) -> dict[str, Path]:
    """Images below a folder whose parsed names are wanted, by ``sub-01[_ses-..][_acq-..]..``.

    Raises UnusableData where two files have one key.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("sub-*.nii*")):
        parsed = names.parse(path)
        if not wanted(parsed):
            continue
        key = _key_of(parsed)
        if key in found:
            raise UnusableData(f"{found[key]} and {path} are two masks of {key}: move one away.")
        found[key] = path
    return found


def _key_of(parsed: Mapping[str, str]) -> str:
    return "_".join(f"{short}-{parsed[long]}" for long, short in _KEY.items() if long in parsed)


def find_cases(
    predictions: Mapping[str, Path],
    reference: Path,
    space: str,
    regions: Path | Atlas | None = None,
    region_names: Mapping[str, Sequence[int]] | None = None,
) -> list[Case]:
    """One case for each reference that every run has a mask for, by name.

    ``predictions`` are output folders by name, ``space`` the one whose masks are taken. A reference
    without ``space-`` is in that space. ``regions`` is a label image for all cases (their grids lie
    in one space then), or a folder with one for each, or an atlas in template space, which is
    looked up through a transform that one of the runs wrote. Raises InputMissing where nothing
    fits, and where a case has no such transform.
    """
    truths = keyed(reference, lambda p: is_reference(p) and p.get("space", space) == space)
    ours = {"suffix": "mask", "desc": "stroke", "space": space}
    found = {
        name: keyed(folder, lambda parsed: matches(parsed, ours))
        for name, folder in predictions.items()
    }
    labels: Mapping[str, Any] = dict.fromkeys(truths)
    if isinstance(regions, Path):
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
    if isinstance(regions, Atlas):
        labels = _looked_up(regions, predictions, space, whole)
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


def _label_files(regions: Path, truths: Mapping[str, Path]) -> dict[str, Lookup]:
    """Labels from one image for all cases, or from that of each in a folder."""
    if regions.is_file():
        return dict.fromkeys(truths, partial(_labels, regions))
    found = keyed(regions, lambda parsed: parsed.get("suffix") in ("dseg", "mask"))
    return {key: partial(_labels, found[key]) for key in truths if key in found}


def _looked_up(
    atlas: Atlas, predictions: Mapping[str, Path], space: str, keys: Sequence[str]
) -> dict[str, Lookup]:
    """Labels from an atlas, as the participant level tells where lesions lie."""
    if space.startswith(_TEMPLATES):
        return dict.fromkeys(keys, partial(_atlas_labels, atlas, None))
    runs = [_transforms(folder) for folder in predictions.values()]
    ways = {key: next(filter(None, (_way(r, key, space) for r in runs)), None) for key in keys}
    if missing := [key for key, way in ways.items() if way is None]:
        raise InputMissing(
            f"No run has a transform between a template and the {space} of {missing[0]} "
            f"({len(missing)} of {len(keys)} cases): run participant with --output-spaces T1w "
            f"FLAIR {TEMPLATE} for one of the runs, or give --regions in space-{space}."
        )
    return {key: partial(_atlas_labels, atlas, way) for key, way in ways.items()}


def _transforms(folder: Path) -> dict[tuple[str, str, str], Path]:
    """Transforms of an output folder by key of the session, source and target."""
    found = {}
    for path in sorted(folder.rglob("sub-*_xfm.*")):
        parsed = names.parse(path)
        if parsed["extension"] in (".txt", ".h5") and {"from", "to"} <= set(parsed):
            found[_key_of(parsed), parsed["from"], parsed["to"]] = path
    return found


def _way(transforms: Mapping[tuple[str, str, str], Path], key: str, space: str) -> Way | None:
    """The way from an image to template space, over the other image where that was registered."""
    for (name, start, registered), path in transforms.items():
        if name != key or not start.startswith(_TEMPLATES):
            continue
        if registered == space:
            return Way(path)
        if rigid := transforms.get((key, registered, space)):
            return Way(path, rigid)
    return None


def _atlas_labels(atlas: Atlas, way: Way | None, grid: Grid, where: np.ndarray) -> np.ndarray:
    """Labels of the voxels in ``where``, else 0; without a way the grid is that of a template."""
    points = apply_affine(grid.affine, np.argwhere(where))
    labels = np.zeros(grid.shape, np.int32)
    labels[where] = atlas.at(points if way is None else way.points(points))
    return labels


def _read(
    reference: Path, masks: Mapping[str, Path], labels: Lookup | None
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]:
    """Reference, masks and labels of a case, cut to the box of all lesions."""
    truth, grid = _mask(reference)
    members = {name: _on_grid(path, grid) for name, path in masks.items()}
    everything = np.logical_or.reduce([truth, *members.values()])
    numbers = None if labels is None else labels(grid, everything)
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


def _labels(path: Path, grid: Grid, where: np.ndarray) -> np.ndarray:
    """Labels of an image on a grid, by the nearest voxel."""
    image: Any = load_image(path)
    data = np.asanyarray(image.dataobj).astype(np.int32)
    if same_grid(grid_of(image), grid):
        return data
    return resample(data, grid_of(image), grid, order=0).astype(np.int32)
