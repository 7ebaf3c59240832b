"""Is a dataset fit to train on? All findings of all sessions at once, before hours are spent."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bids_stroke.bids.pairs import Pair
from bids_stroke.core.conform import is_placed, load_header, load_labels
from bids_stroke.core.files import UNREADABLE, load_image
from bids_stroke.core.geometry import Grid, corners, grid_of, same_grid
from bids_stroke.core.sides import FLIPPED_SD
from bids_stroke.core.words import counted
from bids_stroke.errors import InputMissing, UnusableData

LARGEST_ML = 1000.0
FAR_OUTSIDE, SOME_OUTSIDE = 0.5, 0.05


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is odd about a session; an ``error`` keeps it from being trained on."""

    label: str
    severity: str
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference mask of a pair: its file and the image (T1w or FLAIR) on which it was drawn."""

    pair: Pair
    space: str
    file: Path


@dataclass(frozen=True)
class _Read:
    """What is remembered of a mask that was read."""

    grid: Grid
    digest: str
    empty: bool


def choose_reference(pair: Pair, masks: Mapping[str, Path], prefer: str) -> Reference | None:
    """The mask to train on: of the preferred image's space, else of another image of the pair.

    A mask of a template's space serves where an image of the pair lies on its grid.
    """
    for space in sorted(masks, key=lambda name: (name != prefer, name)):
        if space in pair.images:
            return Reference(pair=pair, space=space, file=masks[space])
    for _, file in sorted(masks.items()):
        for modality, image in pair.images.items():
            if _on_one_grid(file, image):
                return Reference(pair=pair, space=modality, file=file)
    return None


def check_references(references: Sequence[Reference]) -> list[Finding]:
    """Findings about masks and images as they lie in the dataset, by label."""
    found: list[Finding] = []
    grids: dict[str, Grid] = {}
    for one in references:
        try:
            grids[one.pair.label] = grid_of(load_header(one.pair.images[one.space]))
        except (InputMissing, UnusableData) as error:
            found.append(_error(one, "unreadable", str(error)))
    read: dict[str, _Read] = {}
    for one in references:
        if one.pair.label in grids:
            found += _check_mask(one, grids, references, read)
    found += _equal_masks(references, read)
    found += _check_images([one for one in references if one.pair.label in grids])
    return sorted(found, key=lambda f: (f.label, f.severity, f.code))


def _on_one_grid(mask: Path, image: Path) -> bool:
    """Do two files have one grid? False where one can't be read."""
    try:
        return same_grid(grid_of(load_image(mask)), grid_of(load_image(image)))
    except UNREADABLE:
        return False


def _error(one: Reference, code: str, message: str) -> Finding:
    return Finding(label=one.pair.label, severity="error", code=code, message=message)


def _warning(one: Reference, code: str, message: str) -> Finding:
    return Finding(label=one.pair.label, severity="warning", code=code, message=message)


def _check_mask(
    one: Reference,
    grids: Mapping[str, Grid],
    references: Sequence[Reference],
    read: dict[str, _Read],
) -> Iterator[Finding]:
    """Findings about the voxels of one mask, and about its place."""
    name = one.file.name
    try:
        image = load_labels(one.file)
    except (InputMissing, UnusableData) as error:
        yield _error(one, "unreadable", str(error))
        return
    data, grid = np.asanyarray(image.dataobj), grid_of(image)
    values = np.unique(data)
    read[one.pair.label] = _Read(grid, _digest(data > 0), not (data > 0).any())
    yield from _check_values(one, values)
    volume = np.count_nonzero(data > 0) * abs(np.linalg.det(grid.affine[:3, :3])) / 1000
    if volume > LARGEST_ML:
        yield _error(one, "too_large", f"{name} holds {volume:.0f} mL: is it inverted?")
    if same_grid(grid, grids[one.pair.label]):
        return
    if not is_placed(image):
        yield _error(one, "no_place", f"{name} has neither sform nor qform: give it a header.")
    else:
        yield _other_grid(one, grid, grids, references)


def _check_values(one: Reference, values: np.ndarray) -> Iterator[Finding]:
    name = one.file.name
    if not np.isfinite(values).all():
        yield _error(one, "not_finite", f"{name} holds values that are no numbers.")
    elif len(values) == 1 and values[0] == 0:
        yield _warning(one, "empty", f"{name} is empty: right only for someone without a lesion.")
    elif len(values) > 2 or values[0] != 0:
        shown = ", ".join(f"{v:g}" for v in values[:4])
        yield _error(one, "not_binary", f"{name} is not binary: it holds {shown}, ...")


