"""Probability to native grids, and mask, labels and table that agree with each other."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_stroke.core.files import save_image
from bids_stroke.core.geometry import write_itk_affine
from bids_stroke.interfaces.lesions import ProbabilityToNative, SegmentLesions


def blob(centre: np.ndarray, shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """Smooth blob of 6 mm around a point in the world."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = voxels @ affine[:3, :3].T + affine[:3, 3]
    return np.exp(-(((world - centre) ** 2).sum(-1)) / (2 * 6.0**2)).astype(np.float32)


@pytest.fixture
def network_map(tmp_path: Path) -> tuple[Path, np.ndarray]:
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = [-40, -30, -20]
    centre = np.array([5.0, 7.0, 3.0])
    save_image(blob(centre, (40, 36, 30), affine), affine, tmp_path / "p.nii.gz", dtype=np.float32)
    return tmp_path / "p.nii.gz", centre


def to_native(probability: Path, grid: tuple, folder: Path, transform: Path | None = None) -> str:
    shape, affine = grid
    reference = save_image(np.zeros(shape), affine, folder / "ref.nii.gz", dtype=np.float32)
    given = {"transform": str(transform)} if transform else {}
    node = ProbabilityToNative(probability=str(probability), reference=str(reference), **given)
    return node.run(cwd=str(folder)).outputs.probability


def test_flipped_and_cropped_grid_is_copied_to_the_bit(network_map, tmp_path: Path) -> None:
    affine = np.array([[0, -2, 0, 38], [2, 0, 0, -34], [0, 0, -2, 40], [0, 0, 0, 1.0]])
    native = nib.load(to_native(network_map[0], ((40, 44, 32), affine), tmp_path))
    source = nib.load(network_map[0])
    inverse = np.linalg.inv(affine) @ source.affine
    for index in [(20, 18, 12), (22, 18, 11), (3, 5, 7)]:
        x, y, z = np.rint(inverse @ [*index, 1]).astype(int)[:3]
        assert native.dataobj[x, y, z] == source.dataobj[index]
    assert np.array_equal(native.affine, affine)


def test_rigid_transform_moves_the_lesion_with_the_brain(network_map, tmp_path: Path) -> None:
    pull = np.eye(4)
    pull[:3, 3] = [4, -3, 2]  # a point of the target lies there in the map's world
    write_itk_affine(pull, tmp_path / "xfm.txt")
    affine = np.diag([1.0, 1.3, 3, 1])
    affine[:3, 3] = [-30, -25, -20]
    native = nib.load(
        to_native(network_map[0], ((70, 50, 18), affine), tmp_path, tmp_path / "xfm.txt")
    )
    values = native.get_fdata()
    voxels = np.argwhere(values > 0.5)
    centre = nib.affines.apply_affine(affine, voxels).mean(0)
    assert np.allclose(centre, network_map[1] - pull[:3, 3], atol=0.7)
    assert values.max() <= 1


def test_a_high_threshold_takes_no_volume_from_a_moved_lesion(tmp_path: Path) -> None:
    affine, shape = np.diag([0.8, 0.8, 3, 1]), (60, 60, 20)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    inside = np.linalg.norm((voxels - (30, 30, 10)) * (0.8, 0.8, 3), axis=-1) < 12
    probability = np.where(inside, 0.995, 0.002)  # as sure as networks are
    source = save_image(probability, affine, tmp_path / "p.nii.gz", dtype=np.float32)
    pull = np.eye(4)
    pull[:3, 3] = [0.2, 0.1, 1.0]  # between voxels; linearly .80 and 1.20 of the volume are left
    xfm = write_itk_affine(pull, tmp_path / "xfm.txt")
    moved = nib.load(to_native(source, (shape, affine), tmp_path, xfm)).get_fdata()
    kept = {t: np.count_nonzero(moved >= t) / np.count_nonzero(inside) for t in (0.2, 0.8)}
    assert 0.93 < kept[0.8] < 1 < kept[0.2] < 1.03


def test_mask_labels_and_table_agree(network_map, tmp_path: Path) -> None:
    affine = np.diag([0.9, 1.1, 2.5, 1])
    affine[:3, 3] = [-30, -25, -20]
    probability = to_native(network_map[0], ((70, 60, 20), affine), tmp_path)
    brain = save_image(np.ones((70, 60, 20)), affine, tmp_path / "b.nii.gz", dtype=np.uint8)
    done = SegmentLesions(
        probability=probability, brain_mask=str(brain), threshold=0.5, min_volume_mm3=10.0
    ).run(cwd=str(tmp_path))
    mask, labels = (nib.load(f) for f in (done.outputs.mask, done.outputs.labels))
    rows = pd.read_csv(done.outputs.table, sep="\t")
    assert mask.get_data_dtype() == np.uint8
    assert labels.get_data_dtype() == np.int16
    assert np.array_equal(np.asanyarray(mask.dataobj) > 0, np.asanyarray(labels.dataobj) > 0)
    assert np.array_equal(
        np.asanyarray(mask.dataobj) > 0, np.asanyarray(nib.load(probability).dataobj) >= 0.5
    )
    assert rows["n_voxels"].sum() == np.count_nonzero(mask.dataobj)
    volume = np.count_nonzero(mask.dataobj) * 0.9 * 1.1 * 2.5
    assert rows["volume_mm3"].sum() == pytest.approx(volume)
    assert rows.loc[0, "side"] == "right"
