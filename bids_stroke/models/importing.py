"""Import of a model that the user has: a folder or zip of nnU-Net v2 or v1 becomes one of ours."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bids_stroke.core.files import read_json
from bids_stroke.errors import InputMissing, UnusableData, UsageError
from bids_stroke.models import archives, descriptor, store, v1
from bids_stroke.models.channels import CHANNELS, MODALITIES, modalities_of
from bids_stroke.models.descriptor import Descriptor, Inference, OperatingPoint, Preprocessing

STEPS = ("reorient", "brain_extraction", "register", "n4")
_UNKNOWN = "Unknown: ask its authors."
_PLAIN_ARGMAX = OperatingPoint(threshold=0.5, min_volume_mm3=0)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user says of a model; what is empty or None is read from its files or assumed."""

    name: str = ""
    known: str = ""
    inside: str = ""
    checkpoint: str = ""
    channels: tuple[str, ...] = ()
    inputs: tuple[tuple[str, ...], ...] = ()
    reference: str = ""
    steps: tuple[str, ...] = ()
    n4_levels: int | None = None
    folds: tuple[str, ...] = ()
    mirror_axes: tuple[int, ...] | None = None
    threshold: float | None = None
    min_volume_mm3: float | None = None
    texts: Mapping[str, str] = field(default_factory=dict)  # title, licence, citation, ...
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model in a folder: its format, its name, and what it calls its channels."""

    folder: Path
    version: int
    name: str
    channels: tuple[str, ...]
    mirror_axes: tuple[int, ...] = ()


def import_model(
    source: Path, models: Path, wishes: Wishes
) -> tuple[Descriptor, tuple[v1.Check, ...]]:
    """Copy or convert a model into the store ``models``; returns it with the checks of v1.

    Raises InputMissing where there is no model, UnusableData for a hostile or damaged one, and
    UsageError for what the files don't tell and no flag says.
    """
    with store.staging(models) as staged, store.named_as(staged / "unpacked", source):
        folder = _opened(source, staged / "unpacked") / wishes.inside
        found = look(folder, wishes.checkpoint)
        draft = _draft(found, wishes)
        store.check_free(draft.name, models, overwrite=wishes.overwrite)
        target = staged / draft.name
        with store.named_as(target, found.folder):
            checks = _brought(found, target, draft, wishes)
            return store.install(draft, staged, models, overwrite=wishes.overwrite), checks


def _brought(found: Found, target: Path, draft: Descriptor, wishes: Wishes) -> tuple[v1.Check, ...]:
    """Copy or convert the found model to a folder; gives the checks of v1."""
    if found.version == 1:
        checkpoint = wishes.checkpoint
        return tuple(v1.convert(found.folder, target, draft.channels, checkpoint=checkpoint))
    store.copy_v2(found.folder, target, draft.inference.checkpoint)
    return ()


def _opened(source: Path, unpacked: Path) -> Path:
    """The folder itself, or a zip unpacked."""
    if source.is_dir():
        return source
    if not source.exists():
        raise InputMissing(f"There is no {source} to import: check the path.")
    archives.extract(source, unpacked)
    return unpacked


# What is in a folder


def look(folder: Path, checkpoint: str = "") -> Found:
    """The one model in a folder, of v2 or of v1; raises where there is none, or are several."""
    if not folder.is_dir():
        raise InputMissing(f"There is no folder {folder}: check --inside.")
    places = [p for p in (folder, *sorted(folder.rglob("*"))) if p.is_dir()]
    second = [p for p in places if store.is_v2(p)]
    first = _without_folds([p for p in places if any(p.glob("*.model"))])
    if len(second) + len(first) != 1:
        names = ", ".join(p.relative_to(folder).as_posix() for p in (*second, *first))
        raise UnusableData(
            f"{folder} holds {len(second) + len(first)} models of nnU-Net"
            f"{f': name one by --inside ({names})' if names else ': check the path'}."
        )
    return _look_v2(second[0]) if second else _look_v1(first[0], checkpoint)


def _without_folds(places: Sequence[Path]) -> list[Path]:
    """Folders of v1 checkpoints; several folds of one model are the model's folder."""
    parents = {p.parent for p in places if p.name.startswith("fold_") or p.name == "all"}
    one_fold = {p.parent: p for p in places if p.parent in parents}
    several = [q for q in parents if sum(p.parent == q for p in places) > 1]
    alone = [p for q, p in one_fold.items() if q not in several]
    return [*several, *alone, *(p for p in places if p.parent not in parents)]


