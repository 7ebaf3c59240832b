"""Which T1w and FLAIR belong together: ``find_pairs()`` makes a list of Pair out of a layout.

The rule, in each session (a participant without sessions has one):

1. Candidates are the T1w and FLAIR images of ``anat`` folders. Images with ``part-`` other than
   ``mag``, with ``inv-``, ``mt-on``, ``mod-``, or with entities of derivatives (``space-``,
   ``desc-``, ``label-``, ``res-``) are none. Derivatives are never looked at.
2. Images that differ only by ``echo-``, ``ce-``, ``rec-``, ``part-``, ``chunk-``, or by being
   defaced (``defaced`` in ``acq-`` or ``rec-``), are versions of one image, and one version is
   taken: without ``echo-`` (a combined image) before the first echo; without contrast agent; not
   defaced before defaced; without ``rec-``; then the first by name.
3. Each T1w gives one result. Its FLAIR is, in this order, one of the same run and acquisition, of
   the same run, of the same acquisition, any; among equals the last run, because scans are
   repeated when the first was spoilt. One FLAIR may serve several T1w.
4. A session without T1w gives one result for each FLAIR; one without FLAIR one for each T1w.

What a filter file asks for is kept by rule 1, whatever its entities are.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_stroke.bids import masks, names

if TYPE_CHECKING:
    from bids import BIDSLayout

RULE = (__doc__ or "").partition("\n\n")[2].replace("``", "")
"""The rule as plain text, for ``--dry-run``."""

_DERIVED = ("space", "desc", "label", "resolution")
_VERSION = ("echo", "ceagent", "reconstruction", "part", "chunk")

Entities = Mapping[str, str]
Filters = Mapping[str, Mapping[str, Any]]


def workflow_name(label: str) -> str:
    """Name of the sub-workflow of a pair: its label, in the letters that nipype allows."""
    return label.replace("-", "_").replace("+", "__") + "_wf"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A T1w and a FLAIR that belong together, or one of them alone.

    ``entities`` are those of the source (the T1w, or the FLAIR where there is no T1w) under their
    pybids names, without suffix, extension and datatype. ``brain_masks`` maps ``"T1w"`` or
    ``"FLAIR"`` to a precomputed mask on that image's grid.
    """

    subject: str
    session: str | None = None
    t1w: Path | None = None
    flair: Path | None = None
    entities: Mapping[str, str | int]
    reason: str = ""
    brain_masks: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.t1w is None and self.flair is None:
            raise ValueError("A Pair needs a T1w or a FLAIR.")

    @property
    def images(self) -> dict[str, Path]:
        """Images by modality, T1w first."""
        both = {"T1w": self.t1w, "FLAIR": self.flair}
        return {modality: path for modality, path in both.items() if path is not None}

    @property
    def modalities(self) -> tuple[str, ...]:
        """``("T1w", "FLAIR")`` or one of them."""
        return tuple(self.images)

    @property
    def source(self) -> Path:
        """The image that gives the outputs their names: the T1w, or the FLAIR without one."""
        return next(iter(self.images.values()))

    @property
    def label(self) -> str:
        """First part of the names of all outputs: ``sub-01_ses-01_run-1``."""
        return names.label(names.source_entities(self.entities))

    @property
    def workflow_name(self) -> str:
        """Name of the pair's sub-workflow: its label, in the letters that nipype allows."""
        return workflow_name(self.label)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Pairs to process, and the images that are left out, each with the reason."""

    pairs: tuple[Pair, ...]
    unused: Mapping[Path, str]


@dataclass(frozen=True)
class _Image:
    path: Path
    entities: Entities

    @property
    def session(self) -> tuple[str, str | None]:
        return self.entities["subject"], self.entities.get("session")

    @property
    def defaced(self) -> bool:
        return any(
            "defaced" in self.get(name).lower() for name in ("acquisition", "reconstruction")
        )

    @property
    def acquisition(self) -> str:
        """Value of ``acq-`` without a remark on defacing."""
        value = self.get("acquisition")
        start = value.lower().find("defaced")
        return value if start < 0 else value[:start] + value[start + len("defaced") :]

    @property
    def run(self) -> int:
        return self.number("run")

    def number(self, entity: str) -> int:
        """Value of an entity as a number, 0 where it is absent or no number."""
        value = self.get(entity)
        return int(value) if value.isdecimal() else 0

    def get(self, entity: str) -> str:
        return self.entities.get(entity, "")


def find_pairs(
    layout: "BIDSLayout",
    *,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    filters: Filters | None = None,
    derivatives: Mapping[str, Path] | None = None,
) -> list[Pair]:
    """Pairs of a layout by the rule of this module, sorted by label.

    Empty ``participants`` or ``sessions`` mean all. ``filters`` holds for ``t1w``, ``flair`` and
    ``mask`` the entities that a file must have; ``derivatives`` are folders by name, in which
    precomputed brain masks are looked for.
    """
    chosen = select(
        layout,
        participants=participants,
        sessions=sessions,
        filters=filters,
        derivatives=derivatives,
    )
    return list(chosen.pairs)


def select(
    layout: "BIDSLayout",
    *,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    filters: Filters | None = None,
    derivatives: Mapping[str, Path] | None = None,
) -> Selection:
    """Like ``find_pairs()``, with the images that are left out."""
    filters = filters or {}
    unused: dict[Path, str] = {}
    found = list(_images(layout, participants, sessions))
    t1ws = _by_session(_candidates(found, "T1w", filters.get("t1w", {}), unused), unused)
    flairs = _by_session(_candidates(found, "FLAIR", filters.get("flair", {}), unused), unused)
    sessions_pairs = [
        pair
        for session in sorted({*t1ws, *flairs}, key=lambda key: (key[0], key[1] or ""))
        for pair in _session_pairs(t1ws.get(session, []), flairs.get(session, []), unused)
    ]
    pairs = _one_of_each_label(sessions_pairs, unused)
    roots = list((derivatives or {}).values())
    with_masks = _with_masks(pairs, roots, filters.get("mask", {}))
    return Selection(pairs=tuple(sorted(with_masks, key=lambda p: p.label)), unused=unused)


def _one_of_each_label(pairs: Iterable[Pair], unused: dict[Path, str]) -> list[Pair]:
    """Drop pairs whose outputs would have the names of another's."""
    first: dict[str, Pair] = {}
    for pair in pairs:
        kept = first.setdefault(pair.label, pair)
        if kept is not pair:
            unused[pair.source] = f"outputs would have the names of those of {kept.source.name}"
    return list(first.values())


