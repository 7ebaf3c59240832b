"""The average head: solids, shells, and what lies where."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bids_stroke.core.head import Capsule, Ellipsoid, Head, Tissue, average_head

numbers = st.floats(-40, 40)
points = st.tuples(numbers, numbers, numbers)


@pytest.fixture(scope="module")
def head() -> Head:
    return average_head(3.0)


def at(head: Head, *mm: float) -> Tissue:
    index = np.rint(np.linalg.inv(head.affine) @ [*mm, 1.0])[:3].astype(int)
    return Tissue(head.labels[tuple(np.clip(index, 0, np.array(head.shape) - 1))])


@settings(max_examples=30, deadline=None)
@given(centre=points, point=points, radius=st.floats(1, 20))
def test_distance_to_a_sphere_is_exact(centre, point, radius) -> None:
    sphere = Ellipsoid(centre, (radius,) * 3)
    distance = sphere.distance([np.array(p) for p in point])
    expected = np.linalg.norm(np.subtract(point, centre)) - radius
    if expected > 1e-3 - radius:
        assert distance == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(start=points, end=points, point=points, radius=st.floats(0.5, 10))
def test_distance_to_a_capsule_is_that_to_its_nearest_point(start, end, point, radius) -> None:
    if np.linalg.norm(np.subtract(start, end)) < 1:
        return
    line = np.linspace(start, end, 4001)
    expected = np.linalg.norm(line - point, axis=1).min() - radius
    distance = Capsule(start, end, radius).distance([np.array(p) for p in point])
    assert distance == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    "solid", [Ellipsoid((5, -3, 2), (4, 9, 2)), Capsule((0, 3, 1), (8, -6, 5), 2.5)]
)
def test_bounds_hold_the_solid_and_mirroring_mirrors(solid) -> None:
    grid = np.mgrid[-20:21, -20:21, -20:21].astype(float)
    inside = solid.distance(list(grid)) < 0
    found = grid[:, inside]
    low, high = solid.bounds()
    assert inside.sum() > 50
    assert (found.min(axis=1) >= low).all()
    assert (found.max(axis=1) <= high).all()
    np.testing.assert_array_equal(solid.mirrored().distance(list(grid)) < 0, inside[::-1])


def test_every_tissue_is_there(head: Head) -> None:
    assert set(np.unique(head.labels)) == set(Tissue)


def test_brain_has_the_volume_of_the_template(head: Head) -> None:
    assert 1.75e6 < head.brain.sum() * 27 < 2.0e6
    assert ndimage.label(head.brain)[1] == 1


def test_fractions_are_fractions(head: Head) -> None:
    assert head.grey.min() >= 0
    assert head.white.min() >= 0
    assert (head.grey + head.white)[head.brain].max() <= 1.01


def test_brain_touches_neither_air_nor_scalp(head: Head) -> None:
    around = ndimage.binary_dilation(head.brain) & ~head.brain
    scalp = (Tissue.AIR, Tissue.FAT, Tissue.MUSCLE, Tissue.SKIN, Tissue.MUCOSA)
    assert not np.isin(head.labels[around], scalp).any()


@pytest.mark.parametrize("way", [(1, 0, 0.1), (-1, 0, 0.1), (0, 0, 1), (0, -1, 0.3), (0.5, 0.5, 1)])
def test_shells_follow_each_other_from_the_brain_outwards(head: Head, way) -> None:
    steps = np.arange(30, 125, 0.5)
    fine = [at(head, *(np.array(way) * step + (0, -10, 10))) for step in steps]
    first = [fine.index(t) for t in (Tissue.BRAIN, Tissue.BONE, Tissue.FAT, Tissue.AIR)]
    assert first == sorted(first)
    assert fine[-1] is Tissue.AIR


@pytest.mark.parametrize("side", [-1, 1])
def test_landmarks(head: Head, side: int) -> None:
    assert at(head, side * 33, 66, -36) is Tissue.VITREOUS
    assert at(head, side * 28, 56, -66) is Tissue.AIR
    assert at(head, 0, -51, -100) is Tissue.CORD
    assert at(head, 0, 104, 60) is Tissue.AIR


def test_is_built_once() -> None:
    assert average_head(3.0) is average_head(3.0)
