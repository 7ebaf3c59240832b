"""Agreement of raters against scikit-learn, statsmodels and published tables."""

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats import inter_rater

from bids_stroke.core import agreement

LEVELS = ("pass", "doubtful", "fail")
PAIRS = st.lists(st.tuples(st.sampled_from(LEVELS), st.sampled_from(LEVELS)), min_size=2)
FLEISS_1971 = np.array(
    [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]]
    + [[7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]
)


@pytest.mark.parametrize("weights", get_args(agreement.Weights))
@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_cohen_equals_scikit_learn(weights: str, pairs: list[tuple[str, str]]) -> None:
    first, second = zip(*pairs, strict=True)
    ours = agreement.cohen_kappa(first, second, LEVELS, weights)  # type: ignore[arg-type]
    if len({*first, *second}) == 1:
        assert math.isnan(ours)
        return
    named = None if weights == "none" else weights
    theirs = cohen_kappa_score(first, second, labels=LEVELS, weights=named)
    assert ours == pytest.approx(theirs)


def test_cohen_by_hand() -> None:
    """Observed .7, by chance .5: 50 grants, read by two people."""
    first = ["pass"] * 25 + ["fail"] * 25
    second = ["pass"] * 20 + ["fail"] * 5 + ["pass"] * 10 + ["fail"] * 15
    assert agreement.cohen_kappa(first, second, LEVELS) == pytest.approx(0.4)


def test_fleiss_equals_the_published_example_and_statsmodels() -> None:
    ours = agreement.fleiss_kappa(FLEISS_1971)
    assert ours == pytest.approx(0.210, abs=5e-4)
    assert ours == pytest.approx(inter_rater.fleiss_kappa(FLEISS_1971))


def test_full_agreement_and_nothing_to_tell() -> None:
    assert agreement.fleiss_kappa(np.array([[3, 0], [0, 3]])) == 1
    assert math.isnan(agreement.fleiss_kappa(np.array([[3, 0], [3, 0]])))
    assert agreement.cohen_kappa(["pass", "fail"], ["pass", "fail"], LEVELS, "linear") == 1


def test_refusals() -> None:
    with pytest.raises(ValueError, match="same number of ratings"):
        agreement.fleiss_kappa(np.array([[3, 0], [2, 0]]))
    with pytest.raises(ValueError, match="'good' is none of"):
        agreement.cohen_kappa(["good"], ["pass"], LEVELS)
