"""One interface for every brain extraction: masks come back to any orientation exactly."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_stroke.core.files import load_image, read_json, save_image
from bids_stroke.core.geometry import Grid
from bids_stroke.errors import InputMissing, UnusableData
from bids_stroke.interfaces.brain import ExtractBrain, precomputed_mask
from bids_stroke.models import brain as networks
from tests.core.test_geometry import ALL_48, reoriented

AFFINE = np.array([[6.0, 0.3, 0, -66], [-0.3, 6, 0, -80], [0, 0, 7, -60], [0, 0, 0, 1]])
SHAPE = (24, 28, 18)


def brain_mask() -> np.ndarray:
    """An ellipsoid with a bump on the right and front, of a brain's size."""
    x, y, z = (axis - (n - 1) / 2 for axis, n in zip(np.indices(SHAPE), SHAPE, strict=True))
    whole = (x / 10) ** 2 + (y / 12) ** 2 + (z / 7) ** 2 < 1
    return whole | ((x - 6) ** 2 + (y - 9) ** 2 + z**2 < 9)


def head() -> np.ndarray:
    noise = np.random.default_rng(5).uniform(10, 20, SHAPE)
    return np.where(brain_mask(), noise + 100, noise)


def bright(data: np.ndarray, spacing: Any, options: Any) -> np.ndarray:
    """A network's stand-in that answers only when it is fed RAS: it wants the bump there."""
    assert data[18, 22, 9] > 100
    return data > 60


@pytest.fixture
def seeing(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = networks.Backend(bright, "deepbet", lambda options: ())
    monkeypatch.setitem(networks.BACKENDS, "deepbet", backend)


@pytest.mark.parametrize("codes", ALL_48)
@pytest.mark.usefixtures("seeing")
def test_every_orientation_reaches_the_network_as_ras(codes: str, tmp_path: Path) -> None:
    data, affine = reoriented(head(), AFFINE, codes)
    expected, _ = reoriented(brain_mask(), AFFINE, codes)
    path = save_image(data, affine, tmp_path / "head.nii.gz", dtype=np.float32)
    out = ExtractBrain(t1w=path).run(cwd=tmp_path).outputs
    mask = load_image(out.t1w_mask)
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), expected)
    np.testing.assert_allclose(mask.affine, affine, atol=1e-4)
    found = load_image(out.t1w).get_fdata()
    np.testing.assert_allclose(found, np.where(expected, data, 0), rtol=1e-6)
    record = read_json(out.t1w_qc)
    assert record["method"] == "deepbet"
    assert record["version"]
    assert record["volume_ml"] == pytest.approx(brain_mask().sum() * 0.25263, rel=1e-3)


def test_skull_stripped_input_is_detected_and_said(tmp_path: Path) -> None:
    data = np.where(brain_mask(), head(), 0)
    data = np.pad(data, 3)
    path = save_image(data, AFFINE, tmp_path / "brain.nii.gz", dtype=np.float32)
    out = ExtractBrain(t1w=path, method="auto").run(cwd=tmp_path).outputs
    np.testing.assert_array_equal(load_image(out.t1w_mask).get_fdata(), data != 0)
    record = read_json(out.t1w_qc)
    assert record["method"] == "skip"
    assert record["skull_stripped_input"]
    assert any("skull-stripped" in note for note in record["notes"])
    assert record["weights_sha256"] == {}


def test_explicit_skip_takes_what_is_not_zero(tmp_path: Path) -> None:
    data = np.where(brain_mask(), head(), 0)
    data[12, 14, 9] = 0
    path = save_image(data, AFFINE, tmp_path / "brain.nii.gz", dtype=np.float32)
    out = ExtractBrain(t1w=path, method="skip").run(cwd=tmp_path).outputs
    np.testing.assert_array_equal(load_image(out.t1w_mask).get_fdata(), brain_mask())


def test_hdbet_without_weights_is_refused(tmp_path: Path) -> None:
    path = save_image(head(), AFFINE, tmp_path / "head.nii.gz", dtype=np.float32)
    with pytest.raises(InputMissing, match="HD-BET"):
        ExtractBrain(t1w=path, method="hd-bet").run(cwd=tmp_path)


def test_precomputed_mask_wins_and_turns_with_the_image(tmp_path: Path) -> None:
    turned, affine = reoriented(brain_mask(), AFFINE, "SLP")
    mask = save_image(turned, affine, tmp_path / "mask.nii.gz", dtype=np.uint8)
    found, notes = precomputed_mask(mask, Grid(SHAPE, AFFINE))
    np.testing.assert_array_equal(found, brain_mask())
    assert notes == []
    image = save_image(head(), AFFINE, tmp_path / "head.nii.gz", dtype=np.float32)
    out = ExtractBrain(flair=image, flair_mask=mask, method="skip").run(cwd=tmp_path).outputs
    assert read_json(out.flair_qc)["method"] == "precomputed"
    np.testing.assert_array_equal(load_image(out.flair_mask).get_fdata(), brain_mask())


@pytest.mark.usefixtures("seeing")
def test_both_images_of_a_session_each_by_its_own_way(tmp_path: Path) -> None:
    """The T1w by the network, the FLAIR on its own grid by the mask that comes with it."""
    turned, affine = reoriented(head(), AFFINE, "PIR")
    mask, _ = reoriented(brain_mask(), AFFINE, "PIR")
    files = {
        "t1w": save_image(head(), AFFINE, tmp_path / "t1w.nii.gz", dtype=np.float32),
        "flair": save_image(turned, affine, tmp_path / "flair.nii.gz", dtype=np.float32),
        "flair_mask": save_image(mask, affine, tmp_path / "mask.nii.gz", dtype=np.uint8),
    }
    out = ExtractBrain(**files).run(cwd=tmp_path).outputs
    assert [read_json(qc)["method"] for qc in (out.t1w_qc, out.flair_qc)] == [
        "deepbet",
        "precomputed",
    ]
    np.testing.assert_array_equal(load_image(out.t1w_mask).get_fdata(), brain_mask())
    np.testing.assert_array_equal(load_image(out.flair_mask).get_fdata(), mask)
    brain = load_image(out.flair).get_fdata()
    np.testing.assert_allclose(brain, np.where(mask, turned, 0), rtol=1e-6)


def test_precomputed_mask_of_another_head_is_refused(tmp_path: Path) -> None:
    away = AFFINE.copy()
    away[0, 3] += 90
    mask = tmp_path / "sub-02_mask.nii.gz"
    nib.save(nib.Nifti1Image(brain_mask().astype(np.uint8), away), mask)
    with pytest.raises(UnusableData, match="sub-02_mask"):
        precomputed_mask(mask, Grid(SHAPE, AFFINE))


def test_device_does_not_change_the_hash() -> None:
    here = ExtractBrain(device="cpu", num_threads=1, use_gpu=False)
    there = ExtractBrain(device="cuda", num_threads=8, use_gpu=True)
    other = ExtractBrain(method="skip")
    hashes = [node.inputs.get_hashval()[1] for node in (here, there, other)]
    assert hashes[0] == hashes[1] != hashes[2]
