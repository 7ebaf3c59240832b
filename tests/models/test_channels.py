"""What channels of networks are made of."""

import numpy as np
import pytest

from bids_stroke.core import mirror
from bids_stroke.models import channels

BRAIN = np.pad(np.ones((20, 24, 16), bool), 3)


def image(seed: int = 0) -> np.ndarray:
    """A brain of noise, 0 outside."""
    noise = np.random.default_rng(seed).normal(5, 1, BRAIN.shape)
    return np.where(BRAIN, noise, 0).astype(np.float32)


@pytest.mark.parametrize(
    ("asked", "images"),
    [
        (("T1w",), ("T1w",)),
        (("T1w", "T1w-mirrored"), ("T1w",)),
        (("FLAIR-mirrored", "T1w", "FLAIR"), ("FLAIR", "T1w")),
        ((), ()),
    ],
)
def test_modalities_of_channels(asked: tuple[str, ...], images: tuple[str, ...]) -> None:
    assert channels.modalities_of(asked) == images
    assert set(asked) <= set(channels.CHANNELS)


def test_a_mirror_is_made_by_the_sizes_of_the_voxels() -> None:
    spacing = (4.0, 3.0, 5.0)
    seen = channels.with_mirrored({"T1w": image()}, ("T1w", "T1w-mirrored"), BRAIN, spacing)
    expected = mirror.mirrored(image(), BRAIN, np.diag([*spacing, 1]))
    assert np.array_equal(seen["T1w-mirrored"], expected)
    assert np.array_equal(seen["T1w"], image())


def test_without_a_mask_the_brain_is_what_is_not_zero() -> None:
    asked = ("T1w-mirrored",)
    given, bare = (
        channels.with_mirrored({"T1w": image()}, asked, mask, (4, 4, 4)) for mask in (BRAIN, None)
    )
    assert np.array_equal(given["T1w-mirrored"], bare["T1w-mirrored"])
    whole_head = np.where(BRAIN, image(), 2.0)
    masked = channels.with_mirrored({"T1w": whole_head}, asked, BRAIN.astype(np.uint8), (4, 4, 4))
    assert np.array_equal(given["T1w-mirrored"], masked["T1w-mirrored"])


def test_what_is_given_stays_and_what_is_absent_has_no_mirror() -> None:
    own = {"T1w": image(), "T1w-mirrored": image(1)}
    asked = ("T1w", "T1w-mirrored", "FLAIR", "FLAIR-mirrored")
    assert channels.with_mirrored(own, asked, None, (4, 4, 4)) == own
