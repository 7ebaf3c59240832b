"""Agreement of raters on ordered categories: Cohen's kappa, plain and weighted, and Fleiss' kappa.

1 is full agreement, 0 what chance gives with the same shares of categories. NaN where chance alone
agrees fully (everybody always says the same), because then nothing can be told.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weights = Literal["none", "linear", "quadratic"]


def _disagreement(count: int, weights: Weights) -> Floats:
    """Cost of each pair of categories, 0 on the diagonal."""
    distance = np.abs(np.subtract.outer(np.arange(count), np.arange(count))).astype(float)
    power = {"none": 0, "linear": 1, "quadratic": 2}[weights]
    return np.where(distance > 0, distance**power, 0.0)


def cohen_kappa(
    first: Sequence[str],
    second: Sequence[str],
    categories: Sequence[str],
    weights: Weights = "none",
) -> float:
    """Kappa of two raters over the same items (Cohen 1960; weighted: Cohen 1968).

    ``categories`` are in their order, which weights need. Raises ValueError for a rating that is
    none of them, or lists of different lengths.
    """
    place = {category: i for i, category in enumerate(categories)}
    if unknown := {*first, *second} - set(place):
        raise ValueError(f"'{min(unknown)}' is none of {', '.join(categories)}.")
    joint = np.zeros((len(categories),) * 2)
    for one, other in zip(first, second, strict=True):
        joint[place[one], place[other]] += 1
    cost = _disagreement(len(categories), weights)
    expected = np.outer(joint.sum(axis=1), joint.sum(axis=0)) * cost
    if not expected.any():
        return float("nan")
    return float(1 - (joint * cost).sum() * joint.sum() / expected.sum())


def fleiss_kappa(counts: NDArray[np.integer]) -> float:
    """Kappa of three or more raters (Fleiss 1971).

    ``counts`` is items x categories: how many raters chose the category. Raises ValueError unless
    every item has the same number of ratings, at least two.
    """
    table = np.asarray(counts, dtype=float)
    raters = table.sum(axis=1)
    if not len(table) or raters.min() != raters.max() or raters[0] < 2:
        raise ValueError(
            "Fleiss' kappa needs the same number of ratings, two or more, of each item."
        )
    n = raters[0]
    observed = float(((table**2).sum(axis=1) - n).mean() / (n * (n - 1)))
    chance = float(((table.sum(axis=0) / table.sum()) ** 2).sum())
    return float("nan") if chance == 1 else (observed - chance) / (1 - chance)
