"""Splits of a cross-validation: whole groups (participants, centres), balanced by lesion volume."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bids_stroke.core.words import counted
from bids_stroke.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Item:
    """One case: its name, its participant, the group that must stay together, lesion volume in mL.

    A participant belongs to one group.
    """

    case: str
    participant: str
    group: str
    volume_ml: float


@dataclass(frozen=True, kw_only=True)
class Split:
    """Names of the cases of one fold, sorted."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def make_splits(items: Sequence[Item], count: int, seed: int) -> list[Split]:
    """``count`` splits in which each case is validated once and no group is divided.

    The groups, by falling number of cases and then volume, go one by one to the fold with the
    fewest cases, and among equals to the one with the least volume (Graham's rule), so that folds
    of single-case groups differ by one case at most. The order of ``items`` does not matter; equal
    groups are ordered by ``seed``. Raises UsageError when there are fewer groups than folds.
    """
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda i: i.case):
        groups[item.group].append(item)
    if len(groups) < count:
        raise UsageError(
            f"{counted(len(groups), 'group')} can't make {count} folds: ask for fewer folds, or "
            "add data."
        )
    fold_of = _dealt(groups, count, np.random.default_rng(seed))
    return splits_of({i.case: fold_of[i.group] for i in items})


def _dealt(
    groups: Mapping[str, Sequence[Item]], count: int, rng: np.random.Generator
) -> dict[str, int]:
    """Fold of each group."""
    names = [str(name) for name in rng.permutation(sorted(groups))]
    volume = {name: sum(i.volume_ml for i in groups[name]) for name in names}
    names.sort(key=lambda name: (-len(groups[name]), -volume[name]))
    load = [(0, 0.0)] * count
    fold_of = {}
    for name in names:
        fold = min(range(count), key=lambda number: load[number])
        fold_of[name] = fold
        load[fold] = (load[fold][0] + len(groups[name]), load[fold][1] + volume[name])
    return fold_of


def splits_of(fold_of: Mapping[str, int]) -> list[Split]:
    """Splits from the fold in which each case is validated; folds are 0, 1, 2, ..."""
    return [
        Split(
            train=tuple(sorted(c for c, f in fold_of.items() if f != fold)),
            val=tuple(sorted(c for c, f in fold_of.items() if f == fold)),
        )
        for fold in range(max(fold_of.values()) + 1)
    ]


def from_table(table: Sequence[Mapping[str, Sequence[str]]], items: Sequence[Item]) -> list[Split]:
    """Splits that a user wrote: objects with ``train`` and ``val``, each a list of names.

    A name is a case or a participant, who stands for all its cases. Raises UsageError for a part
    that is no list of names, an unknown name, an empty part, and a participant who is in both parts
    of a fold.
    """
    cases: dict[str, list[str]] = defaultdict(list)
    for item in items:
        cases[item.participant].append(item.case)
    cases |= {item.case: [item.case] for item in items}
    participant = {item.case: item.participant for item in items}
    return [_checked(number, one, cases, participant) for number, one in enumerate(table)]


def _checked(
    number: int,
    table: Mapping[str, Sequence[str]],
    cases: Mapping[str, Sequence[str]],
    participant: Mapping[str, str],
) -> Split:
    parts = {}
    for part in ("train", "val"):
        names = table.get(part, ())
        if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
            raise UsageError(f"'{part}' of fold {number} of the splits must be a list of names.")
        if unknown := sorted(set(names) - set(cases)):
            raise UsageError(f"Fold {number} of the splits names '{unknown[0]}', which is no case.")
        if not names:
            raise UsageError(f"Fold {number} of the splits has no case in '{part}'.")
        parts[part] = tuple(sorted({case for name in names for case in cases[name]}))
    both = {participant[c] for c in parts["train"]} & {participant[c] for c in parts["val"]}
    if both:
        raise UsageError(
            f"Fold {number} of the splits has {min(both)} in 'train' and in 'val': a participant "
            "must stay in one part."
        )
    return Split(**parts)