def _other_grid(
    one: Reference, grid: Grid, grids: Mapping[str, Grid], references: Sequence[Reference]
) -> Finding:
    """A mask that is not on its image's grid: that of another session, elsewhere, or finer."""
    for other in references:
        same_person = other.pair.subject == one.pair.subject and other is not one
        own = grids.get(other.pair.label)
        if same_person and own is not None and same_grid(grid, own):
            message = f"{one.file.name} lies on the grid of {other.pair.label}: whose mask is it?"
            return _error(one, "other_session", message)
    if not _overlap(grid, grids[one.pair.label]):
        message = f"{one.file.name} does not lie where the {one.space} lies: correct its header."
        return _error(one, "elsewhere", message)
    message = f"{one.file.name} is not on the grid of the {one.space}: it will be resampled."
    return _warning(one, "other_grid", message)


def _overlap(one: Grid, other: Grid) -> bool:
    """Do the boxes of two grids share half of the smaller one, along each axis of the world?"""
    boxes = []
    for grid in (one, other):
        world = (grid.affine @ np.c_[corners(grid.shape), np.ones(8)].T)[:3]
        boxes.append((world.min(axis=1), world.max(axis=1)))
    (low, high), (other_low, other_high) = boxes
    shared = np.minimum(high, other_high) - np.maximum(low, other_low)
    return bool((shared >= 0.5 * np.minimum(high - low, other_high - other_low)).all())


def _digest(data: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()


def _groups(digests: Iterable[tuple[str, Reference]]) -> Iterator[list[Reference]]:
    """References whose content is equal, two or more."""
    groups: dict[str, list[Reference]] = defaultdict(list)
    for digest, reference in digests:
        groups[digest].append(reference)
    yield from (group for group in groups.values() if len(group) > 1)


def _equal_masks(references: Sequence[Reference], read: Mapping[str, _Read]) -> Iterator[Finding]:
    masks = [
        (read[one.pair.label].digest, one)
        for one in references
        if one.pair.label in read and not read[one.pair.label].empty
    ]
    for group in _groups(masks):
        for one in group:
            others = _others(one, group)
            yield _error(one, "equal_mask", f"{one.file.name} is voxel for voxel that of {others}.")


def _check_images(references: Sequence[Reference]) -> Iterator[Finding]:
    """Scans whose voxels can't be read, and the same scan under two names.

    That one would be trained on and validated with.
    """
    for modality in ("T1w", "FLAIR"):
        scans, digests = [], _digests(one.pair.images.get(modality) for one in references)
        for one in references:
            if not (path := one.pair.images.get(modality)):
                continue
            if digests[path]:
                scans.append((digests[path], one))
            else:
                message = f"{path} is truncated or corrupt: its voxels can't be read."
                yield _error(one, "unreadable", message)
        for group in _groups(scans):
            if len({one.pair.images[modality] for one in group}) < 2:
                continue  # one FLAIR serves two T1w of a session
            for one in group:
                message = f"Its {modality} is voxel for voxel that of {_others(one, group)}."
                yield _error(one, f"equal_{modality.lower()}", message)


def _digests(paths: Iterable[Path | None]) -> dict[Path, str]:
    """Digest of the voxels of each file, read once; empty where they can't be read."""
    return {path: _digest_of(path) for path in dict.fromkeys(paths) if path}


def _digest_of(path: Path) -> str:
    try:
        return _digest(np.asanyarray(load_image(path).dataobj))
    except UNREADABLE:
        return ""


def _others(one: Reference, group: Sequence[Reference]) -> str:
    return ", ".join(other.pair.label for other in group if other is not one)


def check_place(label: str, outside: float, contrast: float | None) -> Iterator[Finding]:
    """Findings about a mask on the preprocessed images: outside the brain, or on the wrong side.

    The side is judged by the look of the tissue only (``core.sides``), so it stays a warning.
    """
    if outside > SOME_OUTSIDE:
        far = outside > FAR_OUTSIDE
        yield Finding(
            label=label,
            severity="error" if far else "warning",
            code="outside_brain",
            message=f"{outside:.0%} of the mask lies outside the brain.",
        )
    if contrast is not None and contrast < -FLIPPED_SD:
        yield Finding(
            label=label,
            severity="warning",
            code="other_side",
            message=f"The mirror place of the mask looks more ill, by {-contrast:.1f} SD: is the "
            "mask flipped left to right?",
        )


def lines(findings: Sequence[Finding], sessions: int) -> list[str]:
    """Findings for people: all of them, errors first."""
    errors = [f for f in findings if f.severity == "error"]
    warnings = [f for f in findings if f.severity != "error"]
    head = (
        f"Check of {counted(sessions, 'session')}: {counted(len(errors), 'error')}, "
        f"{counted(len(warnings), 'warning')}."
    )
    said = [f"  {f.label}: {f.severity.upper()} ({f.code}): {f.message}" for f in errors + warnings]
    sided = [f for f in findings if f.code == "other_side"]
    if sessions > 2 and len(sided) > sessions / 2:
        said.append("  Most masks look flipped: check the orientation of the whole dataset.")
    return [head, *said]


def table(findings: Sequence[Finding]) -> str:
    """Findings as TSV."""
    rows = ["label\tseverity\tcode\tmessage"]
    rows += [f"{f.label}\t{f.severity}\t{f.code}\t{f.message}" for f in findings]
    return "\n".join(rows) + "\n"
