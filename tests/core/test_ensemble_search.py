"""The search for an ensemble: its candidates, its choice by hand-made cases, and its report."""

import numpy as np
import pytest

from bids_stroke.core.ensemble_search import (
    COLUMNS,
    WHOLE,
    Case,
    Rule,
    chosen,
    combined,
    printed,
    report,
    rules,
    search,
    top_models,
)

SHAPE = (12, 12, 12)


def box(x: slice, size: int = 4) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[x, 4 : 4 + size, 4 : 4 + size] = True
    return mask


def case(number: int, regions: bool = True) -> Case:
    """A lesion on the left (region 1) and one on the right (2).

    ``left`` and ``also_left`` find the first with noise of their own, ``right`` the second alone,
    ``bad`` finds nothing that is there.
    """
    rng = np.random.default_rng(number)
    reference = box(slice(1, 4)) | box(slice(8, 11))
    noise = [rng.random(SHAPE) < 0.05 for _ in range(2)]
    half = np.arange(SHAPE[0])[:, None, None] < 6
    masks = {
        "left": box(slice(1, 4)) | (noise[0] & half),
        "also_left": box(slice(1, 4)) | (noise[1] & half),
        "right": box(slice(8, 11)),
        "bad": noise[0] & noise[1],
    }
    labels = np.where(half, 1, 2) * np.ones(SHAPE, int)
    return Case(
        name=f"sub-{number:02d}",
        participant=f"sub-{number:02d}",
        read=lambda: (reference, masks, labels if regions else None),
        names={"first": (1,), "second": (2,)} if regions else {},
    )


CASES = [case(number) for number in range(3)]
MODELS = ("left", "also_left", "right", "bad")
REGIONS = (WHOLE, "first", "second")


def test_all_subsets_by_all_methods_are_tried() -> None:
    found = rules(["d", "b", "c", "a"])
    assert len(found) == len(set(found)) == 4 + 11 * (1 + 3 * 2)
    assert sum(rule.method == "stack" for rule in found) == 11
    assert {(r.window, r.share) for r in found if r.method == "window"} == {
        (w, s) for w in (2, 3, 4) for s in (0.5, 0.75)
    }
    assert {r.models for r in found if len(r.models) == 2} == {
        ("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")
    }  # fmt: skip


def test_the_best_models_differ_by_region() -> None:
    top = top_models(CASES, MODELS, REGIONS, most=2)
    assert set(top["first"]) == {"left", "also_left"}
    assert top["second"][0] == "right"


def test_stacking_wins_where_noise_differs_and_a_single_where_it_is_perfect() -> None:
    best = chosen(search(CASES, MODELS, REGIONS))
    assert best["first"].models == ("also_left", "left")
    assert best["first"].method == "stack"
    assert best["second"] == Rule(("right",))


def test_dice_of_a_rule_is_the_mean_over_cases_within_the_region() -> None:
    table = search(CASES, MODELS, REGIONS)
    row = table[(table["region"] == "first") & (table["rule"] == Rule(("left",)))].iloc[0]
    expected = []
    for one in CASES:
        reference, masks, labels = one.read()
        inside = labels == 1
        both = np.count_nonzero(reference & masks["left"] & inside)
        total = np.count_nonzero(reference & inside) + np.count_nonzero(masks["left"] & inside)
        expected.append(2 * both / total)
    assert row["dice"] == pytest.approx(np.mean(expected))
    assert row["cases"] == 3


def test_one_rule_of_each_region_is_chosen_and_the_table_is_sorted() -> None:
    table = search(CASES, MODELS, REGIONS, windows=(2,), shares=(0.5,))
    assert table.groupby("region")["chosen"].sum().to_dict() == dict.fromkeys(REGIONS, 1)
    for _, part in table.groupby("region"):
        assert part["dice"].is_monotonic_decreasing
        assert part.iloc[0]["chosen"] == 1


def test_among_equals_the_fewest_models_are_chosen() -> None:
    masks = {name: box(slice(1, 4)) for name in ("a", "b", "c")}
    one = Case(name="x", participant="x", read=lambda: (masks["a"], masks, None), names={})
    assert chosen(search([one], list(masks)))[WHOLE] == Rule(("a",))


def test_regions_are_put_together_by_their_own_rules() -> None:
    best = chosen(search(CASES, MODELS, REGIONS))
    reference, _, _ = CASES[0].read()
    found = combined(CASES[0], best)
    overlap = 2 * np.count_nonzero(found & reference) / (found.sum() + reference.sum())
    assert overlap > 0.97
    only = {WHOLE: Rule(("right",))}
    assert np.array_equal(combined(CASES[0], only), CASES[0].parts[WHOLE][1]["right"])


def test_the_report_has_every_run_on_every_case() -> None:
    best = chosen(search(CASES, MODELS, REGIONS))
    others = [case(number) for number in (7, 8)]
    table = report(others, MODELS, best)
    assert set(table["run"]) == {*MODELS, WHOLE, "by region"}
    assert len(table) == 2 * 6
    means = table.groupby("run")["dice"].mean()
    assert means["by region"] > means[list(MODELS)].max()


def test_a_case_without_lesions_is_not_tuned_on_and_has_no_volume_error() -> None:
    empty = np.zeros(SHAPE, bool)
    masks = {"a": empty, "b": box(slice(1, 4))}
    healthy = Case(name="h", participant="h", read=lambda: (empty, masks, None), names={})
    assert search([healthy], ["a", "b"]).empty
    table = report([healthy], ["a", "b"], {WHOLE: Rule(("a",))}).set_index("run")
    assert table.loc["a", "dice"] == 1
    assert table.loc["b", "dice"] == 0
    assert table["volume_error"].isna().all()


def test_every_printed_column_is_described() -> None:
    table = printed(search([case(0, regions=False)], MODELS, windows=(3,), shares=(0.75,)))
    assert list(table.columns) == list(COLUMNS)
    windows = table[table["method"] == "window"]
    assert (windows["window"] == 3).all()
    assert (windows["share"] == 0.75).all()
    assert table[table["method"] == "stack"]["window"].isna().all()


def test_arrays_are_read_again_after_they_were_forgotten() -> None:
    calls = []
    one = case(0)
    counted = Case(
        name=one.name,
        participant=one.participant,
        read=lambda: calls.append(1) or one.read(),  # type: ignore[func-returns-value]
        names=one.names,
    )
    assert counted.parts is counted.parts
    counted.forget()
    assert counted.parts[WHOLE][0].any()
    assert len(calls) == 2
