"""Brain masks: cleaning, flags, and telling a bare brain from a head."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_stroke.core import brain

AFFINE = np.diag([4.0, 4, 4, 1])


def ball(shape: tuple[int, int, int], radius_mm: float, centre: float = 0.5) -> np.ndarray:
    grid = np.stack(np.indices(shape), -1) - (np.array(shape) - 1) * (0.5, 0.5, centre)
    return np.linalg.norm(grid, axis=-1) * 4 < radius_mm


def test_cleaning_keeps_the_largest_part_and_fills_it() -> None:
    mask = np.zeros((12, 12, 12))
    mask[2:9, 2:9, 2:9] = 5
    mask[5, 5, 5] = 0
    mask[10, 10, 10] = mask[9, 9, 9] = 1
    expected = np.zeros(mask.shape, np.uint8)
    expected[2:9, 2:9, 2:9] = 1
    np.testing.assert_array_equal(brain.clean_mask(mask), expected)
    assert brain.clean_mask(mask).dtype == np.uint8
    assert not brain.clean_mask(np.zeros((3, 3, 3))).any()


def test_volume_in_ml() -> None:
    assert brain.volume_ml(np.ones((10, 10, 10)), AFFINE) == pytest.approx(64)


@pytest.mark.parametrize(
    "radius, words",
    [(68, []), (45, ["outside 700"]), (88, ["to 2200"])],
    ids=["normal", "small", "large"],
)
def test_volume_flags(radius: float, words: list[str]) -> None:
    flags = brain.brain_flags(ball((50, 50, 50), radius), AFFINE)
    assert len(flags) == len(words)
    assert all(word in flag for word, flag in zip(words, flags, strict=True))


def test_a_cut_brain_is_flagged_with_its_side() -> None:
    mask = ball((50, 50, 50), 68)
    (flag,) = brain.brain_flags(mask[:, :, 15:], AFFINE)
    assert "(inferior)" in flag
    (flag,) = brain.brain_flags(mask[:38], AFFINE)
    assert "(right)" in flag


def test_a_bare_brain_is_told_from_a_head() -> None:
    noise = np.random.default_rng(0).uniform(50, 100, (60, 60, 60))
    bare = np.where(ball(noise.shape, 68), noise, 0)
    bare[30, 30, 30] = 0
    assert brain.looks_skull_stripped(bare, AFFINE)
    np.testing.assert_array_equal(brain.nonzero_mask(bare), ball(noise.shape, 68))
    assert brain.looks_skull_stripped(np.where(bare, bare - 75, 0), AFFINE)
    assert not brain.looks_skull_stripped(noise, AFFINE)
    head = np.where(ball(noise.shape, 105), noise, 0)
    assert not brain.looks_skull_stripped(head, AFFINE)
    neck = bare.copy()
    neck[20:40, 20:40, :25] = 60
    assert not brain.looks_skull_stripped(neck, AFFINE)
    assert not brain.looks_skull_stripped(np.zeros_like(bare), AFFINE)


def test_real_scans_are_told_apart(real_data: Path) -> None:
    stripped = sorted((real_data / "ms_mni").glob("patient26_[TF]*.nii.gz"))
    raw = sorted((real_data / "ms_raw").glob("sub-*/ses-*/anat/*.nii.gz"))
    assert len(stripped) == 2
    assert len(raw) == 6
    for path in (*stripped, *raw):
        image = nib.load(path)
        data = image.get_fdata(dtype=np.float32)
        assert brain.looks_skull_stripped(data, image.affine) == (path in stripped), path.name
