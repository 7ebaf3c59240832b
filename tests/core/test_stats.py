"""Statistics against scipy, statsmodels, published examples and cases counted by hand."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from bids_stroke.core import stats

# Bland and Altman 1986: peak expiratory flow in l/min by two meters, 17 people
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def generator() -> np.random.Generator:
    return np.random.default_rng(20)


def run_table(values: list[float], first: int = 1, **columns: list) -> pd.DataFrame:
    """One session for each value."""
    people = [f"sub-{first + i:02}" for i in range(len(values))]
    sessions = [None] * len(values)
    return pd.DataFrame(
        {"participant_id": people, "session_id": sessions, "dice": values, **columns}
    )


# ------------------------------------------------------------------ bootstrap and summaries


def interval_of_mean(values: Any, **settings: Any) -> tuple[float, float]:
    return stats.bootstrap_intervals(values, [stats.resampled_mean], **settings)[0]


def test_interval_of_two_values_is_their_range() -> None:
    """The mean of two draws of 0 and 1 is 0, 1/2 or 1, with 1/4, 1/2 and 1/4."""
    assert interval_of_mean([0, 1], rng=generator()) == (0, 1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(stats.resampled_mean, np.mean), (stats.resampled_median, np.median)],
)
def test_interval_equals_scipy(ours: Callable, theirs: Callable) -> None:
    values = generator().gamma(2, size=40)
    ours = stats.bootstrap_intervals(values, [ours], rng=generator(), resamples=20_000)[0]
    theirs = scipy_stats.bootstrap(
        (values,), theirs, method="percentile", n_resamples=20_000, rng=generator()
    ).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.03)


def test_interval_covers_the_mean() -> None:
    """About 95 % of the intervals of 30 normal values hold the true mean, a little less at 30."""
    rng = generator()
    limits = [interval_of_mean(rng.normal(5, 2, 30), rng=rng, resamples=300) for _ in range(400)]
    covered = np.mean([low <= 5 <= high for low, high in limits])
    assert 0.89 < covered < 0.97


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-5, 5)), min_size=1, max_size=12))
def test_a_resample_is_its_participants_written_out(rows: list[tuple[int, float]]) -> None:
    people, values = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    counts = stats.resampled_counts(people, rng=generator(), resamples=5)
    means, medians = stats.resampled_mean(values, counts), stats.resampled_median(values, counts)
    for row, mean, median in zip(counts, means, medians, strict=True):
        per_person = {p: set(row[people == p]) for p in set(people)}
        assert all(len(times) == 1 for times in per_person.values())
        assert sum(times.pop() for times in per_person.values()) == len(set(people))
        assert mean == pytest.approx(np.repeat(values, row).mean(), abs=1e-9)
        assert median == pytest.approx(np.median(np.repeat(values, row)))


def test_sessions_of_one_person_do_not_narrow_the_interval() -> None:
    """Ten copies of each person's value hold no more than the value itself."""
    values = generator().normal(size=20)
    people = np.arange(20)
    once = interval_of_mean(values, rng=generator(), people=people)
    copies = interval_of_mean(np.repeat(values, 10), rng=generator(), people=np.repeat(people, 10))
    naive = interval_of_mean(np.repeat(values, 10), rng=generator())
    assert copies == pytest.approx(once)
    assert naive[1] - naive[0] < 0.5 * (once[1] - once[0])


def test_intervals_of_a_table_draw_participants() -> None:
    table = run_table([0.1, 0.1, 0.1, 0.9])
    table["participant_id"] = ["sub-01", "sub-01", "sub-01", "sub-02"]
    (row,) = stats.describe(table, ["dice"], rng=generator()).to_dict("records")
    assert (row["n"], row["n_participants"]) == (4, 2)
    assert (row["mean_low"], row["mean_high"]) == pytest.approx((0.1, 0.9))


def test_ratio_interval_of_two_people() -> None:
    """Sums of parts over sums of wholes: 1/2, 4/10 and 3/8 of the two people drawn."""
    parts, wholes, people = [1, 2, 1], [2, 4, 4], ["a", "b", "b"]
    low, high = stats.ratio_interval(parts, wholes, people, rng=generator())
    assert (low, high) == pytest.approx((3 / 8, 1 / 2))
    assert math.isnan(stats.ratio_interval([1], [2], ["a"], rng=generator())[0])


