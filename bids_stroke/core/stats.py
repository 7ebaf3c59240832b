"""Statistics of a cohort: summaries with intervals, paired tests, agreement of volumes, strata.

Tables in and out are tidy: a row an observation, a number a column. NaN is a value that does not
exist; it is left out and counted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]

RESAMPLES = 1000
CONFIDENCE = 0.95
VOLUME_LIMITS_ML = (0.1, 1.0, 10.0, 50.0)
KEYS = ("participant_id", "session_id")
PERSON = "participant_id"
EXACT_N = 50
_DECIMALS = 10
"""Differences closer than this are ties: 0.3 - 0.2 and 0.2 - 0.1 differ in floating point only."""

DESCRIBE_COLUMNS = {
    "grouping": "What the rows were grouped by.",
    "stratum": "Value of that grouping.",
    "metric": "Name of the metric.",
    "n": "Number of values.",
    "n_participants": "Number of participants that these values come from.",
    "n_missing": "Number of rows where the metric has no value.",
    "mean": "Mean.",
    "mean_low": "Lower limit of the 95 % bootstrap interval of the mean (percentile method, "
    "participants drawn with all their sessions).",
    "mean_high": "Upper limit of that interval.",
    "median": "Median.",
    "median_low": "Lower limit of the 95 % bootstrap interval of the median (percentile method, "
    "participants drawn with all their sessions).",
    "median_high": "Upper limit of that interval.",
    "sd": "Standard deviation with n - 1.",
    "q1": "First quartile (linear interpolation).",
    "q3": "Third quartile (linear interpolation).",
    "min": "Smallest value.",
    "max": "Largest value.",
}
COMPARISON_COLUMNS = {
    "first": "First run.",
    "second": "Second run; differences are second minus first.",
    "metric": "Name of the metric.",
    "n": "Number of pairs of one participant and session with a value in both runs.",
    "n_missing": "Number of pairs where the metric lacks a value.",
    "only_first": "Number of sessions of the first run without a partner.",
    "only_second": "Number of sessions of the second run without a partner.",
    "n_zero": "Number of pairs without a difference.",
    "mean_first": "Mean of the first run over the pairs.",
    "mean_second": "Mean of the second run over the pairs.",
    "mean_difference": "Mean difference.",
    "mean_difference_low": "Lower limit of its 95 % bootstrap interval (percentile method, "
    "participants drawn with all their sessions).",
    "mean_difference_high": "Upper limit of that interval.",
    "median_difference": "Median difference.",
    "w_plus": "Sum of the ranks of the positive differences; zeros are ranked, then dropped "
    "(Pratt).",
    "w_minus": "Sum of the ranks of the negative differences.",
    "p": "Two-sided p of the Wilcoxon signed-rank test.",
    "p_method": "exact (at most 50 pairs; ties and zeros included) or normal (corrected for ties).",
    "p_holm": "p corrected for all tests of this table by Holm's method.",
    "rank_biserial": "Matched-pairs rank-biserial correlation, -1 to 1: effect size of the test.",
}
VOLUME_COLUMNS = {
    "n": "Number of pairs of volumes.",
    "pearson_r": "Pearson's correlation.",
    "pearson_low": "Lower limit of its 95 % interval (Fisher's transformation).",
    "pearson_high": "Upper limit of that interval.",
    "pearson_p": "Two-sided p of Pearson's correlation.",
    "spearman_rho": "Spearman's rank correlation.",
    "spearman_p": "Two-sided p of Spearman's correlation.",
    "slope": "Slope of the least-squares line of predicted on reference volume.",
    "slope_low": "Lower limit of its 95 % interval (Student's t).",
    "slope_high": "Upper limit of that interval.",
    "intercept_ml": "Intercept of that line in mL.",
    "bias_ml": "Bland-Altman: mean of predicted minus reference volume in mL.",
    "bias_low_ml": "Lower limit of its 95 % interval.",
    "bias_high_ml": "Upper limit of that interval.",
    "sd_difference_ml": "Standard deviation of the differences, with n - 1.",
    "loa_low_ml": "Lower 95 % limit of agreement: bias - 1.96 SD.",
    "loa_low_low_ml": "Lower limit of the 95 % interval of the lower limit of agreement.",
    "loa_low_high_ml": "Upper limit of that interval.",
    "loa_high_ml": "Upper 95 % limit of agreement: bias + 1.96 SD.",
    "loa_high_low_ml": "Lower limit of the 95 % interval of the upper limit of agreement.",
    "loa_high_high_ml": "Upper limit of that interval.",
}


def _known(values: ArrayLike) -> Floats:
    """Finite values as a flat array."""
    array = np.asarray(values, dtype=float).ravel()
    return array[np.isfinite(array)]


def resampled_counts(people: ArrayLike, *, rng: Generator, resamples: int = RESAMPLES) -> Counts:
    """How often each value takes part in each resample, as resamples x values.

    ``people`` names the participant of each value. Participants are drawn with replacement, as many
    as there are, and bring all their values (cluster bootstrap: Davison and Hinkley 1997, 3.8), for
    several sessions of one person are not independent.
    """
    _, index = np.unique(np.asarray(people), return_inverse=True)
    n = int(index.max(initial=-1)) + 1
    drawn = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    times = np.bincount(drawn.ravel(), minlength=n * resamples).astype(np.int32)
    return times.reshape(resamples, n)[:, index.ravel()]


def resampled_mean(values: Floats, counts: Counts) -> Floats:
    """Mean of each resample."""
    return np.asarray(counts @ values / counts.sum(axis=1))


def resampled_median(values: Floats, counts: Counts) -> Floats:
    """Median of each resample: the mean of the two middle values where their number is even."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(counts[:, order], axis=1)
    total = reached[:, -1:]
    middle = [np.argmax(reached > place, axis=1) for place in ((total - 1) // 2, total // 2)]
    return np.asarray((values[order][middle[0]] + values[order][middle[1]]) / 2)


def bootstrap_intervals(
    values: ArrayLike,
    statistics: Sequence[Callable[[Floats, Counts], Floats]] = (resampled_mean, resampled_median),
    *,
    rng: Generator,
    people: ArrayLike | None = None,
    resamples: int = RESAMPLES,
) -> list[tuple[float, float]]:
    """95 % intervals of statistics by the percentile bootstrap (Efron and Tibshirani 1993).

    ``people`` are drawn with all their values (``resampled_counts``), once for all statistics;
    without it each value is a person of its own. NaN are left out. With fewer than two people the
    intervals are NaN.
    """
    array = np.asarray(values, dtype=float).ravel()
    finite = np.isfinite(array)
    owners = (np.arange(len(array)) if people is None else np.asarray(people).ravel())[finite]
    if len(set(owners.tolist())) < 2:
        return [(float("nan"), float("nan"))] * len(statistics)
    counts = resampled_counts(owners, rng=rng, resamples=resamples)
    return [percentile_interval(statistic(array[finite], counts)) for statistic in statistics]


def ratio_interval(
    parts: ArrayLike,
    wholes: ArrayLike,
    people: ArrayLike,
    *,
    rng: Generator,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """95 % bootstrap interval of a sum of parts over a sum of wholes, such as micro Dice.

    Participants are drawn with all their rows. NaN with fewer than two, and where resamples have
    no whole.
    """
    owners = np.asarray(people)
    if len(set(owners.tolist())) < 2:
        return float("nan"), float("nan")
    counts = resampled_counts(owners, rng=rng, resamples=resamples)
    above, below = (counts @ np.asarray(each, dtype=float) for each in (parts, wholes))
    return percentile_interval(np.divide(above, below, np.full(resamples, np.nan), where=below > 0))


def percentile_interval(replicates: ArrayLike) -> tuple[float, float]:
    """Limits that hold the middle 95 % of the replicates of a statistic."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.asarray(replicates, dtype=float), [tail, 1 - tail])
    return float(low), float(high)


def _summary(
    values: ArrayLike, people: NDArray[Any], rng: Generator, resamples: int
) -> dict[str, float]:
    """Numbers of DESCRIBE_COLUMNS, from ``n`` on, of the values of one metric."""
    array = np.asarray(values, dtype=float).ravel()
    finite = np.isfinite(array)
    known, owners = array[finite], people[finite]
    mean, median = bootstrap_intervals(array, rng=rng, people=people, resamples=resamples)
    some = known if len(known) else np.array([np.nan])
    q1, middle, q3 = np.quantile(some, [0.25, 0.5, 0.75])
    return {
        "n": len(known),
        "n_participants": len(set(owners.tolist())),
        "n_missing": len(array) - len(known),
        "mean": float(some.mean()),
        "mean_low": mean[0],
        "mean_high": mean[1],
        "median": float(middle),
        "median_low": median[0],
        "median_high": median[1],
        "sd": float(known.std(ddof=1)) if len(known) > 1 else float("nan"),
        "q1": float(q1),
        "q3": float(q3),
        "min": float(some.min()),
        "max": float(some.max()),
    }


def _people(table: pd.DataFrame) -> NDArray[Any]:
    """Participant of each row; each row is one where the table names none."""
    if PERSON in table:
        return table[PERSON].astype(str).to_numpy()
    return np.arange(len(table))


def describe(
    table: pd.DataFrame,
    names: Iterable[str],
    *,
    rng: Generator,
    strata: pd.Series | None = None,
    grouping: str = "all",
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Mean, median, SD and quartiles with bootstrap intervals: a row a stratum and metric.

    ``strata`` has the table's index; without it all rows are one stratum. Rows without a stratum
    are left out. Intervals draw participants (``participant_id``), each with all its rows; without
    that column each row is one. Columns: DESCRIBE_COLUMNS.
    """
    strata = pd.Series("all", index=table.index) if strata is None else strata
    rows = [
        {
            "grouping": grouping,
            "stratum": str(stratum),
            "metric": name,
            **_summary(part[name], _people(part), rng, resamples),
        }
        for stratum, part in table.groupby(strata, observed=True)
        for name in names
    ]
    return pd.DataFrame(rows, columns=list(DESCRIBE_COLUMNS))


def volume_class(volume_ml: pd.Series, limits_ml: Sequence[float] = VOLUME_LIMITS_ML) -> pd.Series:
    """Ordered class of each volume in mL: ``no lesion``, ``< 0.1 mL``, ..., ``>= 50 mL``.

    A class holds its lower limit.
    """
    middle = [
        f"{low:g} to {high:g} mL" for low, high in zip(limits_ml, limits_ml[1:], strict=False)
    ]
    labels = ["no lesion", f"< {limits_ml[0]:g} mL", *middle, f">= {limits_ml[-1]:g} mL"]
    edges = [0.0, np.nextafter(0, 1), *limits_ml, np.inf]
    return pd.cut(volume_ml, edges, right=False, labels=labels)


def volume_quartile(volume_ml: pd.Series) -> pd.Series:
    """Quartile of each lesion volume by rank, 1 the smallest; NaN where there is no lesion.

    Equal volumes are ranked in the order of the rows, so that the quartiles are of one size
    (Tomita et al. 2020).
    """
    ranks = volume_ml.where(volume_ml > 0).rank(method="first")
    return ((ranks - 1) * 4 // ranks.count() + 1).astype("Int64")


def describe_strata(
    table: pd.DataFrame,
    names: Sequence[str],
    *,
    rng: Generator,
    by: Sequence[str] = (),
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """``describe`` over all rows, those with a lesion, strata of volume, and columns of the table.

    The table holds ``reference_volume_ml``; ``by`` names columns such as stage or centre.
    """
    return pd.concat(
        describe(table, names, rng=rng, strata=strata, grouping=name, resamples=resamples)
        for name, strata in strata_of(table, by).items()
    ).reset_index(drop=True)


def strata_of(table: pd.DataFrame, by: Sequence[str] = ()) -> dict[str, pd.Series]:
    """The stratum of each row under each grouping of ``describe_strata``, by its name."""
    volume = table["reference_volume_ml"]
    lesion = pd.Series("with a lesion", index=table.index).where(volume > 0, "lesion-free")
    return {
        "all": pd.Series("all", index=table.index),
        "lesion": lesion,
        "volume": volume_class(volume),
        "volume_quartile": volume_quartile(volume),
        **{column: table[column] for column in by},
    }


def signed_rank(differences: ArrayLike) -> dict[str, Any]:
    """Two-sided Wilcoxon signed-rank test with zeros and ties, and its effect size.

    Zeros are ranked with the others and then dropped (Pratt 1959); ties get their mean rank. Up to
    50 differences p is exact: the share of all choices of signs that lie as far out, given these
    ranks. Above, it is that of the normal approximation, corrected for zeros and ties, without
    continuity correction. NaN are left out. Effect: matched-pairs rank-biserial correlation
    (W+ - W-) / (W+ + W-) (Kerby 2014). Zeros only: p is 1 and the effect 0; nothing: both are NaN.
    """
    known = np.round(_known(differences), _DECIMALS)
    moved = known != 0
    ranks = stats.rankdata(np.abs(known))[moved]
    plus = float(ranks[known[moved] > 0].sum())
    total = float(ranks.sum())
    exact = len(known) <= EXACT_N
    p = _exact_p(ranks, plus) if exact else _normal_p(ranks, plus)
    effect = (2 * plus - total) / total if total else 0.0
    return {
        "n": len(known),
        "n_zero": int(np.count_nonzero(~moved)),
        "w_plus": plus,
        "w_minus": total - plus,
        "p": p if len(known) else float("nan"),
        "p_method": "exact" if exact else "normal",
        "rank_biserial": effect if len(known) else float("nan"),
    }


def _exact_p(ranks: Floats, plus: float) -> float:
    """Two-sided p of W+ over all signs of the ranks; ranks are halves, so doubled they count."""
    doubled = np.rint(2 * ranks).astype(int)
    ways = np.zeros(doubled.sum() + 1)
    ways[0] = 1
    for rank in doubled:
        ways[rank:] += ways[:-rank].copy()
    observed = round(2 * plus)
    tail = min(ways[: observed + 1].sum(), ways[observed:].sum()) / ways.sum()
    return float(min(2 * tail, 1.0))


def _normal_p(ranks: Floats, plus: float) -> float:
    """Two-sided p of W+ by the normal approximation.

    Each rank has either sign with one half, so the variance, ties and zeros included, is a quarter
    of the sum of squares.
    """
    spread = np.sqrt(np.sum(ranks**2)) / 2
    if spread == 0:
        return 1.0
    return float(2 * stats.norm.sf(abs(plus - ranks.sum() / 2) / spread))


def holm(p: ArrayLike) -> Floats:
    """p corrected for their number by Holm's step-down method (Holm 1979); NaN stay and count not.

    Controls the chance of any false positive, whatever the dependence of the tests.
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]
    steps = values[order] * np.arange(len(order), 0, -1)
    corrected = np.full(values.shape, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def _keyed(table: pd.DataFrame, keys: Sequence[str], run: str) -> pd.DataFrame:
    """The table by its keys as text, ``n/a`` where there is none."""
    named = table[list(keys)].astype(object)
    index = pd.MultiIndex.from_frame(named.where(named.notna(), "n/a").astype(str))
    if index.has_duplicates:
        raise ValueError(f"{run} has {index[index.duplicated()][0]} more than once.")
    return table.set_axis(index, axis=0)


def compare_runs(
    runs: Mapping[str, pd.DataFrame],
    names: Sequence[str],
    *,
    rng: Generator,
    against: str | None = None,
    keys: Sequence[str] = KEYS,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Paired comparison of runs (models) metric by metric: a row a pair of runs and metric.

    ``runs`` are tables with one row for each value of ``keys`` (no session matches no session), of
    which the first names the participant.
    Each pair of runs is compared, or, with ``against``, that run with each other one. Columns:
    COMPARISON_COLUMNS; Holm's correction is over all rows. Raises ValueError when a run has a
    session twice.
    """
    keyed = {run: _keyed(table, keys, run) for run, table in runs.items()}
    pairs = [(against, run) for run in runs if run != against] if against else combinations(runs, 2)
    rows = [
        {
            "first": first,
            "second": second,
            **_compare(keyed[first], keyed[second], name, rng, resamples),
        }
        for first, second in pairs
        for name in names
    ]
    table = pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))
    return table.assign(p_holm=holm(table["p"]))


def _compare(
    first: pd.DataFrame, second: pd.DataFrame, name: str, rng: Generator, resamples: int
) -> dict[str, Any]:
    """Numbers of COMPARISON_COLUMNS, from ``metric`` on, of two tables by their keys."""
    common = first.index.intersection(second.index)
    both = np.c_[first.loc[common, name], second.loc[common, name]].astype(float)
    finite = np.isfinite(both).all(axis=1)
    people, both = common[finite].get_level_values(0).to_numpy(), both[finite]
    difference = both[:, 1] - both[:, 0]
    means = both.mean(axis=0) if len(both) else (float("nan"), float("nan"))
    summary = _summary(difference, people, rng, resamples)
    return {
        "metric": name,
        "n_missing": len(common) - len(both),
        "only_first": len(first) - len(common),
        "only_second": len(second) - len(common),
        "mean_first": means[0],
        "mean_second": means[1],
        "mean_difference": summary["mean"],
        "mean_difference_low": summary["mean_low"],
        "mean_difference_high": summary["mean_high"],
        "median_difference": summary["median"],
        **signed_rank(difference),
    }


def volume_agreement(reference_ml: ArrayLike, predicted_ml: ArrayLike) -> dict[str, float]:
    """Correlation, regression line and Bland-Altman limits of paired volumes: VOLUME_COLUMNS.

    Pairs with a NaN are left out. What needs more pairs, or volumes that are not all equal, is NaN:
    correlations and the line want three pairs, limits two.
    """
    pairs = np.c_[np.asarray(reference_ml, dtype=float), np.asarray(predicted_ml, dtype=float)]
    reference, predicted = pairs[np.isfinite(pairs).all(axis=1)].T
    values = {name: float("nan") for name in VOLUME_COLUMNS} | {"n": len(reference)}
    if len(reference) >= 3 and np.ptp(reference) > 0:
        values |= _line(reference, predicted)
        if np.ptp(predicted) > 0:
            values |= _correlations(reference, predicted)
    if len(reference) >= 2:
        values |= bland_altman(reference, predicted)
    return values


def _correlations(reference: Floats, predicted: Floats) -> dict[str, float]:
    """Pearson's and Spearman's correlation of at least three pairs."""
    pearson, spearman = stats.pearsonr(reference, predicted), stats.spearmanr(reference, predicted)
    nan = (float("nan"), float("nan"))
    interval = pearson.confidence_interval(CONFIDENCE) if len(reference) > 3 else nan
    return {
        "pearson_r": float(pearson.statistic),
        "pearson_low": float(interval[0]),
        "pearson_high": float(interval[1]),
        "pearson_p": float(pearson.pvalue),
        "spearman_rho": float(spearman.statistic),
        "spearman_p": float(spearman.pvalue),
    }


def _line(reference: Floats, predicted: Floats) -> dict[str, float]:
    """Least-squares line of predicted on reference volume."""
    line = stats.linregress(reference, predicted)
    margin = stats.t.ppf((1 + CONFIDENCE) / 2, len(reference) - 2) * line.stderr
    return {
        "slope": float(line.slope),
        "slope_low": float(line.slope - margin),
        "slope_high": float(line.slope + margin),
        "intercept_ml": float(line.intercept),
    }


def bland_altman(reference: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Bias and 95 % limits of agreement of predicted minus reference, each with its 95 % interval.

    Standard errors s / sqrt(n) and s sqrt(1 / n + 1.96^2 / (2 (n - 1))), with Student's t of
    n - 1 degrees of freedom (Bland and Altman 1999, doi:10.1177/096228029900800204). At least two
    pairs, in mL.
    """
    difference = np.asarray(predicted, dtype=float) - np.asarray(reference, dtype=float)
    n, bias, sd = len(difference), float(difference.mean()), float(difference.std(ddof=1))
    z, t = stats.norm.ppf((1 + CONFIDENCE) / 2), stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    of_bias = float(t * sd / np.sqrt(n))
    of_limit = float(t * sd * np.sqrt(1 / n + z**2 / (2 * (n - 1))))
    low, high = bias - float(z) * sd, bias + float(z) * sd
    return {
        "bias_ml": bias,
        "bias_low_ml": bias - of_bias,
        "bias_high_ml": bias + of_bias,
        "sd_difference_ml": sd,
        "loa_low_ml": low,
        "loa_low_low_ml": low - of_limit,
        "loa_low_high_ml": low + of_limit,
        "loa_high_ml": high,
        "loa_high_low_ml": high - of_limit,
        "loa_high_high_ml": high + of_limit,
    }


def robust_z(values: ArrayLike) -> Floats:
    """Distance from the median in units of 1.4826 times the median absolute deviation.

    Iglewicz and Hoaglin 1993. Where more than half of the values are equal, the mean absolute
    deviation times 1.2533 takes the place of the median one; NaN stay. All 0 where all are equal.
    """
    array = np.asarray(values, dtype=float)
    known = array[np.isfinite(array)]
    if not known.size:
        return np.full(array.shape, np.nan)
    away = np.abs(known - np.median(known))
    spread = 1.4826 * np.median(away) or 1.2533 * away.mean()
    score = np.zeros(array.shape) if spread == 0 else (array - np.median(known)) / spread
    return np.where(np.isfinite(array), score, np.nan)
