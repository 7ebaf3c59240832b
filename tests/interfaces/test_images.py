"""Interfaces on single images: grids, exact zeros, names of what comes out."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import stats

from bids_stroke.core.files import load_image, read_json, save_image
from bids_stroke.core.geometry import grid_of, same_grid, write_itk_affine
from bids_stroke.errors import UnusableData
from bids_stroke.interfaces.images import ConformImage, CropToMask, Reorient, ToGrid, ZScore

AFFINE = np.array([[0, 0, -3.0, 30], [-2, 0.2, 0, 20], [0.2, 2, 0, -25], [0, 0, 0, 1]])
SHAPE = (20, 22, 18)


@pytest.fixture
def data() -> np.ndarray:
    return np.random.default_rng(1).normal(200, 30, SHAPE).astype(np.float32)


@pytest.fixture
def image(data: np.ndarray, tmp_path: Path) -> Path:
    return save_image(data, AFFINE, tmp_path / "image.nii.gz", dtype=np.float32)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    mask = np.zeros(SHAPE)
    mask[4:9, 6:20, 3:17] = 1
    return save_image(mask, AFFINE, tmp_path / "mask.nii.gz", dtype=np.uint8)


def values(path: str | Path) -> np.ndarray:
    return np.asanyarray(load_image(path).dataobj)


def test_conform_keeps_grid_and_voxels(tmp_path: Path, data: np.ndarray) -> None:
    source = tmp_path / "sub-01_T1w.nii"
    nib.save(nib.Nifti1Image(data[..., None].astype(np.int16), AFFINE), source)
    out = ConformImage(in_file=source).run(cwd=tmp_path).outputs
    found = load_image(out.out_file)
    assert found.get_data_dtype() == np.float32
    np.testing.assert_array_equal(values(out.out_file), data.astype(np.int16))
    np.testing.assert_allclose(found.get_qform(), found.get_sform(), atol=1e-5)
    record = read_json(out.qc)
    assert record["file"] == "sub-01_T1w.nii"
    assert record["shape"] == list(SHAPE)
    assert record["orientation"] == "PSL"
    assert record["dtype"] == "int16"
    assert record["zooms"] == pytest.approx([2.01, 2.01, 3], abs=0.01)
    assert any("4-D" in note for note in record["notes"])


def test_conform_raises_our_error(tmp_path: Path) -> None:
    path = tmp_path / "sub-01_T1w.nii.gz"
    path.write_bytes(b"nothing")
    with pytest.raises(UnusableData, match="sub-01_T1w"):
        ConformImage(in_file=path).run(cwd=tmp_path)


def test_reorient_turns_image_and_mask(image: Path, mask: Path, tmp_path: Path) -> None:
    out = Reorient(in_file=image, in_mask=mask).run(cwd=tmp_path).outputs
    for path, source in ((out.out_file, image), (out.out_mask, mask)):
        found, expected = load_image(path), nib.as_closest_canonical(load_image(source))
        np.testing.assert_array_equal(values(path), np.asanyarray(expected.dataobj))
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    assert load_image(out.out_mask).get_data_dtype() == np.uint8


def test_crop_to_a_mask_and_back(image: Path, mask: Path, tmp_path: Path) -> None:
    node = CropToMask(in_file=image, in_mask=mask, box_mask=mask, margin=1)
    out = node.run(cwd=tmp_path).outputs
    assert values(out.out_file).shape == (7, 16, 16)
    back = ToGrid(in_file=out.out_file, reference=image).run(cwd=tmp_path).outputs.out_file
    box = np.s_[3:10, 5:21, 2:18]
    np.testing.assert_array_equal(values(back)[box], values(image)[box])
    assert np.count_nonzero(values(back)) == 7 * 16 * 16


def test_to_grid_follows_a_transform_and_a_mask(image: Path, mask: Path, tmp_path: Path) -> None:
    shift = np.eye(4)
    shift[0, 3] = -3.0
    transform = write_itk_affine(shift, tmp_path / "shift.txt")
    node = ToGrid(in_file=image, reference=image, transform=transform, in_mask=mask, order=3)
    moved = values(node.run(cwd=tmp_path).outputs.out_file)
    inside = values(mask) != 0
    np.testing.assert_array_equal(moved[inside], np.roll(values(image), -1, 2)[inside])
    assert not moved[~inside].any()


@pytest.mark.parametrize(("kept", "suffix"), [(True, ".nii.gz"), (False, ".nii")])
def test_only_what_is_kept_is_compressed(
    image: Path, tmp_path: Path, kept: bool, suffix: str
) -> None:
    out = ToGrid(in_file=image, reference=image, kept=kept).run(cwd=tmp_path).outputs.out_file
    assert Path(out).name == f"moved{suffix}"
    np.testing.assert_array_equal(values(out), values(image))


def test_to_grid_of_a_mask_is_a_mask(image: Path, mask: Path, tmp_path: Path) -> None:
    coarse = save_image(
        np.zeros((9, 9, 9)), np.diag([6.0, 6, 6, 1]), tmp_path / "c.nii.gz", dtype=np.float32
    )
    out = ToGrid(in_file=mask, reference=coarse, order=0).run(cwd=tmp_path).outputs.out_file
    assert load_image(out).get_data_dtype() == np.uint8
    assert same_grid(grid_of(load_image(out)), grid_of(load_image(coarse)))
    assert set(np.unique(values(out))) == {0, 1}


def test_zscore_is_of_the_brain_only(image: Path, mask: Path, tmp_path: Path) -> None:
    out = ZScore(in_file=image, in_mask=mask).run(cwd=tmp_path).outputs.out_file
    inside = values(mask) != 0
    np.testing.assert_allclose(values(out)[inside], stats.zscore(values(image)[inside]), atol=1e-4)
    assert not values(out)[~inside].any()
