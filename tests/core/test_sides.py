"""Sides: a lesion on its place, on the mirror place, on the midline and in thick noise."""

import numpy as np
import pytest

from bids_stroke.core.sides import FLIPPED_SD, mirror_contrast, outside_share


@pytest.fixture
def head():
    """A noisy box of brain, off the centre of the field of view, with a dark lesion on one side."""
    rng = np.random.default_rng(0)
    brain = np.zeros((40, 30, 30), bool)
    brain[8:36, 4:26, 4:26] = True
    image = np.where(brain, rng.normal(100, 10, brain.shape), 0)
    lesion = np.zeros_like(brain)
    lesion[10:16, 10:16, 10:16] = True
    image[lesion] -= 40
    return image, brain, lesion


def _mirrored(mask):
    out = np.zeros_like(mask)
    out[8:36] = mask[8:36][::-1]
    return out


def test_the_right_side_looks_ill(head):
    assert mirror_contrast(*head) > 2


def test_a_flipped_mask_is_seen(head):
    image, brain, lesion = head
    assert mirror_contrast(image, brain, _mirrored(lesion)) < -FLIPPED_SD


def test_bright_lesions_of_the_flair(head):
    image, brain, lesion = head
    assert mirror_contrast(200 - image, brain, lesion, bright=True) > FLIPPED_SD
    assert mirror_contrast(200 - image, brain, lesion) < -FLIPPED_SD


def test_no_answer_on_the_midline_or_without_a_brain(head):
    image, brain, lesion = head
    both = lesion | _mirrored(lesion)
    assert mirror_contrast(image, brain, both) is None
    assert mirror_contrast(image, np.zeros_like(brain), lesion) is None
    assert mirror_contrast(np.ones_like(image), brain, lesion) is None


def test_share_outside(head):
    _, brain, lesion = head
    assert outside_share(brain, lesion) == 0
    assert outside_share(~brain, lesion) == 1
    assert outside_share(brain, np.zeros_like(brain)) == 0
