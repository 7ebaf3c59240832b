"""Participants for whom nothing is left to do, known without a look at any step of theirs.

A record for each lies in the folder of intermediate results, whose name tells the state of the
program: what was asked for and from which files, and the files that came of it, by size and time.
Where any of that differs nipype looks, as ever, which steps are to be done again.
"""

import csv
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bids_stroke.bids.names import model_page
from bids_stroke.bids.pairs import Pair
from bids_stroke.cli.plan import Plan
from bids_stroke.config import Config, Execution, to_table
from bids_stroke.core.files import UNREADABLE, read_json, write_text
from bids_stroke.models.descriptor import brain_weights

FOLDER = "finished"
CHANGES = "group_longitudinal.tsv"
"""Made by the group level; a participant's page shows the rows that are its own."""


def any_recorded(steps: Path) -> bool:
    """Is there a record of any participant?"""
    return any((steps / FOLDER).glob("*.json"))


def participants(config: Config, plan: Plan, steps: Path) -> set[str]:
    """Participants (with ``sub-``) who are as their records say."""
    if not any_recorded(steps):
        return set()
    asked, there = requests(config, plan), _Results(config, plan)
    return {one for one in plan.participants if _read(steps, one) == [asked[one], there.of(one)]}


def requests(config: Config, plan: Plan) -> dict[str, str]:
    """Digest of what is asked for each participant, and of the files that it is made from.

    To be taken before a run: what changes later has no part in its results.
    """
    of = _Requests(config, plan).of
    return {participant: of(participant) for participant in plan.participants}


def record(config: Config, plan: Plan, asked: Mapping[str, str], steps: Path) -> None:
    """Keep what was asked for the participants of a plan, who are complete, and what came of it."""
    there = _Results(config, plan)
    for participant in plan.participants:
        path = _path(steps, participant)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps([asked[participant], there.of(participant)]))


def _path(steps: Path, participant: str) -> Path:
    return steps / FOLDER / f"{participant}.json"


def _read(steps: Path, participant: str) -> Any:
    """Record of a participant; None where there is none that can be read."""
    try:
        return read_json(_path(steps, participant))
    except UNREADABLE:
        return None


class _Requests:
    """What is asked for the participants of a plan."""

    def __init__(self, config: Config, plan: Plan) -> None:
        self._bids_dir, self._models = config.dataset.bids_dir, plan.models
        self._pairs = _by_participant(plan)
        self._settings = _settings(config)
        self._changes = _changes(config.dataset.output_dir)
        self._checksums = {id(model): model.checksums() for model, _ in plan.models.values()}

    def of(self, participant: str) -> str:
        """Digest for one of them."""
        return _digest(self._content(participant))

    def _content(self, participant: str) -> Iterator[Any]:
        yield self._settings
        yield self._changes.get(participant, [])
        yield from _states([self._bids_dir / participant])
        for pair in self._pairs[participant]:
            yield pair
            yield from _states([*pair.images.values(), *pair.brain_masks.values()])
            if pair.label in self._models:
                model, reason = self._models[pair.label]
                yield model, self._checksums[id(model)], reason


class _Results:
    """What lies in the output folder for the participants of a plan."""

    def __init__(self, config: Config, plan: Plan) -> None:
        self._output_dir, self._models = config.dataset.output_dir, plan.models
        self._pairs = _by_participant(plan)

    def of(self, participant: str) -> str:
        """Digest for one of them."""
        return _digest(self._content(participant))

    def _content(self, participant: str) -> Iterator[Any]:
        folder = self._output_dir
        yield from _states([folder / participant, folder / f"{participant}.html"])
        chosen = (self._models.get(pair.label) for pair in self._pairs[participant])
        for page in sorted({model_page(one[0].name) for one in chosen if one}):
            yield page, (folder / page).is_file()


def _by_participant(plan: Plan) -> Mapping[str, list[Pair]]:
    pairs: dict[str, list[Pair]] = defaultdict(list)
    for pair in plan.selection.pairs:
        pairs[f"sub-{pair.subject}"].append(pair)
    return pairs


def _settings(config: Config) -> list[Any]:
    """What a run is asked for that changes results, and the state of the files that it names."""
    dataset, processing = config.dataset, config.processing
    asked = Config(
        dataset=replace(
            dataset,
            participants=(),
            sessions=(),
            filters={},
            database_dir=None,
            skip_validation=False,
        ),
        model=config.model,
        processing=processing,
        execution=Execution(
            device=config.execution.device, report_images=config.execution.report_images
        ),
    )
    weights = processing.hdbet_weights or brain_weights(config.model.models_dir)
    named = [*processing.atlases.values(), *([weights] if weights else [])]
    return [to_table(asked), *_states(named)]


def _changes(output_dir: Path) -> Mapping[str, list[list[str]]]:
    """Rows of the group level's table of changes, by participant."""
    rows: dict[str, list[list[str]]] = defaultdict(list)
    path = output_dir / CHANGES
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.reader(stream, delimiter="\t"):
                rows[row[0]].append(row)
    return rows


def _states(paths: Iterable[Path]) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of change of files, and of all files in folders."""
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file():
                found = file.stat()
                yield str(file), found.st_size, found.st_mtime_ns


def _digest(content: Iterable[Any]) -> str:
    return hashlib.sha256("\n".join(map(repr, content)).encode()).hexdigest()