def test_robust_z_by_hand() -> None:
    """Median 3, deviations 2, 1, 0, 1 and 97: their median is 1."""
    z = stats.robust_z([1, 2, 3, np.nan, 4, 100])
    assert z == pytest.approx(np.array([-2, -1, 0, np.nan, 1, 97]) / 1.4826, nan_ok=True)
    assert stats.robust_z([5, 5, 5, 9]) == pytest.approx([0, 0, 0, 4 / 1.2533])
    assert stats.robust_z([2, 2]) == pytest.approx([0, 0])
    assert np.isnan(stats.robust_z([np.nan])).all()


def test_interval_is_seeded_and_ignores_nan() -> None:
    values = generator().random(12)
    once = interval_of_mean(values, rng=generator())
    assert once == interval_of_mean([*values, np.nan], rng=generator())
    assert interval_of_mean(np.full(9, 0.5), rng=generator()) == (0.5, 0.5)
    assert all(math.isnan(limit) for limit in interval_of_mean([0.3], rng=generator()))


def test_describe_equals_pandas_and_counts_what_is_missing() -> None:
    table = run_table([0.1, 0.9, np.nan, 0.4, 0.6, np.inf])
    (row,) = stats.describe(table, ["dice"], rng=generator()).to_dict("records")
    known = pd.Series([0.1, 0.9, 0.4, 0.6]).describe()
    names = {"mean": "mean", "sd": "std", "q1": "25%", "median": "50%", "q3": "75%", "max": "max"}
    assert {n: row[n] for n in names} == pytest.approx({n: known[o] for n, o in names.items()})
    assert (row["n"], row["n_missing"], row["stratum"]) == (4, 2, "all")
    assert row["mean_low"] < row["mean"] < row["mean_high"]
    assert row["median_low"] <= row["median"] <= row["median_high"]


@pytest.mark.parametrize(("values", "n"), [([], 0), ([np.nan], 0), ([0.7], 1)])
def test_describe_of_almost_nothing(values: list[float], n: int) -> None:
    table = run_table(values)
    rows = stats.describe(table, ["dice"], rng=generator()).to_dict("records")
    assert [row["n"] for row in rows] == ([n] if values else [])
    for row in rows:
        assert math.isnan(row["sd"])
        assert row["mean"] == pytest.approx(0.7 if n else np.nan, nan_ok=True)


def test_strata_of_volume_stage_and_lesion() -> None:
    volumes = [0.0, 0.05, 0.1, 5.0, 50.0, 60.0]
    table = run_table(
        [1, 0.1, 0.2, 0.3, 0.4, 0.5],
        reference_volume_ml=volumes,
        stage=["acute", "acute", None, "old", "old", "old"],
    )
    rows = stats.describe_strata(table, ["dice"], rng=generator(), by=["stage"], resamples=20)
    means = {(r["grouping"], r["stratum"]): (r["n"], r["mean"]) for r in rows.to_dict("records")}
    expected = {
        ("all", "all"): (6, 2.5 / 6),
        ("lesion", "lesion-free"): (1, 1),
        ("lesion", "with a lesion"): (5, 0.3),
        ("volume", "no lesion"): (1, 1),
        ("volume", "< 0.1 mL"): (1, 0.1),
        ("volume", "0.1 to 1 mL"): (1, 0.2),
        ("volume", "1 to 10 mL"): (1, 0.3),
        ("volume", ">= 50 mL"): (2, 0.45),
        ("volume_quartile", "1"): (2, 0.15),
        ("volume_quartile", "2"): (1, 0.3),
        ("volume_quartile", "3"): (1, 0.4),
        ("volume_quartile", "4"): (1, 0.5),
        ("stage", "acute"): (2, 0.55),
        ("stage", "old"): (3, 0.4),
    }
    assert list(means) == list(expected)
    for key, (n, mean) in expected.items():
        assert means[key] == (n, pytest.approx(mean))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 2.0, 2.0, 30.0]), max_size=30))
