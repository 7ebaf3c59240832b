"""Strokes painted into real scans: the image is left as it is but for them, the masks lie right."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from bids_stroke.core import geometry
from tests.programs import imported

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "painted.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks are not installed")
TRUTH = "derivatives/truth/sub-04/ses-01/anat/sub-04_ses-01_space-{}_label-L_desc-truth_mask.nii.gz"


@pytest.fixture(scope="module")
def painted() -> Iterator[ModuleType]:
    with imported(SCRIPT) as module:
        yield module


@pytest.fixture(scope="module")
def one(painted: ModuleType, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("painted")
    painted.dataset(out)
    painted.one(real_data, out, "sub-04_ses-01", 12.0)
    return out


@pytest.mark.parametrize("suffix", ["T1w", "FLAIR"])
def test_only_the_lesion_changes_a_scan(
    painted: ModuleType, real_data: Path, one: Path, suffix: str
) -> None:
    before = painted.Scan(real_data, "sub-04_ses-01").image(suffix)
    after = nib.load(one / f"sub-04/ses-01/anat/sub-04_ses-01_{suffix}.nii.gz")
    truth = nib.load(one / TRUTH.format(suffix))
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(truth.affine, before.affine)
    lesion = np.asarray(truth.dataobj) > 0
    change = after.get_fdata() - before.get_fdata()
    assert abs(change[lesion]).mean() > 20 * abs(change[~lesion]).mean()
    assert change[lesion].mean() * {"T1w": -1, "FLAIR": 1}[suffix] > 0
    assert lesion.sum() * abs(np.linalg.det(before.affine[:3, :3])) == pytest.approx(12000, rel=0.1)


def test_the_transform_brings_the_images_of_a_session_together(
    painted: ModuleType, real_data: Path
) -> None:
    """Mutual information of T1w and FLAIR is larger with it than without, or with its inverse."""
    scan = painted.Scan(real_data, "sub-01_ses-02")
    t1w, flair = scan.image("T1w"), scan.image("FLAIR")
    brain = np.asarray(scan.brain("T1w").dataobj) > 0
    right = np.linalg.inv(scan.flair_to_t1w())
    found = []
    for way in (right, np.eye(4), np.linalg.inv(right)):
        moved = geometry.resample(
            flair.get_fdata(dtype=np.float32),
            geometry.grid_of(flair),
            geometry.grid_of(t1w),
            transform=way,
        )
        found.append(_mutual_information(t1w.get_fdata()[brain], moved[brain]))
    assert found[0] > max(found[1:]) + 0.02


def _mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    counts, _, _ = np.histogram2d(a, b, 64)
    joint = counts / counts.sum()
    apart = joint.sum(axis=1)[:, None] * joint.sum(axis=0)[None]
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / apart[seen])).sum())


def test_both_images_have_the_lesion_at_one_place(
    painted: ModuleType, real_data: Path, one: Path
) -> None:
    centres = {}
    for suffix in ("T1w", "FLAIR"):
        truth = nib.load(one / TRUTH.format(suffix))
        voxels = np.argwhere(np.asarray(truth.dataobj) > 0).mean(axis=0)
        centres[suffix] = nib.affines.apply_affine(truth.affine, voxels)
    way = painted.Scan(real_data, "sub-04_ses-01").flair_to_t1w()
    moved = nib.affines.apply_affine(way, centres["FLAIR"])
    assert np.linalg.norm(moved - centres["T1w"]) < 0.2


def test_the_right_hemisphere_is_where_it_is_painted(painted: ModuleType, one: Path) -> None:
    truth = nib.load(one / TRUTH.format("T1w"))
    voxels = np.argwhere(np.asarray(truth.dataobj) > 0).mean(axis=0)
    image = nib.load(one / "sub-04/ses-01/anat/sub-04_ses-01_T1w.nii.gz")
    head = np.argwhere(image.get_fdata() > image.get_fdata().mean()).mean(axis=0)
    right = nib.affines.apply_affine(truth.affine, voxels) - nib.affines.apply_affine(
        image.affine, head
    )
    assert right[0] > 15


def test_a_drawn_stroke_lies_well_within_the_brain(painted: ModuleType, real_data: Path) -> None:
    mask = painted.Scan(real_data, "sub-01_ses-01").brain("T1w")
    for seed in range(4):
        stroke = painted.drawn(mask, seed)
        low, high = painted.COHORT_ML
        assert low <= stroke.ml <= high
        voxel = np.linalg.inv(mask.affine) @ [*stroke.centre_mm, 1]
        assert np.asarray(mask.dataobj)[tuple(np.rint(voxel[:3]).astype(int))] > 0
    assert {painted.drawn(mask, seed).stage for seed in (0, 1)} == {"subacute", "chronic"}
