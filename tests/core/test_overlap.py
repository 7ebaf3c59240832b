"""The overlap map: counts by hand, and left and right in its picture."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from bids_stroke.core import mosaic, overlap

SHAPE = (40, 48, 36)
RAS = np.array([[4.0, 0, 0, -78], [0, 4, 0, -94], [0, 0, 4, -70], [0, 0, 0, 1]])


def test_counts_by_hand() -> None:
    masks = [np.zeros((2, 1, 1)), np.array([[[3]], [[0]]]), np.ones((2, 1, 1), bool)]
    counts = overlap.overlap(iter(masks), (2, 1, 1))
    assert counts[:, 0, 0].tolist() == [2, 1]
    assert overlap.overlap([], (2, 1, 1)).sum() == 0


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        overlap.overlap([np.zeros((1, 1, 1))], (2, 1, 1))


def coloured(path: Path) -> np.ndarray:
    """Columns of strongly coloured pixels in the first row of panels."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    spread = pixels.max(axis=2) - pixels.min(axis=2)
    return np.flatnonzero((spread[: pixels.shape[0] // 2] > 90).any(axis=0))


@pytest.mark.parametrize("flipped", [False, True])
def test_the_left_of_the_patient_is_on_the_right(tmp_path: Path, flipped: bool) -> None:
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    brain = np.where((grid**2).sum(axis=0) < 0.8, 500.0, 0.0).astype(np.float32)
    counts = np.zeros(SHAPE, np.uint16)
    counts[8:16, 18:30, 4:32] = 3  # x of -46 to -18 mm: left
    affine = RAS
    if flipped:
        brain, counts = brain[::-1], counts[::-1]
        affine = RAS @ np.diag([-1.0, 1, 1, 1])
        affine[:3, 3] = (RAS @ [SHAPE[0] - 1, 0, 0, 1])[:3]
    path = overlap.overlap_figure(brain, counts, affine, tmp_path / "map.png")
    columns = coloured(path)
    with Image.open(path) as image:
        width = image.size[0]
    assert columns.size
    panels = np.split(columns, np.flatnonzero(np.diff(columns) > 40) + 1)
    assert len(panels) == 4
    gaps = np.diff([panel.mean() for panel in panels])
    first_centre = width / 2 - 1.5 * gaps.mean()
    assert panels[0].mean() > first_centre


def test_gradient_goes_from_dark_to_light() -> None:
    stops = overlap.scale_colours()
    lightness = [sum(int(stop[i : i + 2], 16) for i in (1, 3, 5)) for stop in stops]
    assert lightness == sorted(lightness)


@pytest.mark.parametrize("most", [1, 2, 40])
def test_one_person_has_the_first_colour_and_most_people_the_last(most: int) -> None:
    counts = np.zeros((8, 8, 8), np.uint16)
    counts[1, 4, 4], counts[6, 4, 4] = 1, most
    view = mosaic.view_of(np.eye(4), np.ones((8, 8, 8), bool))
    painted = overlap._painted(np.ones((8, 8, 8)), counts, view, "axial", 4)
    found = {mpl.colors.to_hex(pixel) for pixel in painted.reshape(-1, 3)}
    first, last = overlap.scale_colours()[0], overlap.scale_colours()[-1]
    assert first in found and (last in found) == (most > 1)


def test_the_peak_is_in_the_middle_of_what_most_share() -> None:
    counts = np.zeros((9, 9, 9), np.uint16)
    counts[0, 0, 0], counts[3:8, 4, 4] = 1, 2
    assert overlap.peak(counts) == (5, 4, 4)
