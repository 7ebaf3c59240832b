"""What a training will do: its recipe and start, its sessions, and what it must look up."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_stroke.config import Config
from bids_stroke.errors import InputMissing, NothingSelected, UnusableData, UsageError
from bids_stroke.models.channels import modalities_of

if TYPE_CHECKING:
    from bids_stroke.bids.pairs import Pair
    from bids_stroke.bids.training_checks import Reference
    from bids_stroke.models.descriptor import Descriptor, Preprocessing
    from bids_stroke.models.recipe import Recipe

Columns = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Plan:
    """What a training will do: recipe, start, sessions with their references, and the rest.

    With ``locate`` the references have to be found in the template.
    """

    recipe: "Recipe"
    pretrained: "Descriptor | None"
    references: "Sequence[Reference]"
    left_out: Mapping[str, str]
    columns: Columns
    locate: bool = False

    @property
    def participants(self) -> list[str]:
        """All participants, with ``sub-``, sorted."""
        return sorted({f"sub-{one.pair.subject}" for one in self.references})


def make_plan(config: Config) -> Plan:
    """Recipe, model to start from, and sessions that have all channels and a reference mask."""
    from bids_stroke.bids.masks import find_reference_masks
    from bids_stroke.bids.training_checks import choose_reference
    from bids_stroke.cli import run

    recipe, pretrained = choose_recipe(config)
    selection = run.select_pairs(config)
    roots = run.find_reference_roots(config)
    references, left_out = [], _not_passed(config, selection.pairs)
    for pair in selection.pairs:
        if pair.label in left_out:
            continue
        if missing := [m for m in modalities_of(recipe.channels) if m not in pair.modalities]:
            left_out[pair.label] = f"it has no {' and no '.join(missing)}"
            continue
        masks = find_reference_masks(roots, pair)
        chosen = choose_reference(pair, masks, recipe.preprocessing.reference)
        if chosen is None:
            left_out[pair.label] = "it has no reference mask"
        else:
            references.append(chosen)
    if not references:
        reasons = ", ".join(sorted(set(left_out.values()))) or "there are no images"
        raise NothingSelected(f"{config.dataset.bids_dir} has no session to train on: {reasons}.")
    columns = read_columns(config.dataset.bids_dir)
    plan = Plan(recipe, pretrained, references, left_out, columns)
    return replace(plan, locate=_must_locate(config, plan))


def _must_locate(config: Config, plan: Plan) -> bool:
    """Does a rule of the recipe ask where lesions lie, and participants.tsv does not say it?

    Raises UsageError where it can't be found out, and where another column is missing.
    """
    from bids_stroke.models.atlases import tell_super_regions

    rules = [plan.recipe.of_stage(stage).cases for stage in plan.recipe.stages]
    wanted = {"region": any(rule.drop_regions for rule in rules)}
    wanted |= {"super_region": any(rule.super_regions for rule in rules)}
    wanted |= dict.fromkeys((name for rule in rules for name in rule.where), True)
    known = [plan.columns.get(participant, {}) for participant in plan.participants]
    asked = [name for name, is_asked in wanted.items() if is_asked]
    missing = {name for name in asked if any(name not in row for row in known)}
    if other := sorted(missing - {"region", "super_region"}):
        raise UsageError(
            f"The recipe chooses sessions by '{other[0]}', but participants.tsv has no such column "
            "for all participants: add it."
        )
    if "super_region" in missing and not tell_super_regions(config.processing.atlases):
        raise UsageError(
            "The recipe chooses sessions by 'super_region': add that column to participants.tsv, "
            "install the extra 'atlases', or give --atlas super_region=FILE."
        )
    return bool(missing)


def _not_passed(config: Config, pairs: "Iterable[Pair]") -> dict[str, str]:
    """Sessions that ``--ratings`` keeps from training, by label, with the reason.

    Most raters must have given "pass"; without ratings nothing is left out.
    """
    from bids_stroke.bids import ratings

    if not config.group.ratings:
        return {}
    given = ratings.by_rater(ratings.read(config.group.ratings))
    reasons = {}
    for pair in pairs:
        run = pair.entities.get("run")
        by = given.get((pair.subject, pair.session, None if run is None else str(run)), {})
        level = ratings.consensus(by.values()) if by else None
        if level != "pass":
            reasons[pair.label] = f"its rating is {level}" if level else "nobody rated it"
    return reasons


def choose_recipe(config: Config) -> "tuple[Recipe, Descriptor | None]":
    """Recipe with what the command line changes, and the model that it starts from, if any."""
    from bids_stroke.models import descriptor, recipe
    from bids_stroke.models.planning import check_start

    asked = config.training
    found = recipe.find(asked.recipe)
    start = asked.pretrained or found.pretrained
    if found.pretrained_required and not start:
        raise UsageError(f"The recipe '{found.name}' starts from a model: name it by --pretrained.")
    chosen = found.with_pretrained(bool(start)).shortened(
        epochs=asked.epochs, iterations=asked.iterations
    )
    if chosen.stages[0].start == "previous":
        raise UsageError(f"The first stage of the recipe '{found.name}' has none before it.")
    if not start:
        return chosen, None
    if not any(stage.start == "pretrained" for stage in chosen.stages):
        raise UsageError(f"The recipe '{found.name}' starts from no model: leave --pretrained out.")
    model = descriptor.find(start, config.model.models_dir)
    if not descriptor.is_whole(model):
        raise InputMissing(f"Files of the model '{model.name}' are missing: install it again.")
    check_start(chosen, model)
    return replace(chosen, preprocessing=_preprocessing(model, chosen)), model


def _preprocessing(model: "Descriptor", chosen: "Recipe") -> "Preprocessing":
    """That of the model that a recipe goes on from, on the grid that the recipe names.

    A model of one modality knows no registration, which a recipe of two cannot do without.
    """
    steps, first = model.preprocessing.steps, ("reorient", "brain_extraction")
    if len(modalities_of(chosen.channels)) > 1 and "register" not in steps:
        begin = max((steps.index(step) + 1 for step in first if step in steps), default=0)
        steps = (*steps[:begin], "register", *steps[begin:])
    return replace(model.preprocessing, steps=steps, reference=chosen.preprocessing.reference)


def read_columns(bids_dir: Path) -> dict[str, dict[str, str]]:
    """Rows of participants.tsv by participant; empty without the file.

    Raises UnusableData when it is no table.
    """
    import csv

    path = bids_dir / "participants.tsv"
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnusableData(f"{path} is no table of tabs in UTF-8: {error}.") from error
    return {row["participant_id"]: row for row in rows if row.get("participant_id")}


def groups_of(pairs: "Iterable[Pair]", columns: Columns, group_by: str | None) -> dict[str, str]:
    """What stays together, by label: the participant, or the value of a column.

    Raises UsageError for a column that participants.tsv does not have, or not for everyone.
    """
    groups = {}
    for pair in pairs:
        participant = f"sub-{pair.subject}"
        value = columns.get(participant, {}).get(group_by) if group_by else participant
        if value in (None, "", "n/a"):
            raise UsageError(
                f"participants.tsv has no '{group_by}' for {participant}: correct it or --group-by."
            )
        groups[pair.label] = str(value)
    return groups
