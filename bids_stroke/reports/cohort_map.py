"""The lesion overlap map of the cohort: an image, a picture and what was left out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bids_stroke.core import geometry, overlap
from bids_stroke.core.files import UNREADABLE, load_image, save_image, write_json
from bids_stroke.core.geometry import Grid
from bids_stroke.reports.collect import Session

IMAGE = "group_overlap.nii.gz"
PICTURE = "group_overlap.webp"


@dataclass(frozen=True)
class CohortMap:
    """Overlap of one template space: counts and anatomy [x, y, z] on a grid, and their files."""

    space: str
    participants: int
    largest: int
    counts: np.ndarray
    anatomy: np.ndarray
    grid: Grid
    picture: Path
    left_out: tuple[str, ...]


def template_masks(session: Session) -> dict[str, Path]:
    """Lesion masks of a session in template spaces (``space-MNI*``), by space."""
    some = session.output("lesion_mask", space=session.reference)
    prefix, _, ending = some.name.partition(f"_space-{session.reference}_")
    paths = sorted(some.parent.glob(f"{prefix}_space-MNI*_{ending}"))
    return {path.name.removeprefix(f"{prefix}_space-").partition("_")[0]: path for path in paths}


def one_per_participant(sessions: Iterable[Session]) -> tuple[str, list[tuple[str, Path]]] | None:
    """The template space that most participants have, and the first mask of each in it."""
    found: dict[str, dict[str, Path]] = {}
    for session in sessions:
        for space, path in template_masks(session).items():
            found.setdefault(space, {}).setdefault(session.subject, path)
    if not found:
        return None
    space = max(found, key=lambda name: len(found[name]))
    return space, list(found[space].items())


def _images(
    paths: Sequence[tuple[str, Path]], grid: Grid, left_out: list[str]
) -> Iterator[np.ndarray]:
    """Masks on one grid; another grid and a broken file are said in ``left_out``."""
    for subject, path in paths:
        try:
            image = load_image(path)
            if not geometry.same_grid(geometry.grid_of(image), grid):
                left_out.append(f"sub-{subject}: {path.name} is on another grid than the first.")
                continue
            mask = np.asarray(image.dataobj) > 0
        except UNREADABLE as error:
            left_out.append(f"sub-{subject}: {path.name} can't be read ({error}).")
            continue
        yield mask


def _first_grid(paths: Sequence[tuple[str, Path]]) -> Grid | None:
    for _, path in paths:
        try:
            return geometry.grid_of(load_image(path))
        except UNREADABLE:
            continue
    return None


def template_on(grid: Grid) -> np.ndarray:
    """nilearn's MNI152 T1w template, 0 outside the brain, on a grid."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    image, mask = load_mni152_template(resolution=1), load_mni152_brain_mask(resolution=1)
    brain = np.asarray(image.dataobj) * (np.asarray(mask.dataobj) > 0)
    return geometry.resample(brain.astype(np.float32), geometry.grid_of(image), grid)


def write_map(output_dir: Path, sessions: Sequence[Session]) -> CohortMap | None:
    """Write ``group_overlap.nii.gz``, its JSON and its picture; None where no mask is in MNI space.

    Each participant counts once, by the first session. Old files go where there is no map.
    """
    chosen = one_per_participant(sessions)
    files = [output_dir / name for name in (IMAGE, PICTURE, "group_overlap.json")]
    grid = _first_grid(chosen[1]) if chosen else None
    if chosen is None or grid is None:
        for file in files:
            file.unlink(missing_ok=True)
        return None
    space, paths = chosen
    left_out: list[str] = []
    counts = overlap.overlap(_images(paths, grid, left_out), grid.shape)
    anatomy = template_on(grid)
    save_image(counts, grid.affine, files[0], dtype=np.uint16)
    overlap.overlap_figure(anatomy, counts, grid.affine, files[1])
    n = len(paths) - len(left_out)
    write_json(files[2], _sidecar(space, n))
    largest = int(counts.max(initial=0))
    return CohortMap(space, n, largest, counts, anatomy, grid, files[1], tuple(left_out))


def _sidecar(space: str, participants: int) -> dict[str, Any]:
    return {
        "Description": "Number of participants with a lesion at each voxel.",
        "Space": space,
        "Participants": participants,
        "Rule": "Each participant counts once, by the first session.",
    }
