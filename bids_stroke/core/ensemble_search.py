"""Which networks, put together in which way, agree best with references: by region of the brain.

Source: Mohapatra et al. 2023: the top four networks a region, all their subsets, by stacking or by
an agreement window. Masks are boolean arrays [x, y, z].
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_stroke.core.ensembles import agreement_window, stack
from bids_stroke.core.metrics import counts, dice_of

Mask = NDArray[np.bool_]
WHOLE = "whole brain"
COLUMNS = {
    "region": "Region of the brain, or whole brain. Networks are compared within it, over the "
    "cases whose reference has a voxel there.",
    "method": "single: one network. stack: voxels that all networks call lesion. window: the union "
    "of the networks, where in a window enough of its voxels are called so by all.",
    "models": "Networks, with + between them.",
    "window": "Edge of the agreement window in voxels; n/a for other methods.",
    "share": "Least share of agreed voxels in a window; n/a for other methods.",
    "dice": "Mean Dice over the tuning cases.",
    "volume_error": "Mean over the tuning cases of the absolute error of the lesion volume, as a "
    "share of the true volume.",
    "cases": "Number of tuning cases.",
    "chosen": "1 for the highest mean Dice of the region; among equals the fewest networks.",
}


@dataclass(frozen=True, order=True)
class Rule:
    """One way to make a mask of those of ``models``: alone, stacked, or by an agreement window."""

    models: tuple[str, ...]
    method: str = "single"
    window: int = 0
    share: float = 0.0

    def mask(self, masks: Mapping[str, Mask]) -> Mask:
        """The mask that the rule makes."""
        members = [masks[name] for name in self.models]
        if self.method == "single":
            return members[0]
        if self.method == "stack":
            return stack(members)
        return agreement_window(members, self.window, self.share)


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One session: its reference, the networks' masks, and labels of regions; all on one grid.

    ``regions`` has the number of a region in each voxel, and ``names`` gives the numbers of each
    region (several are one region then); both are empty for the whole brain alone. ``read`` gives
    reference, masks by network and labels, when they are needed.
    """

    name: str
    participant: str
    read: Callable[[], tuple[Mask, Mapping[str, Mask], NDArray[np.integer] | None]]
    names: Mapping[str, Sequence[int]]

    @cached_property
    def parts(self) -> Mapping[str, tuple[Mask, Mapping[str, Mask]]]:
        """Reference and masks within each region."""
        reference, masks, labels = self.read()
        whole = {WHOLE: (reference, masks)}
        if labels is None:
            return whole
        inside = {region: np.isin(labels, list(n)) for region, n in self.names.items()}
        return whole | {
            region: (reference & where, {m: mask & where for m, mask in masks.items()})
            for region, where in inside.items()
        }

    def forget(self) -> None:
        """Drop the arrays; they are read again when they are needed."""
        self.__dict__.pop("parts", None)


def rules(
    models: Sequence[str], windows: Sequence[int] = (2, 3, 4), shares: Sequence[float] = (0.5, 0.75)
) -> list[Rule]:
    """Each network alone, and every subset of two or more by every method."""
    subsets = [s for n in range(2, len(models) + 1) for s in combinations(sorted(models), n)]
    by_window = [
        Rule(subset, "window", window, share)
        for subset in subsets
        for window in windows
        for share in shares
    ]
    singles = [Rule((model,)) for model in sorted(models)]
    return singles + [Rule(subset, "stack") for subset in subsets] + by_window


def scores(cases: Iterable[Case], asked: Mapping[str, Sequence[Rule]]) -> pd.DataFrame:
    """Dice and volume error of each rule in each case that has a lesion in the rule's region."""
    rows = []
    for case in cases:
        for region, wanted in asked.items():
            reference, masks = case.parts[region]
            if reference.any():
                rows += [_score(case.name, region, r, reference, r.mask(masks)) for r in wanted]
        case.forget()
    return pd.DataFrame(rows, columns=["case", "region", "rule", "dice", "volume_error"])


