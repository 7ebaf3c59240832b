"""Ensembles against loops over voxels, and the properties that they must have."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bids_stroke.core import ensembles

CALM = settings(max_examples=40, deadline=None)


def random_masks(seed: int, members: int = 2, shape: tuple[int, ...] = (5, 6, 4)) -> NDArray:
    return np.random.default_rng(seed).random((members, *shape)) < 0.5


def brute_window(masks: NDArray, window: int, share: float, stride: int) -> NDArray:
    """The definition, cube by cube."""
    common, either = masks.all(0), masks.any(0)
    kept = np.zeros_like(common)
    corners = []
    for size in common.shape:
        last = max(size - window, 0)
        corners.append(sorted({*range(0, last + 1, stride), last}))
    for corner in product(*corners):
        cube = tuple(slice(c, c + window) for c in corner)
        if either[cube].any() and common[cube].sum() / either[cube].sum() > share:
            kept[cube] = True
    return kept & either


@CALM
@given(
    seed=st.integers(0, 10_000),
    members=st.integers(1, 3),
    window=st.integers(1, 7),
    share=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    data=st.data(),
)
def test_agreement_window_is_its_definition(
    seed: int, members: int, window: int, share: float, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window))
    masks = random_masks(seed, members)
    got = ensembles.agreement_window(list(masks), window, share, stride)
    assert np.array_equal(got, brute_window(masks, window, share, stride))


@CALM
@given(seed=st.integers(0, 10_000), window=st.integers(1, 4))
def test_agreement_lies_between_stack_and_union_of_one_voxel_windows(
    seed: int, window: int
) -> None:
    masks = list(random_masks(seed))
    kept = ensembles.agreement_window(masks, window, 0.5)
    assert not (kept & ~ensembles.union(masks)).any()
    single = ensembles.agreement_window(masks, 1, 0.5)
    assert np.array_equal(single, ensembles.stack(masks))


def test_agreement_window_by_hand() -> None:
    a, b = np.zeros((4, 2, 2), bool), np.zeros((4, 2, 2), bool)
    a[:2], b[:2] = True, True
    b[0, 0, 0] = False  # 7 of 8 voxels agree in the first cube
    a[3, 1, 1] = True  # none in the last
    tiled = ensembles.agreement_window([a, b], 2, 0.75, stride=2)
    assert tiled[:2].all()
    assert not tiled[2:].any()
    a[1, 1, 1] = False  # 6 of 8: equal to the share is not above it
    assert not ensembles.agreement_window([a, b], 2, 0.75, stride=2).any()


@CALM
@given(seed=st.integers(0, 10_000), members=st.integers(1, 4))
def test_weighted_mean_is_numpys_average(seed: int, members: int) -> None:
    rng = np.random.default_rng(seed)
    maps, weights = rng.random((members, 3, 4, 2)), rng.random(members) + 0.01
    got = ensembles.weighted_mean(list(maps), list(weights))
    np.testing.assert_allclose(got, np.average(maps, axis=0, weights=weights), atol=1e-6)
    equal = ensembles.weighted_mean(list(maps))
    np.testing.assert_allclose(equal, maps.mean(0), atol=1e-6)


@pytest.mark.parametrize("weights", [[1.0], [-1.0, 2.0], [0.0, 0.0], [float("nan"), 1.0]])
def test_bad_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"[Ww]eights"):
        ensembles.weighted_mean([np.zeros((2, 2, 2))] * 2, weights)


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        ensembles.stack([np.zeros((2, 2, 2)), np.zeros((2, 2, 3))])
    with pytest.raises(ValueError, match="one or more"):
        ensembles.union([])


@pytest.mark.parametrize(("window", "share", "stride"), [(2, 0.5, 3), (2, 0.5, 0), (2, 1.0, 1)])
def test_impossible_windows_are_refused(window: int, share: float, stride: int) -> None:
    with pytest.raises(ValueError, match="must lie"):
        ensembles.agreement_window([np.zeros((3, 3, 3))], window, share, stride)


@CALM
@given(seed=st.integers(0, 10_000), members=st.integers(2, 5))
def test_disagreement_is_numpys_deviation(seed: int, members: int) -> None:
    maps = np.random.default_rng(seed).random((members, 3, 4, 2))
    got = ensembles.disagreement(list(maps))
    np.testing.assert_allclose(got, maps.std(0), atol=1e-6)
    assert got.max() <= 0.5


def test_one_member_cannot_disagree() -> None:
    with pytest.raises(ValueError, match="two members"):
        ensembles.disagreement([np.zeros((2, 2, 2))])


def test_members_that_see_a_lesion_are_counted() -> None:
    labels = np.zeros((20, 2, 1), np.int16)
    labels[:10, 0, 0], labels[10:, 1, 0] = 1, 2
    sees_one = np.zeros(labels.shape, bool)
    sees_one[0, 0, 0] = True  # just a tenth of lesion 1
    sees_both = labels > 0
    share = ensembles.members_share(labels, [sees_one, sees_both, np.zeros_like(sees_one)])
    np.testing.assert_allclose(share, [2 / 3, 1 / 3])
    assert len(ensembles.members_share(np.zeros_like(labels), [sees_one])) == 0


def test_means_over_lesions() -> None:
    labels = np.array([[[0, 1, 1, 2]]])
    values = np.array([[[9.0, 1.0, 3.0, 5.0]]])
    assert ensembles.lesion_means(labels, values).tolist() == [2.0, 5.0]
