"""Gaussian naive Bayes against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.naive_bayes import GaussianNB

from bids_stroke.core import gnb


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.05, 0.95))
def test_posterior_is_that_of_scikit_learn(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    lesion = rng.random(300) < 0.3
    samples = rng.random((300, 2)) * 0.3 + 0.2 * lesion[:, None]
    priors = (1 - share, share)
    theirs = GaussianNB(priors=priors, var_smoothing=0).fit(samples, lesion)
    ours = gnb.fit(samples, lesion, priors)
    maps = rng.random((2, 4, 5, 3))
    expected = theirs.predict_proba(maps.reshape(2, -1).T)[:, 1].reshape(4, 5, 3)
    np.testing.assert_allclose(gnb.posterior(ours, maps), expected, atol=1e-5)


def test_parameters_are_read_back() -> None:
    rng = np.random.default_rng(0)
    found = gnb.fit(rng.random((50, 2)), np.arange(50) % 2 == 0)
    assert gnb.from_table(gnb.to_table(found)) == found
    assert found.priors == (0.8936, 0.1064)


def test_a_class_without_voxels_is_refused() -> None:
    with pytest.raises(ValueError, match="both classes"):
        gnb.fit(np.zeros((5, 2)), np.zeros(5, bool))


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan")])
def test_impossible_variances_are_refused(variance: float) -> None:
    table = gnb.to_table(gnb.fit(np.eye(2).repeat(2, 0), np.array([True, False] * 2)))
    table["lesion"]["variance"]["missing"] = variance
    with pytest.raises(ValueError, match="above 0"):
        gnb.from_table(table)
    del table["lesion"]["variance"]
    with pytest.raises(ValueError, match="lack"):
        gnb.from_table(table)


def test_constant_features_do_not_break_it() -> None:
    found = gnb.fit(np.array([[0.0, 0.0]] * 4 + [[0.5, 0.1]] * 4), np.arange(8) >= 4)
    seen = gnb.posterior(found, np.array([[0.0, 0.5], [0.0, 0.1]]))
    assert seen[0] < 0.01
    assert seen[1] > 0.99