def _look_v2(folder: Path) -> Found:
    try:
        dataset, plans = read_json(folder / "dataset.json"), read_json(folder / "plans.json")
        names = dataset.get("channel_names") or dataset["modality"]
        channels = tuple(str(names[str(i)]) for i in range(len(names)))
        name = str(plans["dataset_name"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableData(
            f"{folder} is no model folder of nnU-Net v2 that can be read ({error!r})."
        ) from error
    return Found(folder=folder, version=2, name=name, channels=channels)


def _look_v1(folder: Path, checkpoint: str) -> Found:
    checkpoints = v1.find_checkpoints(folder, checkpoint)
    if not checkpoints:
        raise InputMissing(f"There is no checkpoint {checkpoint} in {folder}: check --checkpoint.")
    try:
        channels = v1.modalities(v1.read_plans(next(iter(checkpoints.values()))))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnusableData(f"The plans in {folder} are not complete ({error!r}).") from error
    return Found(folder=folder, version=1, name=_task(folder), channels=channels)


def _task(folder: Path) -> str:
    """Name of the task in the path of a v1 folder, else the folder's own name."""
    return next((p for p in reversed(folder.parts) if p.startswith("Task")), folder.name)


def modality(name: str) -> str:
    """Our name of a channel that a dataset calls ``name``, or nothing: T1w, FLAIR, T1w-mirrored."""
    if name in CHANNELS:
        return name
    word = re.sub(r"[^a-z0-9]", "", name.lower())
    if "flair" in word:
        return "FLAIR"
    contrast = re.search(r"t1(?!\d)", word)
    enhanced = re.search(r"t1(c|gd|ce|km)", word)
    return "T1w" if contrast and not enhanced else ""


# Its descriptor


def _draft(found: Found, wishes: Wishes) -> Descriptor:
    """The descriptor of a found model: of a known one, or of what its files and the user say."""
    read = tuple(modality(name) for name in found.channels)
    if wishes.known:
        return _of_known(found, wishes, read)
    channels = wishes.channels or read
    if not all(channels) or len(set(channels)) < len(channels):
        raise UsageError(
            f"The channels of {found.folder} are called {', '.join(found.channels)}: say which is "
            f"which by --channels, in this order, as in --channels {','.join(MODALITIES)}."
        )
    if len(modalities_of(channels)) > 1 and not wishes.reference:
        raise UsageError(
            "Say by --reference on which image's grid the network was trained: "
            f"{' or '.join(modalities_of(channels))}."
        )
    inference = Inference(
        folds=wishes.folds,
        mirror_axes=wishes.mirror_axes or (),
        resample="probabilities" if found.version == 1 else "logits",
        checkpoint=_checkpoint(found, wishes),
    )
    return _with_texts(
        Descriptor(
            name=wishes.name or _plain(found.name),
            version="imported",
            title=found.name,
            description=_description(found, wishes),
            intended_use="Research only.",
            training_data=_UNKNOWN,
            licence=_UNKNOWN,
            citation=_UNKNOWN,
            format="nnunetv2",
            folder="",
            channels=channels,
            inputs=wishes.inputs or (modalities_of(channels),),
            preprocessing=_preprocessing(wishes, channels),
            inference=inference,
            operating_point=_operating_point(
                wishes, OperatingPoint(threshold=0.5, min_volume_mm3=0)
            ),
        ),
        wishes,
    )


def _preprocessing(wishes: Wishes, channels: Sequence[str]) -> Preprocessing:
    reference = wishes.reference or modalities_of(channels)[0]
    asked = Preprocessing(steps=wishes.steps or STEPS, reference=reference)
    return asked if wishes.n4_levels is None else replace(asked, n4_levels=wishes.n4_levels)


def _of_known(found: Found, wishes: Wishes, read: Sequence[str]) -> Descriptor:
    """The known model that the user says this is, where the files don't say otherwise."""
    models = {m.name: m for m in descriptor.known()}
    if wishes.known not in models:
        raise UsageError(f"'{wishes.known}' is not known: --as takes one of {', '.join(models)}.")
    model = models[wishes.known]
    if all(read) and model.purpose == "lesions" and tuple(read) != model.channels:
        raise UnusableData(
            f"{found.folder} has the channels {', '.join(read)}, but '{model.name}' has "
            f"{', '.join(model.channels)}: it is another model."
        )
    return replace(
        model,
        name=wishes.name or model.name,
        inference=replace(model.inference, folds=wishes.folds or model.inference.folds),
        operating_point=_operating_point(wishes, model.operating_point),
        source=replace(model.source, note="Imported by hand."),
    )


def _checkpoint(found: Found, wishes: Wishes) -> str:
    """Name of the checkpoints in the store: converted ones have that of v2."""
    default = Inference().checkpoint
    return default if found.version == 1 else wishes.checkpoint or default


def _operating_point(wishes: Wishes, default: OperatingPoint) -> OperatingPoint:
    given: dict[str, Any] = {
        "threshold": wishes.threshold,
        "min_volume_mm3": wishes.min_volume_mm3,
    }
    return replace(default, **{k: v for k, v in given.items() if v is not None})


def _with_texts(model: Descriptor, wishes: Wishes) -> Descriptor:
    return replace(model, **{k: v for k, v in wishes.texts.items() if v})  # type: ignore[arg-type]


def _description(found: Found, wishes: Wishes) -> str:
    converted = "converted from nnU-Net v1" if found.version == 1 else "of nnU-Net v2"
    assumed = [] if wishes.steps else [f"the preprocessing ({', '.join(STEPS)})"]
    assumed += [] if wishes.threshold else ["the threshold of 0.5"]
    note = f" Assumed, not stated by its files: {' and '.join(assumed)}." if assumed else ""
    return f"Imported, {converted}.{note}"


def _plain(name: str) -> str:
    """A name as a plain lower-case word."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "imported"
