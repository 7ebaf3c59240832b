"""What flags take: text to values, checked."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from bids_stroke import config
from bids_stroke.errors import InputMissing, UnknownLevel, UsageError

FILTER_ENTITIES = {
    "acq": "acquisition",
    "ce": "ceagent",
    "rec": "reconstruction",
    "mod": "modality",
    "ses": "session",
    "dir": "direction",
    "res": "resolution",
}
KNOWN_ENTITIES = frozenset(
    {"session", "acquisition", "ceagent", "reconstruction", "direction", "run", "modality", "echo"}
    | {"flip", "inv", "mt", "part", "chunk", "processing", "space", "resolution", "label", "desc"}
    | {"suffix", "extension"}
)


class NamedPaths(argparse.Action):
    """Collect NAME=PATH values of a repeatable flag into a dictionary."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        collected = dict(getattr(namespace, self.dest, {}))
        for value in values:
            name, equals, path = value.partition("=")
            if not equals or not path or not re.fullmatch(r"[a-zA-Z0-9_.-]+", name):
                parser.error(f"argument {option_string}: '{value}' is not NAME=PATH")
            if name in (*collected, "raw", config.THIS_RUN):
                parser.error(f"argument {option_string}: the name '{name}' is taken already")
            collected[name] = Path(path)
        setattr(namespace, self.dest, collected)


def level(text: str) -> str:
    """An analysis level; raises UnknownLevel."""
    if text not in config.LEVELS:
        levels = ", ".join(config.LEVELS)
        raise UnknownLevel(f"There is no analysis level '{text}': there are {levels}.")
    return text


def label(prefix: str) -> Any:
    """Converter of labels, with or without their prefix (``sub-``, ``ses-``)."""

    def convert(text: str) -> str:
        label = text.removeprefix(prefix)
        if not re.fullmatch(r"[a-zA-Z0-9+]+", label):
            raise argparse.ArgumentTypeError(f"'{text}' is no label: letters and digits only")
        return label

    return convert


def model_name(text: str) -> str:
    """A name for a model: of a folder and a file."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) or text.endswith(".toml"):
        raise argparse.ArgumentTypeError(f"'{text}' is no name: letters, digits, dots, - and _")
    return text


def fold(text: str) -> int | str:
    """A number, or 'all'."""
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor 'all'")
    return text if text == "all" else int(text)


def device(text: str) -> str:
    """Where networks run."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is none of auto, cpu, cuda, cuda:N, mps")
    return text


def whole(lowest: int) -> Any:
    """Converter of whole numbers from ``lowest`` on."""

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {lowest}")
        return int(text)

    return convert


def number(low: float, high: float = float("inf"), *, exclusive: bool = False) -> Any:
    """Converter of numbers in a range, whose ends are left out where it is ``exclusive``."""

    def convert(text: str) -> float:
        value = float(text)
        if not (low < value < high if exclusive else low <= value < high):
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")
        return value

    return convert


def filters(text: str) -> dict[str, dict[str, Any]]:
    """Content of a filter file, with long entity names and without null (TOML has none)."""
    path = Path(text)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputMissing(f"The filter file {path} can't be read: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The filter file {path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"The filter file {path} must hold an object with t1w, flair or mask.")
    return {key: _filter(key, entities, path) for key, entities in content.items()}


def _filter(key: str, entities: Any, path: Path) -> dict[str, Any]:
    if key not in config.FILTER_KEYS:
        raise UsageError(f"Key '{key}' of {path} is unknown: use {', '.join(config.FILTER_KEYS)}.")
    if not isinstance(entities, dict):
        raise UsageError(f"'{key}' in {path} must be an object of entities and their values.")
    named = {FILTER_ENTITIES.get(str(k), str(k)): value for k, value in entities.items()}
    if unknown := sorted(set(named) - KNOWN_ENTITIES):
        raise UsageError(f"Entity '{unknown[0]}' of '{key}' in {path} is unknown to BIDS.")
    return {name: _filter_value(value, path) for name, value in named.items()}


def _filter_value(value: Any, path: Path) -> Any:
    if isinstance(value, list):
        return [_filter_value(item, path) for item in value]
    if value is None or value == "Query.NONE":
        return ""
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise UsageError(f"A value in {path} must be text, a number, null or a list of these.")
    return "*" if value == "Query.ANY" else str(value)