def test_quartiles_are_of_one_size(volumes: list[float]) -> None:
    quartiles = stats.volume_quartile(pd.Series(volumes, dtype=float))
    sizes = quartiles.value_counts()
    assert quartiles.isna().sum() == volumes.count(0)
    assert sizes.sum() == 0 or (sizes.max() - sizes.min() <= 1 and set(sizes.index) <= {1, 2, 3, 4})


# ------------------------------------------------------------------ Wilcoxon and Holm


@pytest.mark.parametrize("n", [1, 2, 5, 12, 50])
def test_exact_p_equals_scipy_without_ties(n: int) -> None:
    differences = generator().normal(0.3, 1, n)
    ours = stats.signed_rank(differences)
    theirs = scipy_stats.wilcoxon(differences, method="exact")
    assert ours["p"] == pytest.approx(theirs.pvalue)
    assert min(ours["w_plus"], ours["w_minus"]) == theirs.statistic
    assert ours["p_method"] == "exact"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-3, 4), min_size=1, max_size=9))
def test_exact_p_with_ties_and_zeros_equals_all_signs(differences: list[int]) -> None:
    values = np.array(differences)
    ranks = scipy_stats.rankdata(np.abs(values))[values != 0]
    signs = np.array(list(product((0, 1), repeat=len(ranks))), dtype=float)
    sums, observed = signs @ ranks, ranks[values[values != 0] > 0].sum()
    expected = min(1, 2 * min(np.mean(sums <= observed), np.mean(sums >= observed)))
    assert stats.signed_rank(values)["p"] == pytest.approx(expected)


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_normal_p_equals_scipy_with_zeros_and_ties(digits: int) -> None:
    differences = np.round(generator().normal(0.2, 1, 80), digits)
    ours = stats.signed_rank(differences)
    theirs = scipy_stats.wilcoxon(differences, zero_method="pratt", method="asymptotic")
    assert ours["p"] == pytest.approx(theirs.pvalue)
    assert min(ours["w_plus"], ours["w_minus"]) == pytest.approx(theirs.statistic)
    assert (ours["p_method"], ours["n_zero"]) == ("normal", np.sum(differences == 0))


def test_signed_rank_by_hand() -> None:
    """Ranks of 0, 1, -2, 2 and 4: 1 (dropped), 2, 3.5, 3.5, 5. W+ 10.5, W- 3.5."""
    result = stats.signed_rank([0, 1, -2, 2, 4, np.nan])
    assert (result["w_plus"], result["w_minus"]) == (10.5, 3.5)
    assert (result["n"], result["n_zero"]) == (5, 1)
    assert result["rank_biserial"] == pytest.approx(7 / 14)
    # of 16 choices of signs: W- of 0, 2, 3.5 and 3.5 lie as far out on one side
    assert result["p"] == pytest.approx(2 * 4 / 16)


def test_ties_in_floating_point_are_ties() -> None:
    differences = np.array([0.3 - 0.2, 0.2 - 0.1, 0.1 - 0.2])
    assert len(set(np.abs(differences))) > 1
    assert stats.signed_rank(differences)["w_plus"] == 4


@pytest.mark.parametrize("n", [1, 3, 60])
def test_no_difference_at_all(n: int) -> None:
    result = stats.signed_rank(np.zeros(n))
    assert (result["p"], result["rank_biserial"], result["n_zero"]) == (1, 0, n)


def test_no_pair_is_no_test() -> None:
    result = stats.signed_rank([np.nan])
    assert result["n"] == 0
    assert math.isnan(result["p"])
    assert math.isnan(result["rank_biserial"])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=70))
def test_signed_rank_is_symmetric(differences: list[float]) -> None:
    there, back = (stats.signed_rank(sign * np.array(differences)) for sign in (1, -1))
    assert there["p"] == pytest.approx(back["p"])
    assert there["rank_biserial"] == pytest.approx(-back["rank_biserial"])
    assert 0 < there["p"] <= 1
    assert -1 <= there["rank_biserial"] <= 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(p: list[float]) -> None:
    assert stats.holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_leaves_nan_alone() -> None:
    corrected = stats.holm([0.01, np.nan, 0.04, 0.03])
    assert corrected == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)


# ------------------------------------------------------------------ comparison of runs


