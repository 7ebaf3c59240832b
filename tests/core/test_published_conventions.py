"""Four published conventions of lesion-wise scores on cases counted by hand, where they differ.

Boxes are ``x from, x to, y from, y to``, all 4 voxels deep, so areas stand for volumes.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from bids_stroke.core.lesionwise import lesionwise
from tests.core.masks import boxes

RULES = ("onevoxel", "overlap10", "anima", "iou25")

# 8 of 80 voxels of each lie in the other: exactly 10 %, and an IoU of 8 / 152
TENTH = ([(0, 10, 0, 8)], [(9, 19, 0, 8)])
# all 16 voxels are found, by a lesion of 160 that lies outside with nine tenths of itself
SPILL = ([(0, 2, 0, 8)], [(0, 20, 0, 8)])
# two lesions of 32 found by one of 80: IoU .4 with each
MERGE = ([(0, 4, 0, 8), (6, 10, 0, 8)], [(0, 10, 0, 8)])
# 4 of 80 voxels, found by a lesion of 8 that lies inside with one half
GRAZE = ([(0, 10, 0, 8)], [(9, 11, 0, 4)])

SCORES = {  # sensitivity, PPV and F1 by each of RULES
    "tenth": (TENTH, [(1, 1, 1), (1, 1, 1), (0, 0, 0), (0, 0, 0)]),
    "spill": (SPILL, [(1, 1, 1), (1, 1, 1), (0, 0, 0), (0, 0, 0)]),
    "merge": (MERGE, [(1, 1, 1), (1, 1, 1), (1, 1, 1), (1 / 2, 1, 2 / 3)]),
    "graze": (GRAZE, [(1, 1, 1), (0, 1, 0), (0, 0, 0), (0, 0, 0)]),
}


def scores(values: dict[str, float]) -> NDArray:
    """A row a rule: sensitivity, PPV, F1."""
    names = ("sensitivity", "ppv", "f1")
    return np.array([[values[f"lesion_{name}_{rule}"] for name in names] for rule in RULES])


@pytest.mark.parametrize("case", list(SCORES))
def test_one_case(case: str) -> None:
    (reference, predicted), expected = SCORES[case]
    assert scores(lesionwise(boxes(*reference), boxes(*predicted))) == pytest.approx(
        np.array(expected)
    )


def test_one_brain_has_four_scores() -> None:
    """The four cases side by side: five reference lesions, four predicted ones."""
    reference, predicted = [], []
    for start, (truth, found) in enumerate((TENTH, SPILL, MERGE, GRAZE)):
        reference += [(x0 + 25 * start, x1 + 25 * start, *y) for x0, x1, *y in truth]
        predicted += [(x0 + 25 * start, x1 + 25 * start, *y) for x0, x1, *y in found]
    values = lesionwise(boxes(*reference, length=100), boxes(*predicted, length=100))
    assert (values["reference_lesions"], values["predicted_lesions"]) == (5, 4)
    assert scores(values) == pytest.approx(
        np.array([(1, 1, 1), (4 / 5, 1, 8 / 9), (2 / 5, 1 / 4, 4 / 13), (1 / 5, 1 / 4, 2 / 9)])
    )


@pytest.mark.parametrize(("end", "found"), [(12, 1), (11, 0)])
def test_anima_stops_at_65_percent(end: int, found: int) -> None:
    """A second lesion that spills over spoils a detection only while it is looked at.

    It holds 48 voxels of the overlap and lies outside with 160 of its 208. The first holds 96 of
    144 (.667: enough) or 88 of 136 (.647: the second is looked at).
    """
    reference = boxes((0, 20, 0, 8))
    predicted = boxes((0, end, 0, 8), (14, 40, 0, 8))
    assert lesionwise(reference, predicted)["lesion_sensitivity_anima"] == found


def test_anima_bears_seven_tenths_outside() -> None:
    """Exactly .7 outside passes, a voxel's column more does not."""
    reference = boxes((0, 3, 0, 8))
    assert lesionwise(reference, boxes((0, 10, 0, 8)))["lesion_sensitivity_anima"] == 1
    wider = boxes((0, 10, 0, 8), (10, 11, 0, 1))
    assert lesionwise(reference, wider)["lesion_sensitivity_anima"] == 0


def test_a_pair_is_made_at_a_quarter() -> None:
    """IoU 16 / 64 is a pair, 16 / 65 columns is none."""
    reference = boxes((0, 5, 0, 8))
    assert lesionwise(reference, boxes((3, 8, 0, 8)))["lesion_f1_iou25"] == 1
    wider = boxes((3, 8, 0, 8), (8, 9, 0, 1))
    assert lesionwise(reference, wider)["lesion_f1_iou25"] == 0
