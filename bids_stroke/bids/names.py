"""Names of files: BIDS names taken apart, and the names of our outputs (``data/io_spec.json``).

Entities are called as pybids calls them (``acquisition``), files spell them short (``acq-``).
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from bids_stroke import data
from bids_stroke.core.files import read_json

SOURCE_DATASET = "raw"
"""Name of the input dataset in ``DatasetLinks`` and in BIDS URIs (``bids:raw:sub-01/...``)."""

_PYTHON_NAMES = {"from_": "from", "seg": "segmentation"}


@cache
def spec() -> dict[str, Any]:
    """Content of ``io_spec.json``: entities in the order of names, kinds, descriptions."""
    return read_json(data.path("io_spec.json"))


def kind_spec(kind: str) -> Mapping[str, Any]:
    """Specification of one kind of output; raises ValueError where there is none."""
    try:
        return spec()["kinds"][kind]
    except KeyError:
        raise ValueError(f"There is no kind of output '{kind}' in io_spec.json.") from None


def description(kind: str) -> str:
    """Sentence for the ``Description`` of a sidecar."""
    return kind_spec(kind)["description"]


def label(entities: Mapping[str, Any]) -> str:
    """Name of entities without a suffix, in the order of BIDS: ``sub-01_ses-01_run-1``."""
    return "_".join(
        f"{short}-{entities[name]}"
        for name, short in spec()["entities"].items()
        if entities.get(name) is not None
    )


def source_entities(entities: Mapping[str, Any]) -> dict[str, str]:
    """Those entities of a source file that the names of its outputs keep."""
    return {name: str(entities[name]) for name in spec()["source_entities"] if name in entities}


def model_page(model: str) -> str:
    """Name of the page about a model: ``model-embedded.html``."""
    return f"model-{re.sub(r'[^A-Za-z0-9._-]', '-', model)}.html"


def parse(path: Path | PurePosixPath | str) -> dict[str, str]:
    """Entities, suffix and extension of a file name; values stay text (``run-01`` is ``"01"``).

    A key that BIDS does not have keeps its name. The datatype is no part of it.
    """
    name = PurePosixPath(path).name
    stem, dot, extension = name.partition(".")
    long_names = {short: long for long, short in spec()["entities"].items()}
    parts = stem.split("_")
    found = {}
    for part in parts:
        key, dash, value = part.partition("-")
        if dash:
            found[long_names.get(key, key)] = value
    suffix = {} if "-" in parts[-1] else {"suffix": parts[-1]}
    return {**found, **suffix, "extension": dot + extension}


def output_path(entities: Mapping[str, Any], kind: str, **extra: str) -> PurePosixPath:
    """Path of an output relative to the output folder.

    ``entities`` are those of the pair. ``extra`` adds entities (``space``, ``from_``, ``to``,
    ``desc``) and, where a kind has several, ``suffix`` and ``extension``. Raises ValueError for
    what the kind does not have, so that nothing is dropped without a word.
    """
    rules = kind_spec(kind)
    added = {_PYTHON_NAMES.get(name, name): value for name, value in extra.items()}
    suffix = _one_of(rules["suffixes"], added.pop("suffix", None), f"suffix of kind '{kind}'")
    extension = _one_of(rules["extensions"], added.pop("extension", None), f"extension of '{kind}'")
    _check_entities(kind, rules, added)
    source = source_entities(entities)
    named = {**source, **rules["entities"], **added}
    if "name" in rules:
        return _folder(source, rules["folder"]) / rules["name"].format(label=label(source))
    return _folder(source, rules["folder"]) / f"{label(named)}_{suffix}{extension}"


def sidecar_path(path: Path) -> Path:
    """JSON file beside a file: the same name up to its first dot."""
    return path.with_name(path.name.partition(".")[0] + ".json")


def _folder(entities: Mapping[str, str], folder: str) -> PurePosixPath:
    """``sub-01/ses-01/anat``; figures of all sessions lie together in ``sub-01/figures``."""
    subject = PurePosixPath(f"sub-{entities['subject']}")
    if folder != "figures" and "session" in entities:
        subject /= f"ses-{entities['session']}"
    return subject / folder


def _one_of(allowed: list[str], value: str | None, what: str) -> str:
    value = allowed[0] if value is None and len(allowed) == 1 else value
    if value not in allowed:
        raise ValueError(f"The {what} must be one of {', '.join(allowed)}, not {value!r}.")
    return value


def _check_entities(kind: str, rules: Mapping[str, Any], added: Mapping[str, str]) -> None:
    required = set(rules.get("required", []))
    if missing := sorted(required - set(added)):
        raise ValueError(f"An output of kind '{kind}' needs the entity '{missing[0]}'.")
    if unknown := sorted(set(added) - required - set(rules.get("optional", []))):
        raise ValueError(f"An output of kind '{kind}' has no entity '{unknown[0]}'.")
    for name, value in added.items():
        if not re.fullmatch(r"[a-zA-Z0-9+]+", value):
            raise ValueError(f"'{value}' can't be the value of the entity '{name}'.")
