"""Masks that others made: brain masks to reuse, and reference masks of lesions to compare with.

Folders of derivatives are searched by file name only, one participant at a time, because half of
the datasets with manual masks name them in ways that BIDS does not know.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from bids_stroke.bids import names
from bids_stroke.core.files import UNREADABLE

if TYPE_CHECKING:
    from bids_stroke.bids.pairs import Pair

_SAME = ("acquisition", "run", "ceagent", "reconstruction", "echo", "chunk")
_LESION_LABELS = {"l", "lesion", "stroke"}
_OURS = {"stroke"}
TEMPLATE, TEMPLATE_SHAPE = "MNI152NLin2009aSym", (197, 233, 189)
TEMPLATE_ORIGIN = (-98.0, -134.0, -72.0)
_PLAIN_SUFFIX = re.compile(r"(?:^|_)(T1w|FLAIR)(?:_|$)")


def matches(entities: Mapping[str, str], wanted: Mapping[str, Any]) -> bool:
    """Do entities have the wanted values? A value is text, a list of texts, ``""`` or ``"*"``.

    ``""`` asks for an absent entity, ``"*"`` for any value. Runs are compared as numbers.
    """
    return all(_value_matches(entities.get(name, ""), value) for name, value in wanted.items())


def _value_matches(value: str, wanted: Any) -> bool:
    if isinstance(wanted, (list, tuple)):
        return any(_value_matches(value, one) for one in wanted)
    if wanted == "*":
        return value != ""
    return _same_label(value, str(wanted))


def _same_label(one: str, other: str) -> bool:
    if one.isdecimal() and other.isdecimal():
        return int(one) == int(other)
    return one == other


def find_brain_mask(
    roots: Sequence[Path],
    entities: Mapping[str, Any],
    modality: str,
    *,
    native: bool,
    wanted: Mapping[str, Any] | None = None,
    exact: bool = False,
) -> Path | None:
    """Brain mask of one image in the first folder that has it, or None.

    A file ``*_mask.nii.gz`` with ``desc-brain`` (or ``label-brain``, or neither ``desc-`` nor
    ``label-``) of the same participant and session. ``space-`` must name the modality; it may be
    absent where ``native`` says that the image gives the outputs their names. Entities of the mask
    must not contradict those of the image; with ``exact`` they must be equal.
    """
    asked = {"suffix": "mask", **(wanted or {})}
    for root in roots:
        found = [
            (len(parsed), path)
            for path, parsed in _files(root, entities)
            if matches(parsed, asked)
            and _is_brain(parsed, asked)
            and _in_space(parsed, modality, native)
            and _agrees(parsed, entities, exact)
        ]
        if found:
            most = max(count for count, _ in found)
            return min(path for count, path in found if count == most)
    return None


def _is_brain(parsed: Mapping[str, str], asked: Mapping[str, Any]) -> bool:
    if {"desc", "label"} & set(asked):
        return True
    described = {parsed[key].lower() for key in ("desc", "label") if key in parsed}
    return described <= {"brain"}


def _in_space(parsed: Mapping[str, str], modality: str, native: bool) -> bool:
    space = parsed.get("space")
    return native if space is None else space in (modality, "orig" if native else modality)


def _agrees(parsed: Mapping[str, str], entities: Mapping[str, Any], exact: bool) -> bool:
    for name in _SAME:
        have, need = parsed.get(name), entities.get(name)
        if have is None and (need is None or not exact):
            continue
        if not _same_label(have or "", str(need or "")):
            return False
    return True


def _files(root: Path, entities: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Images of one participant and session below a folder, with their parsed names, by path."""
    folder = root / f"sub-{entities['subject']}"
    session = entities.get("session")
    for path in sorted(folder.rglob("*.nii*")) if folder.is_dir() else ():
        if path.exists() and not path.is_file():
            continue  # a folder or a pipe; a link to nothing is told of when it is read
        parsed = names.parse(path)
        folders = [part[4:] for part in path.relative_to(root).parts if part.startswith("ses-")]
        of_session = parsed.get("session", folders[0] if folders else None)
        if parsed["extension"] in (".nii", ".nii.gz") and of_session == session:
            yield path, parsed


