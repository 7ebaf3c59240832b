"""LesionGnb's features on cases made by hand, and the mirror image."""

import numpy as np

from bids_stroke.core.tissue_features import (
    Tissues,
    abnormal_tissue,
    features,
    missing_tissue,
    smooth,
)


def voxel(csf: float, grey: float, white: float) -> Tissues:
    return Tissues(*(np.full((1, 1, 1), v, np.float32) for v in (csf, grey, white)))


def test_fluid_in_place_of_tissue_is_missing_tissue() -> None:
    own, reference = voxel(0.8, 0.1, 0.1), voxel(0.1, 0.4, 0.5)
    assert np.isclose(missing_tissue(own, reference), (0.8 - 0.1) * (0.9 - 0.2))
    assert abnormal_tissue(own, reference) == 0


def test_an_excess_of_tissue_is_not_missing_tissue() -> None:
    own, reference = voxel(0.1, 0.4, 0.5), voxel(0.8, 0.1, 0.1)
    assert missing_tissue(own, reference) == 0


def test_grey_in_place_of_white_is_abnormal_tissue() -> None:
    own, reference = voxel(0.0, 0.7, 0.3), voxel(0.0, 0.2, 0.8)
    assert np.isclose(abnormal_tissue(own, reference), 0.5 * 0.5)
    assert missing_tissue(own, reference) == 0
    assert abnormal_tissue(reference, own) == 0


def phantom() -> Tissues:
    """White matter, with fluid at one place on the left (low x)."""
    csf = np.zeros((6, 3, 3), np.float32)
    csf[1, 1, 1] = 1
    return Tissues(csf, np.zeros_like(csf), 1 - csf)


def test_the_mirror_image_lies_on_the_other_side_of_the_midline() -> None:
    mirrored = phantom().mirrored()
    assert mirrored.csf[4, 1, 1] == 1
    assert mirrored.csf.sum() == 1


def test_only_the_ill_side_is_marked_by_its_mirror_image() -> None:
    whole = phantom()
    same = Tissues(whole.csf * 0, whole.grey, np.ones_like(whole.white))
    found = features(whole, same)
    expected = np.zeros((2, 6, 3, 3))
    expected[0, 1, 1, 1] = 1
    assert np.array_equal(found, expected)
    # A template with the same cavity halves it: the mean of nothing and of the mirror image's one.
    assert features(whole, whole)[0, 1, 1, 1] == 0.5


def test_features_have_two_decimals() -> None:
    rng = np.random.default_rng(0)
    maps = [
        Tissues(*rng.dirichlet([1, 1, 1], (4, 4, 4)).astype(np.float32).transpose(3, 0, 1, 2))
        for _ in range(2)
    ]
    found = features(*maps)
    assert np.allclose(found * 100, np.rint(found * 100), atol=1e-4)
    assert found.any()


def test_smoothing_has_its_full_width_at_half_maximum() -> None:
    point = np.zeros((41, 41, 41))
    point[20, 20, 20] = 1
    blurred = smooth(point, voxel_mm=2.0, fwhm_mm=8.0)
    assert np.isclose(blurred[22, 20, 20] / blurred[20, 20, 20], 0.5, atol=0.01)
    assert np.isclose(blurred.sum(), 1, atol=1e-3)
