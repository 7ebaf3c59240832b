"""Samples and training of the embedded model, on phantoms of a few voxels."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from bids_stroke.core import synthesis
from bids_stroke.models import sampling, training
from bids_stroke.models.channels import MODALITIES
from bids_stroke.models.torchvision_shim import ensure_torchvision

SIDE = 32
SMALL = training.Network(
    features=(4, 8, 16), encoder_convs=(1, 1, 1), decoder_convs=(1, 1), patch=(16,) * 3
)


@pytest.fixture
def folder(tmp_path):
    """One anatomy and some lesion shapes, as prepare.py of benchmarks/embedded writes them."""
    points = np.stack(np.meshgrid(*[np.arange(SIDE) - (SIDE - 1) / 2] * 3, indexing="ij"))
    radius = np.linalg.norm(points, axis=0)
    brain = radius < 14
    volumes = {name: np.zeros((SIDE,) * 3, np.float16) for name in sampling.VOLUMES}
    volumes["brain"][brain] = 1
    volumes["wm"][radius < 9] = 1
    volumes["csf"][radius < 3] = 1
    volumes["wm"][radius < 3] = 0
    volumes["gm"][brain & (radius >= 9)] = 1
    volumes["t1w"] = (volumes["wm"] - 2 * volumes["csf"]).astype(np.float16)
    volumes["flair"] = (volumes["gm"] - 2 * volumes["csf"]).astype(np.float16)
    volumes["ignore"][20:23, 14:18, 14:18] = 1
    np.savez(tmp_path / "anatomy_phantom.npz", **volumes)
    rng = np.random.default_rng(1)
    masks = [synthesis.random_shape((9, 10, 11), rng, v) for v in (20, 100, 300)]
    np.savez(
        tmp_path / "lesions.npz",
        voxels=np.concatenate([m.ravel() * np.uint8(255) for m in masks]),
        shapes=[m.shape for m in masks],
        corners=[(10, 11, 12)] * 3,
        splits=["train", "train", "report"],
        ml=[m.sum() * 3.375 / 1000 for m in masks],
    )
    return tmp_path


@pytest.fixture
def sampler(folder):
    recipe = sampling.Recipe(patch=(16, 16, 16), lesion_ml=(0.2, 2.0), brain_ml=(30.0, 45.0))
    shapes = sampling.load_shapes(folder / "lesions.npz", "train")
    return sampling.Sampler(sampling.load_anatomies(folder, 1.5), shapes, recipe)


def test_shapes_are_read_back_by_split(folder):
    train = sampling.load_shapes(folder / "lesions.npz", "train")
    report = sampling.load_shapes(folder / "lesions.npz", "report")
    assert len(train) == 2 and len(report) == 1
    for shape in (*train, *report):
        assert shape.mask.shape == (9, 10, 11)
        assert (shape.mask > 0).sum() * 3.375 / 1000 == pytest.approx(shape.ml)
        np.testing.assert_array_equal(shape.centre, [14, 15.5, 17])


def test_samples_are_standardised_and_repeatable(sampler):
    seen = set()
    for seed in range(25):
        image, label = sampler.sample(np.random.default_rng(seed))
        again, _ = sampler.sample(np.random.default_rng(seed))
        np.testing.assert_array_equal(image, again)
        assert image.shape == (2, 16, 16, 16) and image.dtype == np.float32
        assert label.shape == (16, 16, 16) and set(np.unique(label)) <= {0, 1, sampling.IGNORE}
        assert np.isfinite(image).all() and np.abs(image).max() < 30
        seen.add(tuple(channel.any() for channel in image))
    assert seen == {(True, True), (True, False), (False, True)}


def test_a_sample_has_the_channels_of_the_network(sampler):
    """Equal ones, whatever other channels a network sees."""
    shown = replace(sampler.recipe, both_channels=0.0, t1w_only=1.0)
    alone = sampling.Sampler(sampler.anatomies, sampler.shapes, replace(shown, channels=("T1w",)))
    both = sampling.Sampler(sampler.anatomies, sampler.shapes, shown)
    for seed in range(5):
        image, label = alone.sample(np.random.default_rng(seed))
        two, same = both.sample(np.random.default_rng(seed))
        np.testing.assert_array_equal(image, two[:1])
        np.testing.assert_array_equal(label, same)
        assert image.any() and not two[1].any()


def test_a_sample_has_the_mirror_image_that_a_network_asks_for(sampler, monkeypatch):
    """The phantom is its own mirror image, but for its lesion; other channels stay as they are."""
    monkeypatch.setattr(sampling, "PLANE_OFF_DEG", 0.0)
    monkeypatch.setattr(sampling, "PLANE_OFF_MM", 0.0)
    shown = replace(sampler.recipe, both_channels=0.0, t1w_only=1.0, patch=(32, 32, 32))
    names = ("T1w", "T1w-mirrored")
    draw = lambda names: sampling.Sampler(  # noqa: E731
        sampler.anatomies, sampler.shapes, replace(shown, channels=names)
    )
    likeness = []
    for seed in range(6):
        image, label = draw(names).sample(np.random.default_rng(seed))
        plain, same = draw(("T1w",)).sample(np.random.default_rng(seed))
        np.testing.assert_array_equal(image[:1], plain)
        np.testing.assert_array_equal(label, same)
        brain = (image != 0).all(axis=0)
        likeness.append(np.corrcoef(image[0][brain], image[1][brain])[0, 1])
        assert not image[1][image[0] == 0].any()
    assert np.median(likeness) > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_a_patch_is_reflected_at_the_middle_of_its_anatomy(seed):
    rng = np.random.default_rng(seed)
    turned = sampling.moved_slightly((16, 20, 24), 0.1, rng)  # of up to a centimetre
    voxels = np.indices((16, 20, 24)).reshape(3, -1)
    points = (turned[:3, :3] @ voxels + turned[:3, 3:]).reshape(3, 16, 20, 24)
    matrix = sampling.reflection_of(points.astype(np.float32), 33)
    np.testing.assert_allclose(matrix @ matrix, np.eye(4), atol=1e-4)
    there = matrix[:3, :3] @ voxels + matrix[:3, 3:]
    seen, before = (turned[:3, :3] @ v + turned[:3, 3:] for v in (there, voxels))
    np.testing.assert_allclose(seen[0], 32 - before[0], atol=1e-3)
    np.testing.assert_allclose(seen[1:], before[1:], atol=1e-3)


def test_a_plane_is_off_by_a_degree_and_a_millimetre():
    rng = np.random.default_rng(1)
    moves = [sampling.moved_slightly((31, 31, 31), 1.5, rng) for _ in range(400)]
    centre = np.full(3, 15.0)
    shifts = np.array([m[:3, :3] @ centre + m[:3, 3] - centre for m in moves])
    turns = [np.degrees(np.arccos(np.clip((np.trace(m[:3, :3]) - 1) / 2, -1, 1))) for m in moves]
    assert shifts.std() * 1.5 == pytest.approx(sampling.PLANE_OFF_MM, rel=0.1)
    assert np.sqrt(np.mean(np.square(turns)) / 3) == pytest.approx(sampling.PLANE_OFF_DEG, rel=0.1)


def test_a_flair_is_mostly_a_real_one(sampler):
    (own,) = sampler.anatomies
    drawn = sampling.Sampler([own, replace(own, has_flair=False)], [], sampler.recipe)
    for channels, share in ((("T1w",), 1 / 2), (("FLAIR",), 2 / 3), (("T1w", "FLAIR"), 2 / 3)):
        rng = np.random.default_rng(3)
        real = [drawn._anatomy(channels, rng).has_flair for _ in range(600)]
        assert np.mean(real) == pytest.approx(share, abs=0.06)


def test_most_samples_hold_a_lesion_and_some_none(sampler):
    hold = [(sampler.sample(np.random.default_rng(s))[1] == 1).any() for s in range(30)]
    assert 0.5 < np.mean(hold) < 1


@pytest.mark.parametrize(("fewest", "most"), [(3, 6), (4, 12)])
def test_small_lesions_come_several_near_each_other(sampler, fewest, most):
    few = replace(sampler.recipe, lesion_free=0.0, many_small=1.0, patch=(12, 12, 12))
    few = replace(few, small_count=(fewest, most))
    drawn = sampling.Sampler(sampler.anatomies, sampler.shapes, few)
    for seed in range(10):
        lesions = drawn._lesions(sampler.anatomies[0], np.random.default_rng(seed))
        volumes = np.array([lesion.mask.sum() for lesion in lesions]) * 1.5**3 / 1000
        assert fewest <= len(lesions) <= most
        assert (volumes > 0).all()
        assert volumes.max() < 2 * few.small_ml[1]
        middles = np.array([les.start + (np.array(les.mask.shape) - 1) / 2 for les in lesions])
        assert (np.ptp(middles, axis=0) <= 9).all()  # two thirds of a patch, and a rounding


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_some_lesions_leave_the_t1w_as_it_is(sampler, share):
    drawn = sampling.Sampler(
        sampler.anatomies, sampler.shapes, replace(sampler.recipe, flair_only=share)
    )
    brain = np.ones((16, 16, 16), bool)
    rng = np.random.default_rng(1)
    images = {m: rng.uniform(0.2, 1.0, brain.shape).astype(np.float32) for m in MODALITIES}
    lesion = np.pad(np.ones((4, 4, 4), np.float32), 6)
    painted = drawn._paint(images, [lesion], brain, MODALITIES, rng)
    assert (painted["FLAIR"] != images["FLAIR"]).any()
    assert (painted["T1w"] == images["T1w"]).all() == bool(share)
    alone = drawn._paint(images, [lesion], brain, ("T1w",), rng)
    assert (alone["T1w"] != images["T1w"]).any()


def test_without_lesions_of_own_relief_no_chance_is_spent_on_them(sampler):
    images = {"T1w": np.ones((16, 16, 16), np.float32)}
    lesion = np.pad(np.ones((4, 4, 4), np.float32), 6)
    brain, ended = images["T1w"] > 0, []
    for share in (0.0, 1e-9):
        recipe = replace(sampler.recipe, own_relief=share)
        rng = np.random.default_rng(1)
        drawn = sampling.Sampler(sampler.anatomies, sampler.shapes, recipe)
        drawn._paint(images, [lesion], brain, ("T1w",), rng)
        ended.append(rng.random())
    assert ended[0] != ended[1]
    rng = np.random.default_rng(1)
    stage = "chronic" if rng.random() < 0.25 else "subacute"
    strength = rng.uniform(0.6, 1.0)
    sampling.synthesis.paint(images, lesion, rng, stage=stage, brain=brain, strength=strength)
    assert rng.random() == ended[0]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_some_lesions_keep_the_relief_of_the_t1w(sampler, share, monkeypatch):
    drawn = sampling.Sampler(
        sampler.anatomies, sampler.shapes, replace(sampler.recipe, own_relief=share)
    )
    asked = []
    paint = sampling.synthesis.paint
    monkeypatch.setattr(
        sampling.synthesis, "paint", lambda *a, **k: asked.append(k["levelled"]) or paint(*a, **k)
    )
    images = {"T1w": np.ones((16, 16, 16), np.float32)}
    lesion = np.pad(np.ones((4, 4, 4), np.float32), 6)
    drawn._paint(images, [lesion] * 5, images["T1w"] > 0, ("T1w",), np.random.default_rng(1))
    assert asked == [share == 0] * 5


def test_n4_spans_the_brain_or_the_window(sampler, monkeypatch):
    seen = []
    monkeypatch.setattr(
        sampling, "n4", lambda image, mask, *a, **k: seen.append((image.shape, mask.sum())) or image
    )
    brain = np.pad(np.ones((10, 10, 10), bool), 8)
    images = {name: brain.astype(np.float32) for name in MODALITIES}
    for box in (False, True):
        recipe = replace(sampler.recipe, n4=1.0, n4_box=box)
        sampling.scanned(images, brain, ("T1w",), recipe, 3)
        sampling.scanned(images, brain & False, ("T1w",), recipe, 3)
    (window, voxels), (_, none), (cut, same), (_, still) = seen
    assert window == brain.shape and cut[0] < brain.shape[0]
    assert voxels == same > 0 == none == still


def test_pull_reads_volumes_in_voxel_coordinates():
    volume = torch.arange(60, dtype=torch.float32).reshape(1, 3, 4, 5)
    points = np.array([[1.0, 2.0], [2.0, 0.5], [3.0, 0.0]], np.float32).reshape(3, 2, 1, 1)
    np.testing.assert_allclose(
        sampling.pull(volume, points).ravel(), [volume[0, 1, 2, 3], 42.5], atol=1e-4
    )


def test_a_lesion_is_read_where_it_was_placed():
    mask = np.random.default_rng(1).random((5, 6, 7)).astype(np.float32)
    lesion = sampling.placed(mask, np.array([3.2, 10.0, 14.6]))
    np.testing.assert_array_equal(lesion.start, [1, 8, 12])  # the middle: 3, 10.5, 15
    whole = synthesis.place(
        mask, np.zeros((12, 20, 24)), np.random.default_rng(), centre=[3.2, 10.0, 14.6]
    )
    np.testing.assert_array_equal(lesion.inside, np.argwhere(whole > 0.5))
    points = np.random.default_rng(2).uniform(-2, 24, (3, 9, 9, 9)).astype(np.float32)
    expected = sampling.pull(torch.from_numpy(whole)[None], points)[0]
    np.testing.assert_allclose(sampling.pulled(lesion, points), expected, atol=1e-5)


def test_patches_stay_on_the_brain(sampler):
    anatomy = sampler.anatomies[0]
    size = np.array([16.0, 16, 40])
    centre = sampling.within(np.array([0.0, 99, 0]), size, anatomy, slack=4)
    np.testing.assert_allclose(centre[:2] + [-8, 8], anatomy.box[[0, 1], [0, 1]] + [-4, 4])
    assert centre[2] == pytest.approx(anatomy.box[:, 2].mean())


def ball(radius: float, side: int = 24) -> np.ndarray:
    points = np.indices((side,) * 3) - (side - 1) / 2
    return np.linalg.norm(points, axis=0) < radius


def test_open_fluid_is_wide_fluid_only():
    csf = ball(6).astype(np.float32)
    csf[:, 2, :] = 1  # a sulcus of one voxel
    fluid = sampling.open_fluid(csf)
    assert fluid[12, 12, 12] and not fluid[:, 2, :].any() and not fluid[2, 2, 2]


def test_no_lesion_fills_wide_fluid(sampler, monkeypatch):
    sampler.recipe = replace(sampler.recipe, lesion_ml=(3.0, 5.0), lesion_free=0.0)
    seen = []
    real = sampling.open_fluid
    monkeypatch.setattr(sampling, "open_fluid", lambda csf: seen.append(real(csf)) or seen[-1])
    for seed in range(12):
        _, label = sampler.sample(np.random.default_rng(seed))
        assert not (label.transpose(2, 1, 0) == 1)[seen[-1]].any()
    assert any(fluid.any() for fluid in seen)


def test_flowing_fluid_brightens_fluid_alone():
    csf, flair = ball(6).astype(np.float32), np.full((24,) * 3, 0.2, np.float32)
    changes = [
        sampling.flowing_fluid(flair, csf, np.random.default_rng(seed)) - flair for seed in range(9)
    ]
    assert all((change >= 0).all() and not change[csf == 0].any() for change in changes)
    assert max(change.max() for change in changes) > 0.2


@pytest.mark.parametrize("grid", [1.0, 2.0])
@pytest.mark.parametrize("wider_mm", [1.0, 3.0])
def test_a_border_of_fluid_moves_into_the_tissue(grid, wider_mm):
    """By as much as sum and slope have it: x + w exp(-x^2 / 2 s^2) ends where x is the border."""
    side, sigma = round(80 / grid), sampling.BORDER_MM / grid
    csf = np.zeros((side, 8, 8), np.float32)
    csf[side // 2 :] = 1
    slope = torch.from_numpy(sampling.fluid_slope(csf, grid))
    points = np.stack(np.meshgrid(*map(np.arange, csf.shape), indexing="ij")).astype(np.float32)
    moved = sampling.towards_fluid(points, slope, wider_mm / grid)
    shown = sampling.pull(torch.from_numpy(csf)[None], moved)[0]
    won_mm = (shown[:, 4, 4].sum() - csf[:, 4, 4].sum()) * grid
    expected = wider_mm / grid
    for _ in range(50):
        expected = wider_mm / grid * np.exp(-(expected**2) / (2 * sigma**2))
    assert won_mm == pytest.approx(expected * grid, abs=0.1 * grid)
    np.testing.assert_allclose(moved[1:], points[1:], atol=1e-4)
    np.testing.assert_array_equal(moved[:, : side // 8], points[:, : side // 8])


def test_atrophied_samples_hold_more_fluid(sampler):
    def fluid(recipe):
        drawing = sampling.Sampler(sampler.anatomies, sampler.shapes, recipe)
        anatomy, csf = drawing.anatomies[0], sampling.VOLUMES.index("csf")
        return [
            sampling.pull(
                anatomy.volumes, drawing._points(anatomy, [], np.random.default_rng(seed))
            )[csf].sum()
            for seed in range(6)
        ]

    plain = fluid(sampler.recipe)
    wide = fluid(replace(sampler.recipe, atrophy=1.0, wider_mm=(3.0, 5.0)))
    assert all(b > a for a, b in zip(plain, wide, strict=True))


def test_what_lies_outside_the_brain_is_dark_or_bright():
    means = [
        sampling.outside_brain((12,) * 3, np.random.default_rng(seed)).mean() for seed in range(30)
    ]
    assert min(means) >= 0 and min(means) < 0.3 and max(means) > 0.8


@pytest.mark.parametrize("spacing, larger", [(1.5, (1, 2)), (1.0, (2, 3))])
def test_a_fallible_mask_is_a_little_small_or_large(spacing, larger):
    brain = ball(7)
    sizes = {
        int(sampling.fallible_mask(brain, spacing, np.random.default_rng(seed)).sum())
        for seed in range(40)
    }
    steps = [ndimage.binary_dilation(brain, iterations=n).sum() for n in larger]
    assert sizes == {ndimage.binary_erosion(brain).sum(), brain.sum(), *steps}


def test_n4_takes_the_bias_off_a_sample():
    """Two tissues in stripes, half of them brighter than the rest of their kind, as by a coil."""
    brain = np.ones((48, 48, 48), bool)
    x = np.indices(brain.shape)[0]
    tissue = np.where(np.indices(brain.shape)[1] // 6 % 2, 0.5, 0.9)
    lit = (tissue * (1 + 0.6 * x / 47)).astype(np.float32)
    images = dict.fromkeys(MODALITIES, lit)
    recipe = sampling.Recipe(spacing=6.0, brain_ml=(30.0, 45.0))

    def between_ends(share):
        image = sampling.scanned(images, brain, ("T1w",), replace(recipe, n4=share), 11)[0]
        return image[36:].mean() - image[:12].mean()

    assert between_ends(0.0) > 1
    assert abs(between_ends(1.0)) < 0.3


def test_a_run_can_begin_with_the_weights_of_another(sampler, tmp_path):
    first = training.Trainer(SMALL, training.Schedule(iterations=2), tmp_path)
    first.run(batches(sampler))
    (tmp_path / "next").mkdir()
    wider = replace(SMALL, patch=(24,) * 3, spacing=1.0)
    second = training.Trainer(wider, training.Schedule(seed=3), tmp_path / "next")
    second.begin_from(tmp_path / "checkpoint.pth")
    assert second.iteration == 0
    for key, value in first.average.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[key], value)


def test_dice_by_sample_leaves_ignored_voxels_out():
    label = torch.zeros((2, 2, 2, 2))
    label[0, 0] = 1
    label[0, 1, 0] = sampling.IGNORE
    logits = torch.stack([torch.zeros_like(label), (label > 0).float() - 0.5], 1)
    (voxels, dice), (empty, undefined) = training.dice_by_sample(logits, label)
    assert (voxels, dice) == (4, 1.0)
    assert empty == 0 and np.isnan(undefined)


def test_learning_rate_warms_up_and_ends_low():
    schedule = training.Schedule(learning_rate=1.0, warmup=10)
    assert schedule.rate(0, 0) == pytest.approx(0.1)
    assert schedule.rate(0, 50) == pytest.approx(1.0)
    assert schedule.rate(0.5, 50) == pytest.approx(0.5)
    assert schedule.rate(1.0, 50) == pytest.approx(0.005)


def batches(sampler, seed=0):
    rng = np.random.default_rng(seed)
    samples = [sampler.sample(rng) for _ in range(2)]
    batch = tuple(torch.from_numpy(np.stack(part)) for part in zip(*samples, strict=True))
    while True:
        yield batch


def test_loss_falls_and_a_stopped_run_goes_on(sampler, tmp_path):
    schedule = training.Schedule(iterations=12, warmup=1, learning_rate=5e-3)
    trainer = training.Trainer(SMALL, schedule, tmp_path)
    start = trainer.step(*next(batches(sampler)))["loss"]
    end = trainer.run(batches(sampler), log_every=4)
    assert end < start - 0.05
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [4, 8, 12]
    second = training.Trainer(SMALL, schedule, tmp_path)
    second.resume()
    assert second.iteration == 12
    for key, value in trainer.average.state_dict().items():
        torch.testing.assert_close(second.average.state_dict()[key], value)


def test_the_clock_ends_a_run(sampler, tmp_path):
    trainer = training.Trainer(SMALL, training.Schedule(seconds=0.01), tmp_path)
    trainer.run(batches(sampler))
    assert trainer.iteration == 1


@pytest.mark.parametrize("channels", [("T1w", "FLAIR"), ("T1w",)])
def test_nnunet_loads_the_exported_folder(tmp_path, channels):
    ensure_torchvision()
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    small = replace(SMALL, channels=channels)
    network = training.build(small)
    files = training.export(
        tmp_path / "model", small, network.state_dict(), name="Dataset001_Test", samples=3
    )
    stated = json.loads((tmp_path / "model" / "dataset.json").read_text())["channel_names"]
    assert tuple(stated.values()) == channels
    assert torch.load(files[0], weights_only=True)["trainer_name"] == "nnUNetTrainer"
    parameters = sum(p.numel() for p in network.parameters())
    assert files[0].stat().st_size < 2 * parameters + 60_000  # half precision, aliases once
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, verbose=False)
    predictor.initialize_from_trained_model_folder(str(tmp_path / "model"), (0,))
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    image = torch.randn((1, len(channels), 16, 16, 16))
    network.eval()
    with torch.no_grad():
        expected = network(image)[0]
        found = predictor.network.eval()(image)
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0.03)
    volume = image[0].numpy()
    mask = predictor.predict_single_npy_array(volume, {"spacing": [1.5] * 3})
    assert mask.shape == volume.shape[1:]


def test_ensure_torchvision_can_be_called_again():
    ensure_torchvision()
    ensure_torchvision()
    import torchvision  # noqa: F401


@pytest.mark.parametrize(("change", "expected"), [(0.1, sampling.IGNORE), (0.9, 1)])
def test_a_lesion_that_no_channel_shows_does_not_count(change, expected):
    lesion = np.zeros((6, 6, 6), np.float32)
    lesion[2:4, 2:4, 2:4] = 1
    shown = np.stack([np.zeros_like(lesion), change * lesion])
    label = sampling._label([lesion], shown, np.zeros_like(lesion), np.ones(lesion.shape, bool))
    assert set(np.unique(label[lesion > 0])) == {expected}
    assert (label[lesion == 0] == 0).all()


def test_a_hidden_lesion_takes_nothing_from_one_that_is_seen():
    clear, faint = np.zeros((2, 6, 6, 6), np.float32)
    clear[1:4, 2, 2], faint[3:5, 2, 2] = 1, 1
    shown = np.stack([clear, np.zeros_like(clear)])
    shown[0, 3, 2, 2] = 0.1
    lesions = [clear, faint]
    for order in (lesions, lesions[::-1]):
        label = sampling._label(order, shown, np.zeros_like(clear), np.ones(clear.shape, bool))
        assert label[:, 2, 2].tolist() == [0, 1, 1, 1, sampling.IGNORE, 0]