def reference_roots(
    bids_dir: Path,
    *,
    derivatives: Mapping[str, Path],
    output_dir: Path,
    reference: str | None = None,
) -> list[Path]:
    """Folders in which reference masks are looked for, first the most wanted.

    All folders of ``-d``, the dataset itself and those in its ``derivatives``, but for our own
    output; with ``reference`` only the folder of that name.
    """
    beside = {p.name: p for p in sorted(bids_dir.glob("derivatives/*")) if p.is_dir()}
    named = {**beside, **derivatives}
    if reference is not None:
        return [named[reference]] if reference in named else []
    ordered = [*derivatives.values(), bids_dir, *beside.values(), bids_dir / "derivatives"]
    unique = dict.fromkeys(ordered)
    return [root for root in unique if root.is_dir() and root.resolve() != output_dir.resolve()]


def find_reference_masks(roots: Iterable[Path], pair: "Pair") -> dict[str, Path]:
    """Manual lesion masks of a pair by space (``"T1w"``, ``"FLAIR"`` or a template's name).

    Known names: ``label-L_mask``, ``label-lesion_mask``, ``desc-lesion_mask``, any of them with
    ``space-`` and ``desc-`` (ATLAS: ``label-L_desc-T1lesion_mask``), ``label-lesion_roi`` (as
    fMRIPrep reads it, also with ``_T1w`` before it) and ``_msk`` (ISLES). Without ``space-`` the
    space is the modality in the name, or the image whose grid the mask has, or the template whose
    grid it has, or the pair's source. A mask in a template's space on the very grid of an image is
    that image's (ATLAS: scans that lie in template space already). What this program made
    (``desc-stroke``) is no reference. The first folder wins.
    """
    found: dict[str, Path] = {}
    for root in roots:
        for path, parsed in _files(root, pair.entities):
            if is_reference(parsed) and _agrees(parsed, pair.entities, exact=False):
                found.setdefault(_space_of(path, parsed, pair), path)
    return found


def is_reference(parsed: Mapping[str, str]) -> bool:
    """Is a file with these parsed names a manual lesion mask, and not one of this program?"""
    suffix, desc = parsed.get("suffix", ""), parsed.get("desc", "")
    label = parsed.get("label", "").lower()
    if desc in _OURS:
        return False
    if suffix == "msk":
        return True
    if suffix == "roi":
        return label in _LESION_LABELS
    return suffix == "mask" and (label in _LESION_LABELS or "lesion" in desc.lower())


def _space_of(path: Path, parsed: Mapping[str, str], pair: "Pair") -> str:
    space = parsed.get("space", "")
    if space and not space.startswith("MNI"):
        return space
    named = _PLAIN_SUFFIX.search(path.name.partition(".")[0])
    if named and not space:
        return named.group(1)
    on_grid = (m for m, image in pair.images.items() if _same_header_grid(path, image))
    return next(on_grid, space or _template_of(path) or pair.modalities[0])


def _template_of(path: Path) -> str | None:
    """Template whose grid an image has: the 1 mm grid of ATLAS and of nilearn's template."""
    try:
        shape, affine = _header_grid(path)
    except UNREADABLE:
        return None
    known = shape == TEMPLATE_SHAPE and np.allclose(affine[:3, 3], TEMPLATE_ORIGIN, atol=1e-3)
    return TEMPLATE if known and np.allclose(affine[:3, :3], np.eye(3), atol=1e-3) else None


def _same_header_grid(one: Path, other: Path) -> bool:
    """Do two images have the same shape and affine? False where a header can't be read."""
    try:
        (shape, affine), (other_shape, other_affine) = _header_grid(one), _header_grid(other)
    except UNREADABLE:
        return False
    return shape == other_shape and bool(np.allclose(affine, other_affine, atol=1e-3))


def _header_grid(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    image: Any = nib.load(path)
    return image.shape[:3], image.affine
