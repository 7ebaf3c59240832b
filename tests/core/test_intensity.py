"""Normalisation within the brain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bids_stroke.core import intensity


def test_zscore_equals_scipy_inside_and_is_zero_outside() -> None:
    generator = np.random.default_rng(3)
    data, mask = generator.normal(800, 90, (9, 8, 7)), generator.random((9, 8, 7)) > 0.4
    out = intensity.zscore(data, mask)
    np.testing.assert_allclose(out[mask], stats.zscore(data[mask]), rtol=1e-5, atol=1e-6)
    assert not out[~mask].any()
    assert out.dtype == np.float32


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(0.01, 1e4), offset=st.floats(-1e4, 1e4))
def test_zscore_forgets_gain_and_offset(gain: float, offset: float) -> None:
    data = np.random.default_rng(0).normal(size=(6, 6, 6))
    mask = np.ones(data.shape)
    expected = intensity.zscore(data, mask)
    np.testing.assert_allclose(intensity.zscore(data * gain + offset, mask), expected, atol=1e-3)


@pytest.mark.parametrize("mask", [np.zeros((4, 4, 4)), np.ones((4, 4, 4))])
def test_no_zscore_of_nothing(mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match="empty or constant"):
        intensity.zscore(np.full((4, 4, 4), 3.0), mask)


def test_masked_drops_even_what_is_not_finite() -> None:
    data = np.array([[[np.nan, 2.0, np.inf]]])
    np.testing.assert_array_equal(intensity.masked(data, np.array([[[0, 1, 0]]])), [[[0, 2, 0]]])


@pytest.mark.parametrize(
    "shape, wanted, given_factor",
    [((256, 256, 176), 4, 4), ((320, 320, 24), 4, 3), ((64, 64, 6), 4, 1), ((300, 300, 300), 1, 1)],
)
def test_shrink_factor_spares_thick_slices(
    shape: tuple[int, ...], wanted: int, given_factor: int
) -> None:
    assert intensity.shrink_factor(shape, wanted) == given_factor