def _images(
    layout: "BIDSLayout", participants: Sequence[str], sessions: Sequence[str]
) -> Iterator[_Image]:
    """All images of the layout that belong to the participants and sessions, by path."""
    for path in sorted(layout.get_files()):
        entities = names.parse(path)
        if not entities["extension"].startswith(".nii") or "subject" not in entities:
            continue
        if participants and entities["subject"] not in participants:
            continue
        if sessions and entities.get("session") not in sessions:
            continue
        yield _Image(Path(path), entities)


def _candidates(
    images: Iterable[_Image], modality: str, wanted: Mapping[str, Any], unused: dict[Path, str]
) -> Iterator[_Image]:
    """Images of a modality that pass the filter and rule 1."""
    asked = {"suffix": modality, **wanted}
    for image in images:
        if not masks.matches(image.entities, asked):
            if image.entities.get("suffix") == modality:
                unused[image.path] = "does not pass the filter file"
        elif reason := _exclusion(image, set(wanted)):
            unused[image.path] = reason
        else:
            yield image


def _exclusion(image: _Image, asked: set[str]) -> str:
    """Why rule 1 leaves an image out; empty when it does not. Entities in ``asked`` are allowed."""
    left_out = dict.fromkeys(("inv", "modality", *_DERIVED), "")
    left_out |= {"part": "mag", "mt": "off"}
    for name, allowed in left_out.items():
        value = image.get(name)
        if value and value != allowed and name not in asked:
            return f"has {names.spec()['entities'][name]}-{value}"
    return ""