def test_runs_are_paired_by_participant_and_session() -> None:
    first = run_table([0.5, 0.6, 0.7, np.nan, 0.9])
    second = run_table([0.1, 0.75, 0.9, 0.8, 0.95], first=1).iloc[::-1]
    second = pd.concat([second, run_table([0.2], first=30)])
    (row,) = stats.compare_runs({"a": first, "b": second}, ["dice"], rng=generator()).to_dict(
        "records"
    )
    differences = np.array([-0.4, 0.15, 0.2, 0.05])
    assert (row["first"], row["second"], row["metric"]) == ("a", "b", "dice")
    assert (row["n"], row["n_missing"], row["only_first"], row["only_second"]) == (4, 1, 0, 1)
    assert row["mean_difference"] == pytest.approx(differences.mean())
    assert row["median_difference"] == pytest.approx(np.median(differences))
    assert (row["mean_first"], row["mean_second"]) == pytest.approx((0.675, 0.675))
    assert row["mean_difference_low"] < 0 < row["mean_difference_high"]
    assert (row["w_plus"], row["w_minus"]) == (6, 4)
    assert row["p"] == row["p_holm"] == pytest.approx(0.875)


def test_sessions_of_one_participant_stay_apart() -> None:
    table = run_table([0.1, 0.2, 0.3, 0.4])
    table["participant_id"] = "sub-01"
    table["session_id"] = ["ses-1", "ses-2", "ses-3", None]
    other = table.assign(dice=table["dice"] + 0.1).sample(frac=1, random_state=1)
    other["session_id"] = other["session_id"].replace({None: np.nan})
    (row,) = stats.compare_runs({"a": table, "b": other}, ["dice"], rng=generator()).to_dict(
        "records"
    )
    assert row["n"] == 4
    assert row["rank_biserial"] == 1
    assert math.isnan(row["mean_difference_low"])  # one participant tells nothing of others


def three_runs() -> dict[str, pd.DataFrame]:
    rng = generator()
    base = rng.random(20)
    return {
        name: run_table((base + shift + rng.normal(0, 0.05, 20)).tolist(), jaccard=base.tolist())
        for name, shift in {"a": 0, "b": 0.03, "c": 0.1}.items()
    }


def test_all_pairs_or_one_against_the_others() -> None:
    pairs = stats.compare_runs(three_runs(), ["dice", "jaccard"], rng=generator())
    assert list(zip(pairs["first"], pairs["second"], strict=True)) == [
        *[("a", "b")] * 2,
        *[("a", "c")] * 2,
        *[("b", "c")] * 2,
    ]
    assert pairs["p_holm"].to_numpy() == pytest.approx(stats.holm(pairs["p"]))
    assert list(pairs) == list(stats.COMPARISON_COLUMNS)
    one = stats.compare_runs(three_runs(), ["dice"], rng=generator(), against="b")
    assert list(zip(one["first"], one["second"], strict=True)) == [("b", "a"), ("b", "c")]
    assert one["p"].to_numpy() == pytest.approx(pairs["p"].to_numpy()[[0, 4]])


def test_a_session_twice_is_refused() -> None:
    table = pd.concat([run_table([0.5, 0.6]), run_table([0.7])])
    with pytest.raises(ValueError, match="'sub-01'.* more than once"):
        stats.compare_runs({"a": run_table([0.5]), "b": table}, ["dice"], rng=generator())


def test_runs_without_a_common_session() -> None:
    runs = {"a": run_table([0.5]), "b": run_table([0.6], first=9)}
    (row,) = stats.compare_runs(runs, ["dice"], rng=generator()).to_dict("records")
    assert (row["n"], row["only_first"], row["only_second"]) == (0, 1, 1)
    assert all(math.isnan(row[name]) for name in ("mean_difference", "p", "p_holm"))


# ------------------------------------------------------------------ volumes


