"""From probability to lesions: limits in mm3, connectivity, numbering and the table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import measure

from bids_stroke.core import lesions

UNIT = np.eye(4)
POINT = {"threshold": 0.5, "min_volume_mm3": 0.0}


def probability(*blocks: tuple[slice, slice, slice]) -> np.ndarray:
    volume = np.zeros((12, 12, 12), dtype=np.float32)
    for block in blocks:
        volume[block] = 0.9
    return volume


def block(start: int, size: int) -> tuple[slice, slice, slice]:
    return (slice(start, start + size),) * 3


def test_minimum_is_in_mm3_of_the_grid() -> None:
    volume = probability(
        (slice(0, 5), slice(0, 1), slice(0, 1)), (slice(7, 12), *[slice(8, 9)] * 2)
    )
    volume[0, 1, 0] = 0.9
    affine = np.diag([0.75, 0.75, 3.3, 1])  # 1.856 mm3: 10 mm3 are 6 voxels, not 5
    labels = lesions.segment(volume, affine, threshold=0.5, min_volume_mm3=10)
    assert labels.max() == 1
    assert np.count_nonzero(labels) == 6


@pytest.mark.parametrize(("inclusive", "kept"), [(True, 8), (False, 0)])
def test_both_limits_are_inclusive_or_strict(inclusive: bool, kept: int) -> None:
    volume = probability(block(2, 2))
    labels = lesions.segment(volume, UNIT, threshold=0.5, min_volume_mm3=8.0, inclusive=inclusive)
    assert np.count_nonzero(labels) == kept
    edge = np.where(volume > 0, np.float32(0.5), 0)
    labels = lesions.segment(edge, UNIT, threshold=0.5, min_volume_mm3=1.0, inclusive=inclusive)
    assert np.count_nonzero(labels) == kept


@pytest.mark.parametrize(("connectivity", "count"), [(26, 1), (18, 2), (6, 3)])
def test_connectivity(connectivity: int, count: int) -> None:
    volume = np.zeros((6, 6, 6))
    volume[1, 1, 1] = volume[2, 2, 2] = volume[2, 3, 3] = 1  # a corner, then an edge
    labels = lesions.segment(volume, UNIT, **POINT, connectivity=connectivity)
    assert labels.max() == count


def test_numbered_by_decreasing_volume() -> None:
    labels = lesions.segment(probability(block(0, 2), block(4, 4), block(9, 3)), UNIT, **POINT)
    assert [labels[5, 5, 5], labels[10, 10, 10], labels[0, 0, 0]] == [1, 2, 3]


def test_empty_map_gives_an_empty_table() -> None:
    labels = lesions.segment(np.zeros((4, 4, 4)), UNIT, **POINT)
    rows = lesions.table(labels, np.zeros((4, 4, 4)), UNIT)
    assert not labels.any()
    assert rows.empty
    assert list(rows.columns) == list(lesions.COLUMNS)


def test_side_and_centroid_follow_the_affine() -> None:
    flipped = np.diag([-2.0, 1, 1, 1])
    flipped[:3, 3] = [11, -5, -5]
    volume = probability(block(1, 3))
    rows = lesions.table(lesions.segment(volume, flipped, **POINT), volume, flipped)
    assert rows.loc[0, ["centroid_x", "centroid_y", "centroid_z"]].tolist() == [7, -3, -3]
    assert rows.loc[0, "side"] == "right"
    assert rows.loc[0, "volume_mm3"] == 54
    moved = lesions.table(
        lesions.segment(volume, flipped, **POINT), volume, flipped, midline_x_mm=20
    )
    assert moved.loc[0, "side"] == "left"
    middle = lesions.table(
        lesions.segment(volume, flipped, **POINT), volume, flipped, midline_x_mm=6
    )
    assert middle.loc[0, "side"] == "midline"


maps = st.integers(0, 2**32 - 1).map(
    lambda seed: ndimage.gaussian_filter(np.random.default_rng(seed).random((14, 12, 10)), 1)
)


@settings(max_examples=30, deadline=None)
@given(volume=maps, quantile=st.floats(0.5, 0.99), minimum=st.floats(0, 60))
def test_agrees_with_scikit_image(volume: np.ndarray, quantile: float, minimum: float) -> None:
    affine = np.diag([1.5, 0.8, 2.0, 1.0])
    threshold = float(np.quantile(volume, quantile))
    labels = lesions.segment(volume, affine, threshold=threshold, min_volume_mm3=minimum)
    peers = measure.regionprops(measure.label(volume >= threshold, connectivity=3))
    expected = sorted((p.area * 2.4 for p in peers if p.area * 2.4 >= minimum), reverse=True)
    rows = lesions.table(labels, volume, affine)
    assert np.allclose(rows["volume_mm3"], expected)
    assert rows["volume_mm3"].sum() == pytest.approx(np.count_nonzero(labels) * 2.4)
    assert (rows["max_probability"] >= rows["mean_probability"]).all()
