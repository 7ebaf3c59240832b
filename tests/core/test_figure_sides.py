"""One phantom, checked in every picture: a lesion on the patient's left and a marker in the T1w."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from bids_stroke.core import figures, overlap

SHAPE = (60, 60, 44)
AFFINE = np.array([[-3.0, 0, 0, 88], [0, 3, 0, -88], [0, 0, 3, -66], [0, 0, 0, 1]])
LESION, MARKER = (-36.0, 24.0, 12.0), (-34.0, -22.0)
ORANGE = (0xE6, 0x9F, 0x00)

Head = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def ball(centre: tuple[float, ...], radius: float) -> np.ndarray:
    """Voxels within ``radius`` mm of a place in RAS+ mm, of x, y and z or of the first ones."""
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    place = nib.affines.apply_affine(AFFINE, voxels)[..., : len(centre)]
    return np.linalg.norm(place - centre, axis=-1) < radius


def head(code: str = "LAS") -> Head:
    """T1w, brain, lesion and affine in a storage order; lesion and marker are to the left."""
    brain = ball((0, 0, 0), 62.0)
    lesion = ball(LESION, 9.0)
    image = np.where(brain, 100.0, 0.0).astype(np.float32)
    image[ball(MARKER, 12.0) & brain] = 400.0  # a rod from bottom to top
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(code)
    )
    turned = [
        nib.Nifti1Image(a.astype(np.float32), AFFINE).as_reoriented(turn)
        for a in (image, brain, lesion)
    ]
    t1w, inside, ill = (np.asarray(one.dataobj) for one in turned)
    return t1w, inside > 0, (ill > 0).astype(np.int16), turned[0].affine


def coloured(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def near(pixels: np.ndarray, colour: tuple[int, int, int], reach: int = 40) -> np.ndarray:
    return (np.abs(pixels - colour) < reach).all(axis=-1)


def bright(pixels: np.ndarray) -> np.ndarray:
    """Where the marker is: grey and much brighter than the brain; letters are thinner."""
    from scipy import ndimage

    return ndimage.binary_opening(pixels.min(axis=-1) > 200, np.ones((9, 9)))


def sides(hit: np.ndarray, width: int, panels: int) -> list[float]:
    """Mean place of what was hit in each panel of a row, 0 (left) to 1 (right); misses left out."""
    edges = np.linspace(0, width, panels + 1).astype(int)
    columns = [np.nonzero(hit[:, a:b])[1] / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    return [float(c.mean()) for c in columns if c.size > 20]


def first_row(pixels: np.ndarray, share: float) -> np.ndarray:
    return pixels[: round(pixels.shape[0] * share)]


def n4(path: Path, t1w: np.ndarray, brain: np.ndarray, _: np.ndarray, affine: np.ndarray) -> Path:
    field = np.where(t1w > 200, 0.9, 1.0)
    others = path.with_name("n4-before.png"), path.with_name("n4-field.png")
    figures.n4_figure(t1w * field, t1w, brain, affine, others[0], path, others[1])
    return path


def n4_before(path: Path, *of: np.ndarray) -> Path:
    n4(path, *of)
    return path.with_name("n4-before.png")


def moved(path: Path, t1w: np.ndarray, _: np.ndarray, __: np.ndarray, affine: np.ndarray) -> Path:
    other = path.with_name("registration-before.png")
    figures.registration_figure(t1w, 0.9 * t1w, t1w, affine, other, path)
    return path


def moved_before(path: Path, *of: np.ndarray) -> Path:
    moved(path, *of)
    return path.with_name("registration-before.png")


def brain_mask(
    path: Path, t1w: np.ndarray, brain: np.ndarray, _: np.ndarray, affine: np.ndarray
) -> Path:
    return figures.brain_mask_figure(t1w, brain, affine, path)


MARKED: dict[str, tuple[Callable[..., Path], float]] = {
    "brain mask": (brain_mask, 0.66),
    "after N4": (n4, 1.0),
    "before N4": (n4_before, 1.0),
    "after registration": (moved, 0.5),
    "before registration": (moved_before, 0.5),
}
"""Pictures of the T1w, and the part of their height that holds rows of four axial slices."""


@pytest.mark.parametrize("code", ["LAS", "PIR"])
@pytest.mark.parametrize("name", MARKED)
def test_the_marker_of_the_left_is_on_the_right(tmp_path: Path, name: str, code: str) -> None:
    draw, share = MARKED[name]
    pixels = first_row(coloured(draw(tmp_path / "a.png", *head(code))), share)
    found = sides(bright(pixels), pixels.shape[1], 4)
    assert found and min(found) > 0.6, found


@pytest.mark.parametrize("code", ["LAS", "PIR"])
def test_the_bias_field_of_the_left_is_on_the_right(tmp_path: Path, code: str) -> None:
    """N4 raised the marker, so that the field is dark there and in the middle elsewhere."""
    n4(tmp_path / "a.png", *head(code))
    pixels = coloured(tmp_path / "n4-field.png")
    dark = near(pixels, (0, 34, 78), 30)  # the lowest of cividis
    found = sides(dark, pixels.shape[1], 4)
    assert found and min(found) > 0.6, found


@pytest.mark.parametrize("code", ["LAS", "PIR"])
@pytest.mark.parametrize("small", [False, True])
def test_the_lesion_of_the_left_is_on_the_right(tmp_path: Path, code: str, small: bool) -> None:
    """In the three planes of a large lesion, and in the small pictures of the others."""
    t1w, brain, lesion, affine = head(code)
    path = figures.lesion_figure(
        {"T1w": t1w},
        lesion,
        lesion.astype(np.float32),
        affine,
        tmp_path / "a.png",
        brain=brain,
        max_lesions=0 if small else 1,
    )
    pixels = coloured(path)
    if small:
        columns = np.nonzero(near(pixels, ORANGE))[1]
        middle = np.median(np.nonzero(near(pixels, (58, 58, 58), 4))[1])
        assert columns.size and columns.min() > middle
        return
    axial, coronal, sagittal = sides(near(pixels, ORANGE), pixels.shape[1], 3)
    assert axial > 0.6 and coronal > 0.6
    assert sagittal < 0.4, "the lesion lies to the front, which is on the left"


@pytest.mark.parametrize("code", ["LAS", "PIR"])
def test_the_overlap_of_the_left_is_on_the_right(tmp_path: Path, code: str) -> None:
    t1w, brain, lesion, affine = head(code)
    background = np.where(brain, 100.0, 0.0)
    path = overlap.overlap_figure(background, lesion * 3, affine, tmp_path / "a.png")
    pixels = first_row(coloured(path), 0.7)
    strong = pixels.max(axis=-1) - pixels.min(axis=-1) > 60
    found = sides(strong, pixels.shape[1], 4)
    assert found and min(found) > 0.6, found
