"""What a run will do: pairs, their models, in which parts they are run; as text for a dry run."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from bids_stroke.bids.pairs import RULE, Pair, Selection
from bids_stroke.config import Config
from bids_stroke.core.words import counted
from bids_stroke.errors import BidsStrokeError

if TYPE_CHECKING:
    from bids_stroke.models.descriptor import Descriptor

LEAST_PART = 32
PAIRS_PER_WORKER = 8
"""A part has so many pairs at least: at its end workers wait for each other, for less than half of
what a pair takes."""


@dataclass(frozen=True)
class Plan:
    """What a run will do: pairs that have a model, and pairs that are refused, with the error."""

    selection: Selection
    models: "Mapping[str, tuple[Descriptor, str]]"
    refused: Mapping[str, BidsStrokeError]

    @property
    def pairs(self) -> list[Pair]:
        """Pairs that will be processed."""
        return [pair for pair in self.selection.pairs if pair.label in self.models]

    @property
    def participants(self) -> list[str]:
        """All participants of the plan, with ``sub-``, sorted."""
        return sorted({f"sub-{pair.subject}" for pair in self.selection.pairs})

    def of(self, participants: Container[str]) -> "Plan":
        """The plan for some of its participants (with ``sub-``)."""
        return self._with(
            tuple(p for p in self.selection.pairs if f"sub-{p.subject}" in participants)
        )

    def examples(self) -> "Plan":
        """The plan for one pair of each kind: what they have in common tells of all others."""
        first: dict[Any, Pair] = {}
        for pair in self.pairs:
            model = self.models[pair.label][0].name
            first.setdefault((pair.modalities, tuple(pair.brain_masks), model), pair)
        return self._with(tuple(first.values()))

    def parts(self, workers: int) -> "Iterator[Plan]":
        """The plan in parts that one graph holds, all pairs of a participant in one of them."""
        size = max(LEAST_PART, PAIRS_PER_WORKER * workers)
        taken: list[Pair] = []
        for _, of_one in groupby(sorted(self.selection.pairs, key=_order), attrgetter("subject")):
            taken += of_one
            if len(taken) >= size:
                yield self._with(tuple(taken))
                taken = []
        if taken:
            yield self._with(tuple(taken))

    def _with(self, pairs: tuple[Pair, ...]) -> "Plan":
        return replace(self, selection=replace(self.selection, pairs=pairs))


def _order(pair: Pair) -> tuple[str, str]:
    return pair.subject, pair.label


def plan_text(config: Config, plan: Plan) -> str:
    """The plan of a run at participant level, for ``--dry-run``."""
    return "\n".join(_lines(config, plan)) + "\n"


def _lines(config: Config, plan: Plan) -> Iterator[str]:
    pairs, unused = plan.selection.pairs, plan.selection.unused
    results = counted(len(pairs), "result")
    yield f"{results} for {counted(len(plan.participants), 'participant')} would be made."
    yield f"Input:  {config.dataset.bids_dir}"
    yield f"Output: {config.dataset.output_dir}"
    yield f"Work:   {config.execution.work_dir}"
    for pair in pairs:
        yield ""
        yield from _pair_lines(pair, plan)
    if unused:
        yield ""
        yield "Images that are left out:"
        yield from (f"  {path.name}: {why}" for path, why in sorted(unused.items()))
    yield ""
    yield from RULE.strip().splitlines()


def _pair_lines(pair: Pair, plan: Plan) -> Iterator[str]:
    yield pair.label
    for modality, path in pair.images.items():
        yield f"  {modality + ':':<7}{path}"
    yield f"  why:   {pair.reason}"
    for modality, path in pair.brain_masks.items():
        yield f"  brain mask of the {modality}: {path}"
    if pair.label in plan.models:
        model, reason = plan.models[pair.label]
        yield f"  model: {model.name} {model.version} ({reason})"
    if pair.label in plan.refused:
        yield f"  can't be processed: {plan.refused[pair.label]}"
