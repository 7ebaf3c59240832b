"""Synthetic lesions: shapes, places and looks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bids_stroke.core import synthesis

SIDE = 40


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture
def ball() -> np.ndarray:
    """Soft ball of radius 9 in the middle."""
    points = np.stack(np.meshgrid(*[np.arange(SIDE) - (SIDE - 1) / 2] * 3, indexing="ij"))
    return np.clip(9.5 - np.linalg.norm(points, axis=0), 0, 1).astype(np.float32)


@pytest.fixture
def images(rng) -> dict[str, np.ndarray]:
    """A brain of tissue with a block of CSF, in scanner units."""
    csf = np.zeros((SIDE,) * 3, bool)
    csf[2:8, 2:38, 2:38] = True
    noise = rng.normal(0, 5, (2, SIDE, SIDE, SIDE))
    t1w = np.where(csf, 100, 400) + noise[0]
    flair = np.where(csf, 50, 300) + noise[1]
    return {"T1w": t1w.astype(np.float32), "FLAIR": flair.astype(np.float32)}


@settings(max_examples=15, deadline=None)
@given(volume=st.floats(1, 4000), seed=st.integers(0, 99))
def test_random_shape_is_one_piece_of_at_most_its_volume(volume, seed):
    blob = synthesis.random_shape((32, 32, 32), np.random.default_rng(seed), volume)
    _, count = ndimage.label(blob)
    assert count == 1
    assert 1 <= blob.sum() <= volume


@pytest.mark.parametrize("volume", [20, 200, 2000])
def test_random_shape_mostly_has_its_volume(volume):
    sizes = [
        synthesis.random_shape((32, 32, 32), np.random.default_rng(seed), volume).sum()
        for seed in range(40)
    ]
    assert np.min(sizes) >= 0.5 * volume
    assert np.median(sizes) > 0.97 * volume
    assert np.mean(sizes) > 0.9 * volume


def test_random_shape_is_no_ball(rng):
    blob = synthesis.random_shape((32, 32, 32), rng, 3000)
    centre = ndimage.center_of_mass(blob)
    distance = np.linalg.norm(np.argwhere(blob ^ ndimage.binary_erosion(blob)) - centre, axis=1)
    assert distance.std() / distance.mean() > 0.1


def test_random_shape_refuses_more_than_the_grid(rng):
    with pytest.raises(ValueError, match="can't hold"):
        synthesis.random_shape((4, 4, 4), rng, 65)


def test_transform_scales_the_volume(ball, rng):
    ratios = [synthesis.transform_mask(ball, rng, scale=0.5).sum() / ball.sum() for _ in range(12)]
    assert np.mean(ratios) == pytest.approx(0.125, rel=0.25)


def test_transform_flips_left_to_right(rng):
    half = np.zeros((20, 20, 20), np.float32)
    half[:10] = 1
    kept = synthesis.transform_mask(half, rng, rotation_deg=0)
    flipped = synthesis.transform_mask(half, rng, rotation_deg=0, flip=True)
    assert ndimage.center_of_mass(kept)[0] < kept.shape[0] / 2 - 2
    assert ndimage.center_of_mass(flipped)[0] > flipped.shape[0] / 2 + 1


def test_place_puts_the_centre_where_asked_and_cuts_what_sticks_out(rng):
    lesion = np.ones((3, 3, 3))
    inside = synthesis.place(lesion, np.zeros((9, 9, 9)), rng, centre=(4, 5, 6))
    assert inside.sum() == 27
    assert ndimage.center_of_mass(inside) == (4, 5, 6)
    assert synthesis.place(lesion, np.zeros((9, 9, 9)), rng, centre=(0, 4, 4)).sum() == 18
    assert synthesis.place(lesion, np.zeros((9, 9, 9)), rng, centre=(-5, 4, 4)).sum() == 0


def test_place_without_centre_falls_on_tissue(rng):
    tissue = np.zeros((9, 9, 9))
    tissue[2:4, 6:8, 5] = 1
    for _ in range(8):
        out = synthesis.place(np.ones((1, 1, 1)), tissue, rng)
        assert out.sum() == 1 and tissue[out > 0].all()


@pytest.mark.parametrize("stage", synthesis.STAGES)
def test_paint_darkens_t1w_and_changes_nothing_outside(images, ball, stage):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        before = {k: v.copy() for k, v in images.items()}
        after = synthesis.paint(images, ball, rng, stage=stage, strength=0.8)
        for name in images:
            np.testing.assert_array_equal(images[name], before[name])  # inputs stay
            np.testing.assert_array_equal(after[name][ball == 0], images[name][ball == 0])
        assert (after["T1w"] - images["T1w"])[ball > 0.9].mean() < -10


@pytest.mark.parametrize("stage", synthesis.STAGES)
def test_paint_in_proportion_keeps_the_relief_of_the_t1w(images, stage):
    lesion = np.zeros((SIDE,) * 3, np.float32)
    lesion[12:15, 12:30, 12:30] = 1
    inside = lesion > 0
    seen = []
    for seed in range(12):
        draw = np.random.default_rng(seed)
        after = synthesis.paint(images, lesion, draw, stage=stage, strength=0.8, levelled=False)
        change = (after["T1w"] - images["T1w"])[inside]
        to_fluid = 100 - images["T1w"][inside]
        seen.append(np.std(change / to_fluid) < 0.02 and (change < 0).all())
    assert any(seen)
    assert all(seen) or stage == "chronic"  # most of which have a cavity of one level


def test_lesions_in_proportion_are_lighter_than_levelled_ones(images, ball):
    darkest = {}
    for levelled in (True, False):
        paints = [
            synthesis.paint(
                {"T1w": images["T1w"]},
                ball,
                np.random.default_rng(seed),
                stage="subacute",
                strength=0.6,
                levelled=levelled,
            )
            for seed in range(8)
        ]
        darkest[levelled] = np.mean([after["T1w"][ball > 0.9].mean() for after in paints])
    assert darkest[True] < darkest[False] - 10 < images["T1w"][ball > 0.9].mean() - 20


def test_subacute_is_bright_on_flair(images, ball):
    for seed in range(6):
        after = synthesis.paint(images, ball, np.random.default_rng(seed), stage="subacute")
        assert (after["FLAIR"] - images["FLAIR"])[ball > 0.9].mean() > 10


def test_some_chronic_lesions_have_a_dark_cavity_in_a_bright_rim(images, ball):
    inner, rim = ndimage.binary_erosion(ball > 0.5, iterations=6), (ball > 0.5)
    rim = rim & ~ndimage.binary_erosion(rim, iterations=2)
    seen = []
    for seed in range(12):
        after = synthesis.paint(images, ball, np.random.default_rng(seed), stage="chronic")
        change = after["FLAIR"] - images["FLAIR"]
        seen.append(change[inner].mean() < -100 and change[rim].mean() > 0)
    assert any(seen) and not all(seen)


def test_paint_of_nothing_is_a_copy(images, rng):
    after = synthesis.paint(images, np.zeros((SIDE,) * 3), rng, stage="chronic")
    np.testing.assert_array_equal(after["T1w"], images["T1w"])


@pytest.mark.parametrize(("kind", "order"), [("T1w", "csf gm wm"), ("FLAIR", "csf wm gm")])
def test_contrasts_keep_the_order_of_tissues(kind, order):
    tissues = {name: np.zeros((12, 12, 12), np.float32) for name in ("csf", "gm", "wm")}
    for index, name in enumerate(tissues):
        tissues[name][index * 4 : index * 4 + 4] = 1
    means = {name: [] for name in tissues}
    for seed in range(10):
        image = synthesis.contrast_from_tissues(tissues, np.random.default_rng(seed), kind)
        assert image.min() >= 0
        for name, tissue in tissues.items():
            means[name].append(image[tissue > 0].mean())
    low, middle, high = (np.mean(means[name]) for name in order.split())
    assert low < middle < high