def _score(case: str, region: str, rule: Rule, reference: Mask, found: Mask) -> tuple:
    tp, fp, fn = counts(reference, found)
    return case, region, rule, dice_of(tp, fp, fn), abs(fp - fn) / (tp + fn)


def top_models(
    cases: Sequence[Case], models: Sequence[str], regions: Sequence[str], most: int = 4
) -> dict[str, list[str]]:
    """The networks with the highest mean Dice in each region, the best first."""
    singles = [Rule((model,)) for model in models]
    table = scores(cases, dict.fromkeys(regions, singles))
    best = {}
    for region, part in table.groupby("region", sort=False):
        means = part.groupby("rule")["dice"].mean()
        order = sorted(means.index, key=lambda rule: (-means[rule], rule))
        best[str(region)] = [rule.models[0] for rule in order[:most]]
    return best


def search(
    cases: Sequence[Case],
    models: Sequence[str],
    regions: Sequence[str] = (WHOLE,),
    *,
    most: int = 4,
    windows: Sequence[int] = (2, 3, 4),
    shares: Sequence[float] = (0.5, 0.75),
) -> pd.DataFrame:
    """Table of ``COLUMNS``: every rule of the top networks of each region, the best first.

    A region without a lesion in any case is left out.
    """
    top = top_models(cases, models, regions, most)
    asked = {region: rules(names, windows, shares) for region, names in top.items()}
    table = scores(cases, asked)
    means = table.groupby(["region", "rule"], sort=False, as_index=False).agg(
        dice=("dice", "mean"), volume_error=("volume_error", "mean"), cases=("dice", "size")
    )
    means["size"] = [len(rule.models) for rule in means["rule"]]
    order = means.sort_values(
        ["region", "dice", "size", "rule"], ascending=[True, False, True, True]
    )
    order["chosen"] = (~order.duplicated("region")).astype(int)
    return order.drop(columns="size").reset_index(drop=True)


def chosen(table: pd.DataFrame) -> dict[str, Rule]:
    """The best rule of each region."""
    best = table[table["chosen"] == 1]
    return dict(zip(best["region"], best["rule"], strict=True))


def combined(case: Case, best: Mapping[str, Rule]) -> Mask:
    """Mask of the whole brain: in each region what its rule finds, elsewhere nothing.

    With the rule of the whole brain alone it is what that rule finds.
    """
    by_region = {region: rule for region, rule in best.items() if region != WHOLE} or best
    found = [rule.mask(case.parts[region][1]) for region, rule in by_region.items()]
    return np.logical_or.reduce(found)


def report(cases: Sequence[Case], models: Sequence[str], best: Mapping[str, Rule]) -> pd.DataFrame:
    """Dice and volume error in each case, by ``run``: the networks, and the chosen ensembles.

    Runs are the names of the networks, ``whole brain`` (that rule for the whole brain) and
    ``by region`` (each rule in its region) where there are regions. Cases without a lesion in the
    reference have a Dice, but no volume error.
    """
    rows = []
    for case in cases:
        reference, masks = case.parts[WHOLE]
        runs = {model: masks[model] for model in models}
        runs[WHOLE] = best[WHOLE].mask(masks)
        if len(best) > 1:
            runs["by region"] = combined(case, best)
        for run, found in runs.items():
            tp, fp, fn = counts(reference, found)
            error = abs(fp - fn) / (tp + fn) if tp + fn else float("nan")
            rows.append((case.name, case.participant, run, dice_of(tp, fp, fn), error))
        case.forget()
    return pd.DataFrame(rows, columns=["case", "participant_id", "run", "dice", "volume_error"])


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """The table of a search with the columns of ``COLUMNS``, as plain values."""
    listed = table.assign(
        method=[rule.method for rule in table["rule"]],
        models=["+".join(rule.models) for rule in table["rule"]],
        window=[rule.window or None for rule in table["rule"]],
        share=[rule.share or None for rule in table["rule"]],
    )
    return listed[list(COLUMNS)]