def test_bland_altman_as_published() -> None:
    """Mean difference -2.1 l/min and standard deviation 38.8 in the paper."""
    values = stats.bland_altman(MINI, WRIGHT)
    assert values["bias_ml"] == pytest.approx(-2.1, abs=0.05)
    assert values["sd_difference_ml"] == pytest.approx(38.8, abs=0.05)
    assert (values["bias_low_ml"], values["bias_high_ml"]) == pytest.approx((-22.0, 17.8), abs=0.1)
    assert values["loa_high_ml"] == pytest.approx(-2.12 + 1.96 * 38.77, abs=0.05)
    margin = 2.1199 * 38.765 * math.sqrt(1 / 17 + 1.96**2 / 32)
    assert values["loa_low_high_ml"] - values["loa_low_ml"] == pytest.approx(margin, rel=1e-3)


def test_limits_hold_95_percent() -> None:
    rng = generator()
    reference = rng.gamma(2, 10, 4000)
    difference = rng.normal(1, 3, 4000)
    values = stats.bland_altman(reference, reference + difference)
    inside = (difference > values["loa_low_ml"]) & (difference < values["loa_high_ml"])
    assert inside.mean() == pytest.approx(0.95, abs=0.01)


def correlated(n: int) -> tuple[NDArray, NDArray]:
    rng = generator()
    reference = rng.gamma(1, 20, n)
    return reference, 0.8 * reference + 2 + rng.normal(0, 4, n)


def test_volumes_equal_other_ways() -> None:
    reference, predicted = correlated(25)
    values = stats.volume_agreement([*reference, np.nan, 3], [*predicted, 1, np.nan])
    ranks = scipy_stats.rankdata(reference), scipy_stats.rankdata(predicted)
    slope, intercept = np.polyfit(reference, predicted, 1)
    r = np.corrcoef(reference, predicted)[0, 1]
    half = 1.959964 / math.sqrt(22)
    assert values["n"] == 25
    assert values["pearson_r"] == pytest.approx(r)
    assert values["pearson_low"] == pytest.approx(math.tanh(math.atanh(r) - half), rel=1e-5)
    assert values["pearson_high"] == pytest.approx(math.tanh(math.atanh(r) + half), rel=1e-5)
    assert values["spearman_rho"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert (values["slope"], values["intercept_ml"]) == pytest.approx((slope, intercept))
    assert values["bias_ml"] == pytest.approx((predicted - reference).mean())
    assert values["pearson_p"] < 1e-6
    assert list(values) == list(stats.VOLUME_COLUMNS)


def test_slope_interval_equals_statsmodels() -> None:
    from statsmodels.api import OLS, add_constant

    reference, predicted = correlated(15)
    values = stats.volume_agreement(reference, predicted)
    low, high = OLS(predicted, add_constant(reference)).fit().conf_int()[1]
    assert (values["slope_low"], values["slope_high"]) == pytest.approx((low, high))


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_pairs_of_volumes(n: int) -> None:
    reference, predicted = correlated(n)
    values = stats.volume_agreement(reference, predicted)
    assert math.isnan(values["bias_ml"]) == (n < 2)
    assert math.isnan(values["slope"]) == math.isnan(values["pearson_r"]) == (n < 3)
    assert math.isnan(values["pearson_low"])


def test_equal_volumes_correlate_with_nothing() -> None:
    constant, varied = np.full(5, 3.0), np.arange(5.0)
    for reference, predicted in ((constant, varied), (varied, constant), (constant, constant)):
        values = stats.volume_agreement(reference, predicted)
        assert math.isnan(values["pearson_r"])
        assert math.isnan(values["spearman_rho"])
    assert stats.volume_agreement(varied, constant)["slope"] == 0
    same = stats.volume_agreement(varied, varied)
    assert (same["pearson_r"], same["slope"], same["bias_ml"]) == pytest.approx((1, 1, 0))
    assert same["loa_low_ml"] == same["loa_high_ml"] == 0


@pytest.mark.parametrize(
    ("produced", "columns"),
    [
        (lambda: stats.describe(run_table([1, 0.5]), ["dice"], rng=generator()), "DESCRIBE"),
        (lambda: stats.compare_runs(three_runs(), ["dice"], rng=generator()), "COMPARISON"),
        (lambda: stats.volume_agreement(*correlated(6)), "VOLUME"),
    ],
)
def test_every_column_is_explained(produced: object, columns: str) -> None:
    assert list(produced()) == list(getattr(stats, f"{columns}_COLUMNS"))  # type: ignore[operator]
