"""Figures: what is drawn is on the right side, in the right shape, and small."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from bids_stroke.core import figures, mosaic


def phantom() -> tuple[np.ndarray, np.ndarray]:
    """A RAS head with a bright blob to the right, front and top; voxels of 3 x 4 x 6 mm."""
    image = np.zeros((48, 46, 24), np.float32)
    image[4:44, 4:42, 3:21] = 100.0
    image[34:40, 32:38, 15:19] = 300.0
    affine = np.diag([3.0, 4.0, 6.0, 1.0])
    affine[:3, 3] = (-72, -92, -72)
    return image, affine


def stored_as(code: str, image: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same head in another storage order."""
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(code)
    )
    moved = nib.Nifti1Image(image, affine).as_reoriented(turn)
    return np.asarray(moved.dataobj), moved.affine


def colours(path: Path) -> np.ndarray:
    """Pixels of a picture file as signed RGB."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_letters_and_blob_in_the_finished_picture(tmp_path: Path) -> None:
    image, affine = phantom()
    path = figures.brain_mask_figure(image, image > 50, affine, tmp_path / "brain.png")
    pixels = colours(path)
    blue = (np.abs(pixels - [0x56, 0xB4, 0xE9]) < 25).all(axis=-1)
    assert blue.sum() > 1000
    bright = (pixels.min(axis=-1) > 240).nonzero()
    assert len(bright[0]) > 500


def test_blob_is_left_of_the_middle_of_its_panel(tmp_path: Path) -> None:
    image, affine = phantom()
    labels = (image > 200).astype(np.int16)
    turned, turned_affine = stored_as("LIP", image, affine)
    turned_labels, _ = stored_as("LIP", labels, affine)
    path = figures.lesion_figure(
        {"T1w": turned}, turned_labels, None, turned_affine, tmp_path / "lesion.png"
    )
    pixels = colours(path)
    orange = (np.abs(pixels - [0xE6, 0x9F, 0x00]) < 30).all(axis=-1)
    columns = np.nonzero(orange)[1]
    axial = columns[columns < pixels.shape[1] / 3]  # the first of three panels
    assert 0 < axial.mean() < pixels.shape[1] / 6


def test_each_lesion_is_cut_where_it_is_largest() -> None:
    lesion = np.zeros((10, 10, 10), bool)
    lesion[2:8, 2:8, 6] = True
    lesion[4, 4, 6:9] = True
    assert figures.largest_section(lesion, "axial") == 6
    assert figures.largest_section(lesion, "sagittal") == 4


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_no_lesion_gives_a_picture_too(tmp_path: Path, suffix: str) -> None:
    image, affine = phantom()
    path = figures.lesion_figure(
        {"FLAIR": image}, np.zeros(image.shape, np.int16), None, affine, tmp_path / f"a{suffix}"
    )
    assert colours(path).shape[1] >= mosaic.MIN_WIDTH


def test_many_lesions_stay_one_small_picture(tmp_path: Path) -> None:
    image, affine = phantom()
    labels = np.zeros(image.shape, np.int16)
    spots = [(x, y, z) for x in range(6, 42, 6) for y in range(6, 40, 6) for z in (5, 12)][:60]
    for number, spot in enumerate(spots, 1):
        labels[spot] = number
    path = figures.lesion_figure(
        {"T1w": image, "FLAIR": image}, labels, labels > 0, affine, tmp_path / "many.webp"
    )
    assert path.stat().st_size < 300_000
    limited = figures.lesion_figure(
        {"T1w": image}, labels, None, affine, tmp_path / "few.webp", max_lesions=2
    )
    assert colours(limited).shape[0] < colours(path).shape[0]
    assert figures._rest(labels, mosaic.view_of(affine, labels > 0), 12).startswith("and 48 ")


def test_plain_lesion_figure_has_no_lines(tmp_path: Path) -> None:
    image, affine = phantom()
    labels = (image > 200).astype(np.int16)
    orange = {}
    for outlined in (True, False):
        path = tmp_path / f"{outlined}.png"
        figures.lesion_figure({"T1w": image}, labels, None, affine, path, outlined=outlined)
        pixels = colours(path)
        orange[outlined] = (np.abs(pixels - [0xE6, 0x9F, 0x00]) < 30).all(axis=-1).sum()
    assert orange[True] > 100
    assert orange[False] == 0


def test_registration_pictures_show_the_same_slices(tmp_path: Path) -> None:
    image, affine = phantom()
    paths = tmp_path / "before.png", tmp_path / "after.png"
    figures.registration_figure(image, np.roll(image, 4, axis=0), image, affine, *paths)
    before, after = (colours(p) for p in paths)
    assert before.shape == after.shape
    assert (before != after).any()


def test_bias_field_is_recovered(tmp_path: Path) -> None:
    image, affine = phantom()
    field = np.linspace(0.8, 1.2, image.shape[0])[:, None, None]
    found = figures.bias_field(image * field, image, image > 50)
    inside = np.isfinite(found)
    np.testing.assert_array_equal(inside, image > 50)
    ratio = (found / field)[inside]
    assert ratio.std() < 1e-5
    paths = [tmp_path / f"{name}.png" for name in ("before", "after", "field")]
    figures.n4_figure(image * field, image, image > 0, affine, *paths)
    before, after, _ = (colours(path) for path in paths)
    assert before.shape == after.shape, "they lie over each other on the page"
    assert (before != after).any()


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_images_are_drawn(tmp_path: Path, value: float) -> None:
    image = np.full((12, 12, 12), value, np.float32)
    mask = np.zeros(image.shape, np.uint8)
    affine = np.eye(4)
    figures.brain_mask_figure(image, mask, affine, tmp_path / "brain.webp")
    figures.n4_figure(image, image, mask, affine, *(tmp_path / f"n4-{i}.webp" for i in range(3)))
    figures.registration_figure(
        image, image, image, affine, tmp_path / "before.webp", tmp_path / "after.webp"
    )
    assert len(list(tmp_path.iterdir())) == 6
