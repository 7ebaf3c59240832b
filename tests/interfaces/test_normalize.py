"""Registration to the template: a moved template comes back, the same twice, around a lesion."""

from pathlib import Path

import numpy as np
import pytest

from bids_stroke.core import geometry, lesions, normalization, warps
from bids_stroke.core.files import load_image, read_json, save_image, sha256
from bids_stroke.core.geometry import Grid
from bids_stroke.interfaces.normalize import (
    LesionsToTemplate,
    NormalizeToTemplate,
    register_to_template,
)
from bids_stroke.models.templates import SHIPPED, find_template

FAST = {"affine_iterations": [30, 10, 0], "syn_iterations": [3, 0, 0]}


def moved_template() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The template at 3 mm, 6 % larger, turned a little and shifted: image, brain, affine."""
    template = find_template(SHIPPED)
    matrix = np.eye(4)
    matrix[:3, :3] = 0.94 * np.array([[1.0, -0.05, 0], [0.05, 1, 0], [0, 0, 1]])
    matrix[:3, 3] = (4.0, -6.0, 3.0)
    affine = np.diag([-3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = (108, -144, -84)
    grid = Grid((73, 87, 73), affine)
    image = geometry.resample(template.t1w, template.grid, grid, transform=matrix)
    return image, (image > 20).astype(np.uint8), affine


@pytest.mark.slow
def test_a_moved_template_comes_back(tmp_path: Path) -> None:
    image, brain, affine = moved_template()
    lesion = np.zeros(image.shape, np.uint8)
    lesion[45:53, 40:50, 40:48] = 1
    paths = {
        name: str(save_image(data, affine, tmp_path / f"{name}.nii.gz", dtype=np.float32))
        for name, data in (("in_file", image), ("in_mask", brain), ("lesion", lesion))
    }
    made = NormalizeToTemplate(**paths, template=SHIPPED, **FAST).run(cwd=str(tmp_path)).outputs
    quality = read_json(Path(made.qc))
    assert quality["similarity_after"] > quality["similarity_before"] + 0.05
    assert quality["brain_overlap_dice"] > 0.96
    assert quality["flags"] == []
    assert quality["left_out_ml"] > lesion.sum() * 27 / 1000
    forward, inverse = (warps.read_transform(p) for p in (made.forward, made.inverse))
    points = np.array([[30.0, -20, 20], [-30, 10, 5], [0, -60, -20]])
    back = warps.map_points(warps.map_points(points, forward), inverse)
    assert np.abs(back - points).max() < 0.7
    # template points, as the phantom was made, lie at the inverse of its matrix
    matrix = np.eye(4)
    matrix[:3, :3] = 0.94 * np.array([[1.0, -0.05, 0], [0.05, 1, 0], [0, 0, 1]])
    matrix[:3, 3] = (4.0, -6.0, 3.0)
    true = (np.linalg.inv(matrix) @ np.c_[points, np.ones(3)].T).T[:, :3]
    assert np.linalg.norm(warps.map_points(points, forward) - true, axis=1).max() < 3
    # what lies left in the image lies left in the template
    side = save_image(lesion, affine, tmp_path / "p.nii.gz", dtype=np.float32)
    there = LesionsToTemplate(
        probability=str(side), transform=made.forward, template=SHIPPED,
        threshold=0.5, min_volume_mm3=10.0,
    ).run(cwd=str(tmp_path)).outputs  # fmt: skip
    mask = load_image(there.mask)
    assert mask.shape == find_template(SHIPPED).grid.shape
    native = geometry.voxel_volume_mm3(affine) * lesion.sum()
    volume = np.count_nonzero(np.asarray(mask.dataobj))
    assert volume == pytest.approx(native * 0.94**3, rel=0.15)
    found = warps.map_points(_centre(np.asarray(mask.dataobj), mask.affine), forward)
    assert found[0] == pytest.approx(_centre(lesion, affine)[0], abs=1.5)
    assert np.array_equal(
        np.asarray(mask.dataobj) > 0,
        lesions.segment(
            load_image(there.probability).get_fdata(dtype=np.float32),
            mask.affine, threshold=0.5, min_volume_mm3=10.0,
        ) > 0,
    )  # fmt: skip

    # a high threshold takes little from it
    high = LesionsToTemplate(
        probability=str(side), transform=made.forward, template=SHIPPED,
        threshold=0.8, min_volume_mm3=10.0,
    ).run(cwd=str(_folder(tmp_path / "high"))).outputs  # fmt: skip
    assert np.count_nonzero(load_image(high.mask).dataobj) > 0.9 * volume

    # a mask that is no cut of the probability is carried
    ones = save_image(np.ones(image.shape), affine, tmp_path / "1.nii.gz", dtype=np.float32)
    carried = LesionsToTemplate(
        probability=str(ones), native_mask=str(side), transform=made.forward, template=SHIPPED,
        threshold=0.5, min_volume_mm3=10.0,
    ).run(cwd=str(_folder(tmp_path / "carried"))).outputs  # fmt: skip
    assert np.array_equal(load_image(carried.mask).dataobj, mask.dataobj)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _centre(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return (affine @ [*np.argwhere(mask).mean(axis=0), 1.0])[:3][None]


@pytest.mark.slow
def test_the_same_bytes_twice(tmp_path: Path) -> None:
    image, _, affine = moved_template()
    usable = normalization.usable(image, None, affine)
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths = register_to_template(
            find_template(SHIPPED),
            (image, affine),
            usable,
            prefix=tmp_path / name / "t_",
            affine_iterations=(20, 0, 0),
            syn_iterations=(2, 0, 0),
        )
        transforms = [warps.read_transform(path) for path in paths]
        points = np.random.default_rng(0).normal(0, 30, (20, 3))
        made.append([warps.map_points(points, t) for t in transforms])
        assert all(len(sha256(path)) == 64 for path in paths)
    assert np.array_equal(made[0], made[1])