def _by_session(
    images: Iterable[_Image], unused: dict[Path, str]
) -> dict[tuple[str, str | None], list[_Image]]:
    """One version of each image (rule 2), by participant and session, in the order of runs."""
    versions: dict[tuple, list[_Image]] = defaultdict(list)
    for image in images:
        versions[_identity(image)].append(image)
    sessions: dict[tuple[str, str | None], list[_Image]] = defaultdict(list)
    for group in versions.values():
        best, *others = sorted(group, key=_version_rank)
        sessions[best.session].append(best)
        unused |= {one.path: f"is another version of {best.path.name}" for one in others}
    return {session: sorted(group, key=_order) for session, group in sessions.items()}


def _identity(image: _Image) -> tuple:
    """What versions of one image have in common: everything but the entities of rule 2."""
    ignored = {*_VERSION, "acquisition", "extension", "datatype"}
    rest = tuple(sorted((k, v) for k, v in image.entities.items() if k not in ignored))
    return rest, image.acquisition


def _version_rank(image: _Image) -> tuple:
    return (
        image.number("echo"),
        image.get("ceagent"),
        image.defaced,
        image.number("chunk"),
        image.get("reconstruction"),
        image.path.name,
    )


def _order(image: _Image) -> tuple:
    return image.run, image.acquisition, image.path.name


def _session_pairs(
    t1ws: list[_Image], flairs: list[_Image], unused: dict[Path, str]
) -> Iterator[Pair]:
    """Rules 3 and 4."""
    if not t1ws:
        yield from (_pair(None, flair, "the session has no T1w") for flair in flairs)
        return
    partners = [_partner(t1w, flairs) for t1w in t1ws]
    taken = {flair.path for flair, _ in partners if flair}
    unused |= {f.path: "no T1w goes with it best" for f in flairs if f.path not in taken}
    for t1w, (flair, reason) in zip(t1ws, partners, strict=True):
        yield _pair(t1w, flair, reason)


def _partner(t1w: _Image, flairs: list[_Image]) -> tuple[_Image | None, str]:
    """The FLAIR for a T1w, and why it is that one."""
    if not flairs:
        return None, "the session has no FLAIR"
    if len(flairs) == 1:
        return flairs[0], "it is the only FLAIR of the session"
    same_run = [f for f in flairs if f.run == t1w.run]
    same_acquisition = [f for f in flairs if f.acquisition == t1w.acquisition]
    both = [f for f in same_run if f in same_acquisition]
    for what, fitting in (
        ("run and acquisition", both),
        ("run", same_run),
        ("acquisition", same_acquisition),
    ):
        if fitting and len(fitting) < len(flairs):
            last = " and is the last such" if len(fitting) > 1 else ""
            return _last(fitting), f"the FLAIR has the same {what}{last}"
    return _last(flairs), "the FLAIR is the last of the session"


def _last(images: list[_Image]) -> _Image:
    """Highest run; among equal runs the first by name."""
    highest = max(image.run for image in images)
    return next(image for image in images if image.run == highest)


def _pair(t1w: _Image | None, flair: _Image | None, reason: str) -> Pair:
    source = t1w or flair
    assert source is not None  # nosec B101 # narrows the type
    entities = names.source_entities(source.entities)
    return Pair(
        subject=entities["subject"],
        session=entities.get("session"),
        t1w=t1w.path if t1w else None,
        flair=flair.path if flair else None,
        entities=entities,
        reason=_sentence(t1w, flair, reason),
    )


def _sentence(t1w: _Image | None, flair: _Image | None, reason: str) -> str:
    if t1w and flair:
        return f"{t1w.path.name} with {flair.path.name}: {reason}."
    alone = t1w or flair
    return f"{alone.path.name if alone else ''} alone: {reason}."


def _with_masks(
    pairs: Sequence[Pair], roots: Sequence[Path], wanted: Mapping[str, Any]
) -> Iterator[Pair]:
    """Pairs with the brain masks that the folders of derivatives have for them."""
    in_session = Counter((pair.subject, pair.session) for pair in pairs)
    for pair in pairs:
        alone = in_session[pair.subject, pair.session] == 1
        found = {
            modality: mask
            for modality in pair.images
            if (
                mask := masks.find_brain_mask(
                    roots,
                    pair.entities,
                    modality,
                    native=modality == pair.modalities[0],
                    wanted=wanted,
                    exact=not alone,
                )
            )
        }
        yield replace(pair, brain_masks=found)
