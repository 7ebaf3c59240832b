"""What ``--dry-run`` prints: each result, the files and the model that it comes from, and why."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bids_stroke.bids.pairs import RULE, Pair, Selection
from bids_stroke.config import Config
from bids_stroke.core.words import counted

if TYPE_CHECKING:
    from bids_stroke.models.descriptor import Descriptor


def plan_text(
    config: Config,
    selection: Selection,
    models: Mapping[str, "tuple[Descriptor, str]"],
    refused: Mapping[str, str],
) -> str:
    """The plan of a run at participant level.

    ``models`` gives for the label of a pair its model and the reason, ``refused`` why a pair
    can't be processed.
    """
    return "\n".join(_lines(config, selection, models, refused)) + "\n"


def _lines(
    config: Config,
    selection: Selection,
    models: Mapping[str, "tuple[Descriptor, str]"],
    refused: Mapping[str, str],
) -> Iterator[str]:
    participants = {pair.subject for pair in selection.pairs}
    results = counted(len(selection.pairs), "result")
    yield f"{results} for {counted(len(participants), 'participant')} would be made."
    yield f"Input:  {config.dataset.bids_dir}"
    yield f"Output: {config.dataset.output_dir}"
    yield f"Work:   {config.execution.work_dir}"
    for pair in selection.pairs:
        yield ""
        yield from _pair_lines(pair, models, refused)
    if selection.unused:
        yield ""
        yield "Images that are left out:"
        yield from (f"  {path.name}: {why}" for path, why in sorted(selection.unused.items()))
    yield ""
    yield from RULE.strip().splitlines()


def _pair_lines(
    pair: Pair, models: Mapping[str, "tuple[Descriptor, str]"], refused: Mapping[str, str]
) -> Iterator[str]:
    yield pair.label
    for modality, path in pair.images.items():
        yield f"  {modality + ':':<7}{path}"
    yield f"  why:   {pair.reason}"
    for modality, path in pair.brain_masks.items():
        yield f"  brain mask of the {modality}: {path}"
    if pair.label in models:
        model, reason = models[pair.label]
        yield f"  model: {model.name} {model.version} ({reason})"
    if pair.label in refused:
        yield f"  can't be processed: {refused[pair.label]}"
