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
    now = _Now(config, plan)
    return {one for one in plan.participants if _read(steps, one) == now.of(one)}


def record(config: Config, plan: Plan, steps: Path) -> None:
    """Keep the state of all participants of a plan, who are complete."""
    now = _Now(config, plan)
    for participant in plan.participants:
        path = _path(steps, participant)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(now.of(participant)))


def _path(steps: Path, participant: str) -> Path:
    return steps / FOLDER / f"{participant}.json"


def _read(steps: Path, participant: str) -> Any:
    """Record of a participant; None where there is none that can be read."""
    try:
        return read_json(_path(steps, participant))
    except UNREADABLE:
        return None


class _Now:
    """The state of the participants of a plan as it is now."""

    def __init__(self, config: Config, plan: Plan) -> None:
        self._config, self._plan = config, plan
        self._pairs: dict[str, list[Any]] = defaultdict(list)
        for pair in plan.selection.pairs:
            self._pairs[f"sub-{pair.subject}"].append(pair)
        self._settings = _settings(config)
        self._changes = _changes(config.dataset.output_dir)
        self._models = {id(model): _model(model) for model, _ in plan.models.values()}

    def of(self, participant: str) -> dict[str, str]:
        """Digests of what is asked for a participant and of what there is."""
        return {
            "request": _digest(self._request(participant)),
            "results": _digest(self._results(participant)),
        }

    def _request(self, participant: str) -> Iterator[Any]:
        yield self._settings
        yield self._changes.get(participant, [])
        yield from _states([self._config.dataset.bids_dir / participant])
        for pair in self._pairs[participant]:
            yield pair
            yield from _states([*pair.images.values(), *pair.brain_masks.values()])
            if pair.label in self._plan.models:
                model, reason = self._plan.models[pair.label]
                yield self._models[id(model)], reason

    def _results(self, participant: str) -> Iterator[Any]:
        output_dir = self._config.dataset.output_dir
        yield from _states([output_dir / participant, output_dir / f"{participant}.html"])
        chosen = (self._plan.models.get(pair.label) for pair in self._pairs[participant])
        for page in sorted({model_page(one[0].name) for one in chosen if one}):
            yield page, (output_dir / page).is_file()


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


def _model(model: Any) -> tuple[Any, Mapping[str, str]]:
    return model, model.checksums()


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
