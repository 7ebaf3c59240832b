"""Random fields and scanner effects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bids_stroke.core import fields


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*[st.integers(4, 24)] * 3),
    scale=st.floats(0.5, 12),
    seed=st.integers(0, 1000),
)
def test_smooth_field_is_standardised_and_repeatable(shape, scale, seed):
    first = fields.smooth_field(shape, np.random.default_rng(seed), scale)
    again = fields.smooth_field(shape, np.random.default_rng(seed), scale)
    assert first.shape == shape and first.dtype == np.float32
    assert abs(float(first.mean())) < 1e-4
    assert first.std() == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(first, again)


def test_correlation_length_is_where_the_autocorrelation_is_one_over_e(rng):
    scale = 6
    values = [fields.smooth_field((96, 96, 96), rng, scale) for _ in range(3)]
    measured = np.mean([np.mean(v[:-scale] * v[scale:]) for v in values])
    assert measured == pytest.approx(np.exp(-1), abs=0.06)


def test_smooth_field_refuses_no_scale(rng):
    with pytest.raises(ValueError, match="positive"):
        fields.smooth_field((4, 4, 4), rng, 0)


def test_bias_field_is_positive_with_mean_one(rng):
    bias = fields.bias_field((20, 24, 28), rng, strength=0.4, scale=15)
    assert bias.min() > 0
    assert bias.mean() == pytest.approx(1, abs=1e-4)
    assert np.log(bias).std() == pytest.approx(0.4, abs=0.01)


def test_warp_by_whole_voxels_is_a_shift(rng):
    volume = rng.random((6, 7, 8)).astype(np.float32)
    shift = np.zeros((3, 6, 7, 8), np.float32)
    shift[1] = 1
    np.testing.assert_allclose(fields.warp(volume, shift)[:, :-1], volume[:, 1:], atol=1e-6)


def test_displacement_has_its_amplitude(rng):
    field = fields.displacement((16, 16, 16), rng, amplitude=2.5, scale=4)
    assert field.shape == (3, 16, 16, 16)
    np.testing.assert_allclose(field.std(axis=(1, 2, 3)), 2.5, rtol=1e-2)


def test_rician_noise_has_rayleigh_background(rng):
    noise = fields.rician(np.zeros((40, 40, 40), np.float32), rng, 3.0)
    assert noise.min() >= 0
    assert noise.mean() == pytest.approx(3 * np.sqrt(np.pi / 2), rel=0.01)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_average_slabs(axis, rng):
    volume = rng.random((12, 12, 12)).astype(np.float32)
    thick = np.moveaxis(fields.thick_slices(volume, axis, 3), axis, 0)
    slabs = np.moveaxis(volume, axis, 0).reshape(4, 3, 12, 12).mean(axis=1)
    np.testing.assert_allclose(thick[1::3], slabs, atol=1e-5)  # slab centres
    back = ndimage.map_coordinates(slabs[:, 4, 5], [[1 / 3]], order=1)
    np.testing.assert_allclose(thick[2, 4, 5], back[0], atol=1e-5)


def test_thick_slices_of_one_voxel_change_nothing(rng):
    volume = rng.random((5, 6, 7)).astype(np.float32)
    np.testing.assert_allclose(fields.thick_slices(volume, 2, 1), volume, atol=1e-6)
    with pytest.raises(ValueError, match="thinner"):
        fields.thick_slices(volume, 2, 0.5)
