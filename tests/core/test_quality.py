"""Flags: raised where they must be, silent where all is well."""

import json

import numpy as np
import pytest

from bids_stroke.core import quality
from bids_stroke.core.quality import Flag


def codes(flags: list[Flag]) -> list[str]:
    return [flag.code for flag in flags]


def test_flags_of_earlier_steps_are_warnings() -> None:
    (flag,) = quality.step_flags("brain_mask", ["The mask is small."], "T1w")
    assert flag == Flag("brain_mask", "warning", "T1w: The mask is small.")
    assert quality.step_flags("registration", []) == []


@pytest.mark.parametrize(
    ("count", "volume", "expected"),
    [
        (0, 0.0, ["no_lesion"]),
        (1, 0.02, ["lesion_volume_small"]),
        (3, 12.0, []),
        (2, 401.0, ["lesion_volume_large"]),
    ],
)
def test_lesion_volume(count: int, volume: float, expected: list[str]) -> None:
    assert codes(quality.lesion_volume_flags(count, volume)) == expected


def brain() -> np.ndarray:
    mask = np.zeros((30, 30, 30), np.uint8)
    mask[5:25, 5:25, 5:25] = 1
    return mask


def test_shell_is_as_thick_as_asked() -> None:
    shell = quality.brain_shell(brain(), (1.0, 1.0, 1.0), depth_mm=2.0)
    assert shell[5, 15, 15]
    assert shell[6, 15, 15]
    assert not shell[7, 15, 15]
    assert not shell[4, 15, 15]


def test_a_brain_that_fills_the_array_has_a_shell() -> None:
    shell = quality.brain_shell(np.ones((9, 9, 9)), (1.0, 1.0, 1.0), depth_mm=1.0)
    assert shell[0, 4, 4]
    assert not shell[4, 4, 4]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((slice(14, 16),) * 3, []),
        ((slice(5, 6), slice(10, 20), slice(10, 20)), ["lesion_at_brain_edge"]),
        ((slice(3, 4), slice(10, 12), slice(10, 12)), ["lesion_outside_brain"]),
        ((slice(4, 12), slice(10, 20), slice(10, 20)), ["lesion_outside_brain"]),
    ],
)
def test_edge(place: tuple[slice, ...], expected: list[str]) -> None:
    labels = np.zeros((30, 30, 30), np.int16)
    labels[place] = 1
    assert codes(quality.edge_flags(labels, brain(), (1.0, 1.0, 1.0))) == expected


def test_no_lesion_has_no_edge() -> None:
    assert quality.edge_flags(np.zeros((30, 30, 30), np.int16), brain(), (1, 1, 1)) == []


def test_low_confidence_names_the_lesions() -> None:
    (flag,) = quality.confidence_flags([0.9, 0.4, 0.3])
    assert "2, 3" in flag.message
    assert quality.confidence_flags([0.9]) == []


@pytest.mark.parametrize(
    ("volumes", "flagged"),
    [
        ({"T1w": 10.0, "FLAIR": 10.9}, False),
        ({"T1w": 10.0, "FLAIR": 14.0}, True),
        ({"T1w": 0.1, "FLAIR": 0.3}, False),
        ({"T1w": 10.0}, False),
    ],
)
def test_grids(volumes: dict[str, float], flagged: bool) -> None:
    assert bool(quality.grid_flags(volumes)) is flagged


def test_record_is_json_with_warnings_first() -> None:
    record = quality.qc_record(
        label="sub-01",
        entities={"subject": "01"},
        inputs={"T1w": {"file": "a"}},
        reason="",
        reference="T1w",
        registration=None,
        model={"name": "m"},
        lesions={"T1w": {"count": 0, "volume_ml": 0.0}},
        flags=[Flag("a", "note", "A."), Flag("b", "warning", "B.")],
        versions={},
    )
    assert [flag["code"] for flag in record["flags"]] == ["b", "a"]
    assert json.loads(json.dumps(record)) == record
