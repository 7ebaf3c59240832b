"""Panels: what is cut lies on the right side, in the right shape, with its outline around it."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from bids_stroke.core import mosaic
from bids_stroke.core.geometry import to_ras
from tests.core.test_figures import phantom, stored_as

ORIENTATIONS = [
    "".join(code) for order in permutations(("RL", "AP", "SI")) for code in product(*order)
]
OBLIQUE = nib.eulerangles.euler2mat(0.15, -0.1, 0.2)


def brightest(pixels: np.ndarray) -> tuple[float, float]:
    """Row and column (0 to 1) of the middle of the brightest pixels."""
    rows, columns = np.nonzero(pixels > 0.9)
    return rows.mean() / pixels.shape[0], columns.mean() / pixels.shape[1]


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("code", ORIENTATIONS)
def test_right_of_the_patient_is_left_in_the_picture(code: str, oblique: bool) -> None:
    image, affine = phantom()
    if oblique:
        affine[:3, :3] = OBLIQUE @ affine[:3, :3]
    turned, turned_affine = stored_as(code, image, affine)
    ras, ras_affine = to_ras(turned, turned_affine)
    np.testing.assert_array_equal(ras, image)
    view = mosaic.view_of(ras_affine, ras > 50).fitted(["axial"], width=160)
    for plane, index in (("axial", 17), ("coronal", 35), ("sagittal", 37)):
        row, column = brightest(mosaic.grey(ras, view, plane, index, (0, 300)))
        assert column < 0.4, f"right (or front) must be on the left of a {plane} panel"
        assert row < 0.4, f"top (or front) must be at the top of a {plane} panel"


def test_pixels_are_square_in_mm() -> None:
    image, affine = phantom()
    view = mosaic.view_of(affine, image > 0, margin_mm=0).fitted(["axial"])
    height, width = view.pixels("axial")
    assert height / width == pytest.approx(38 * 4 / (40 * 3), rel=0.02)
    height, width = view.pixels("coronal")
    assert height / width == pytest.approx(18 * 6 / (40 * 3), rel=0.02)


def test_enlarge_keeps_the_place_of_voxels() -> None:
    piece = np.zeros((4, 6), np.float32)
    piece[1, 4] = 1
    large = mosaic.enlarge(piece, (40, 60), order=0)
    rows, columns = np.nonzero(large)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 19, 40, 49)


def test_outline_surrounds_the_enlarged_mask() -> None:
    piece = np.zeros((4, 6), bool)
    piece[1, 4] = True
    (line,) = mosaic._polygons(mosaic.Outline(piece, "red"), (40, 60))
    assert line.min(axis=0) == pytest.approx([40, 10], abs=5)
    assert line.max(axis=0) == pytest.approx([50, 20], abs=5)
    assert line.mean(axis=0) == pytest.approx([45, 15], abs=1.1)
