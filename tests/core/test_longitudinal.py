"""Lesions of two sessions, placed by hand."""

import numpy as np
import pandas as pd
import pytest

from bids_stroke.core import longitudinal

SHAPE = (30, 20, 10)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])  # 2 mm3 a voxel
VOXEL_ML = 0.002


def boxes(*places: tuple[slice, slice, slice]) -> np.ndarray:
    labels = np.zeros(SHAPE, np.int16)
    for number, place in enumerate(places, 1):
        labels[place] = number
    return labels


def box(x: int, size: int, y: int = 2) -> tuple[slice, slice, slice]:
    return slice(x, x + size), slice(y, y + 4), slice(2, 4)


def told(before: np.ndarray, after: np.ndarray, floor: float = 0.0, **options: float) -> dict:
    """Fates by the labels of both sessions, without noise of the threshold."""
    volumes = tuple(longitudinal.label_volumes(each, AFFINE) for each in (before, after))
    noise = tuple(np.zeros(len(each)) for each in volumes)
    table = longitudinal.compare(
        before, after, AFFINE, volumes, noise, smallest_ml=floor, **options
    )
    return {(row.before, row.after): row.fate for row in table.itertuples()}


def test_new_resolved_grown_shrunken_and_stable() -> None:
    before = boxes(box(0, 3), box(6, 3), box(12, 3), box(18, 3))
    after = boxes(box(6, 4), box(12, 2), box(18, 3), box(25, 2))
    assert told(before, after) == {
        ("1", None): "resolved",
        ("2", "1"): "grown",
        ("3", "2"): "shrunken",
        ("4", "3"): "stable",
        (None, "4"): "new",
    }


def test_lesions_that_merge_or_split_are_one_group() -> None:
    parts, whole = boxes(box(2, 3), box(7, 3)), boxes(box(2, 8))
    assert told(parts, whole) == {("1,2", "1"): "grown"}
    assert told(whole, parts) == {("1", "1,2"): "shrunken"}


def test_volumes_and_floor_decide() -> None:
    before, after = boxes(box(2, 5)), boxes(box(2, 6))  # 40 and 48 voxels: .08 and .096 mL
    assert told(before, after, floor=0.0159) == {("1", "1"): "grown"}
    assert told(before, after, floor=0.0161) == {("1", "1"): "stable"}


def test_a_gap_is_bridged_up_to_the_tolerance() -> None:
    before, after = boxes(box(2, 3)), boxes(box(7, 3))  # centres of the nearest voxels: 3 mm
    assert len(told(before, after, tolerance_mm=2.9)) == 2
    assert told(before, after, tolerance_mm=3.0) == {("1", "1"): "stable"}
    across = boxes((slice(2, 5), slice(2, 6), slice(5, 6)))  # 2 slices of 2 mm away
    assert len(told(before, across, tolerance_mm=3.9)) == 2
    assert len(told(before, across, tolerance_mm=4.0)) == 1


def test_no_lesion_at_all() -> None:
    empty = boxes()
    assert told(empty, empty) == {}
    assert told(empty, boxes(box(2, 3))) == {(None, "1"): "new"}
    assert told(boxes(box(2, 3)), empty) == {("1", None): "resolved"}


def test_a_lesion_lost_in_carrying_over_is_not_forgotten() -> None:
    """A later lesion of two voxels may fall between the voxels of the earlier grid."""
    table = longitudinal.compare(
        boxes(), boxes(), AFFINE, ({}, {1: 0.01}), (np.zeros(0), np.zeros(1)), smallest_ml=0
    )
    assert table["fate"].tolist() == ["new"]


def test_noise_of_the_threshold_by_hand() -> None:
    """A lesion of 4 sure voxels and 2 unsure ones, 3 that almost are: (2 + 3) / 2 voxels."""
    probability = np.zeros((20, 3, 3))
    probability[:9, 1, 1] = [0.45] * 3 + [0.9] * 4 + [0.55] * 2
    probability[15, 1, 1] = 0.45  # touches nothing
    labels = (probability >= 0.5).astype(int)
    noise = longitudinal.threshold_noise(labels, probability, 0.5, VOXEL_ML)
    assert noise == pytest.approx([2.5 * VOXEL_ML])
    assert longitudinal.threshold_noise(labels * 0, probability, 0.5, VOXEL_ML).size == 0


def test_voxels_between_two_lesions_go_to_the_nearer() -> None:
    probability = np.full((12, 1, 1), 0.45)
    labels = np.zeros((12, 1, 1), int)
    labels[0], labels[9:] = 1, 2
    probability[labels > 0] = 0.9
    noise = longitudinal.threshold_noise(labels, probability, 0.5, 1.0)
    assert noise == pytest.approx([2, 2])


def test_floors_add_in_squares() -> None:
    assert longitudinal.noise_floor(np.array([1.0, 2.0]), np.array([4.0]), 0.06) == 5
    assert longitudinal.noise_floor(np.zeros(0), np.array([0.01]), 0.06) == 0.06


def test_totals() -> None:
    rows = [
        ["new", None, "1", 0.0, 3.0, 3.0, 0.3, True],
        ["resolved", "1", None, 2.0, 0.0, -2.0, 0.4, True],
        ["stable", "2", "2", 5.0, 5.1, 0.1, 1.2, False],
    ]
    table = pd.DataFrame(rows, columns=list(longitudinal.CHANGE_COLUMNS))
    values = longitudinal.totals(table)
    assert (values["n_new"], values["n_resolved"], values["n_grown"], values["n_stable"]) == (
        (1, 1, 0, 1)
    )
    assert (values["new_ml"], values["resolved_ml"]) == (3, 2)
    assert (values["volume_before_ml"], values["volume_after_ml"]) == pytest.approx((7, 8.1))
    assert values["change_ml"] == pytest.approx(1.1)
    assert values["noise_floor_ml"] == pytest.approx(1.3)
    assert not values["beyond_noise"]
