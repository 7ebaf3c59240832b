"""Phantom people: anatomy varied, lesions grown and painted, scans sampled."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from bids_stroke.core import phantom
from bids_stroke.core.geometry import Grid
from bids_stroke.core.head import Head, Tissue, average_head

CENTRE = (-40.0, -8.0, 16.0)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def head() -> Head:
    return phantom.vary(average_head(3.0), rng())


@pytest.fixture(scope="module")
def mask(head: Head) -> np.ndarray:
    return phantom.grow_lesion(head, CENTRE, 25, rng())


def test_people_differ_and_are_reproducible(head: Head) -> None:
    same, other = (phantom.vary(average_head(3.0), rng(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(same.labels, head.labels)
    np.testing.assert_array_equal(same.grey, head.grey)
    assert (other.labels != head.labels).mean() > 0.05


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_people_have_brains_of_usual_size(seed: int) -> None:
    person = phantom.vary(average_head(3.0), rng(seed))
    assert 1.1e6 < person.brain.sum() * 27 < 1.75e6
    assert (person.grey + person.white).max() <= 1.0 + 1e-5
    left = person.brain[: person.shape[0] // 2].sum() / person.brain.sum()
    assert 0.4 < left < 0.6


@pytest.mark.parametrize(
    ("contrast", "order"),
    [(phantom.T1W, ("csf", "grey", "white")), (phantom.FLAIR, ("csf", "white", "grey"))],
)
def test_contrasts_order_the_tissues(head: Head, contrast, order) -> None:
    image = phantom.render(head, contrast, rng())
    csf = head.brain & (head.grey + head.white < 0.05)
    where = {"csf": csf, "grey": head.grey > 0.95, "white": head.white > 0.95}
    means = [image[where[name]].mean() for name in order]
    assert means == sorted(means)
    assert image[head.labels == Tissue.FAT].mean() > 2 * image[head.labels == Tissue.BONE].mean()


@pytest.mark.parametrize("volume_ml", [0.5, 3, 20, 60])
def test_lesion_has_its_volume_in_one_hemisphere_of_the_brain(head: Head, volume_ml) -> None:
    lesion = phantom.grow_lesion(head, CENTRE, volume_ml, rng())
    assert lesion.sum() * 0.027 == pytest.approx(volume_ml, rel=0.1)
    assert ndimage.label(lesion, np.ones((3, 3, 3)))[1] == 1
    assert head.brain[lesion].all()
    assert (nib.affines.apply_affine(head.affine, np.argwhere(lesion))[:, 0] < 0).all()


def test_smaller_lesion_of_the_same_seed_is_inside(head: Head, mask: np.ndarray) -> None:
    small = phantom.grow_lesion(head, CENTRE, 15, rng())
    assert small.sum() < mask.sum()
    assert mask[small].all()


def test_lesion_keeps_out_of_the_ventricles(head: Head, mask: np.ndarray) -> None:
    assert (head.grey + head.white)[mask].mean() > 0.85


@pytest.mark.parametrize(("centre", "volume"), [((-40, 200, 0), 3), (CENTRE, 5000)])
def test_lesion_that_has_no_room_is_refused(head: Head, centre, volume) -> None:
    with pytest.raises(ValueError, match="tissue around the centre"):
        phantom.grow_lesion(head, centre, volume, rng())


def painted(head: Head, mask: np.ndarray, contrast, chronic: bool):
    lesion = phantom.age_lesion(mask, head, rng(), chronic=chronic)
    before = phantom.render(head, contrast, rng())
    return before, phantom.paint(before, head, lesion, contrast, rng()), lesion


def test_subacute_lesion_is_dark_on_t1w_and_bright_on_flair(head: Head, mask: np.ndarray) -> None:
    core = ndimage.binary_erosion(mask)
    before, after, lesion = painted(head, mask, phantom.T1W, chronic=False)
    assert after[core].mean() < before[core].mean() - 0.1
    before, after, _ = painted(head, mask, phantom.FLAIR, chronic=False)
    assert after[core].mean() > before[core].mean() + 0.2
    assert not lesion.cavity.any()


@pytest.mark.parametrize("contrast", [phantom.T1W, phantom.FLAIR])
def test_chronic_lesion_is_a_cavity_with_a_rim(head: Head, mask: np.ndarray, contrast) -> None:
    _, after, lesion = painted(head, mask, contrast, chronic=True)
    assert after[lesion.cavity == 1] == pytest.approx(contrast.csf, abs=0.02)
    rim = mask & (lesion.cavity == 0)
    assert rim.sum() > 0.2 * mask.sum()
    assert abs(after[rim].mean() - contrast.gliosis) < 0.15
    assert (lesion.cavity[~mask] == 0).all()


def test_painting_leaves_the_rest_alone(head: Head, mask: np.ndarray) -> None:
    before, after, _ = painted(head, mask, phantom.FLAIR, chronic=False)
    far = ~ndimage.binary_dilation(mask, iterations=4)
    np.testing.assert_array_equal(after[far], before[far])


def test_coil_hears_less_of_the_neck(head: Head) -> None:
    heard = phantom.receive(np.ones(head.shape, np.float32), head, rng(), strength=0.1)
    height = head.affine[2, 3] + 3.0 * np.arange(head.shape[2])
    assert heard[:, :, height < -135].max() < 0.2
    assert heard[:, :, height > -60].min() > 0.5


def test_rigid_turns_about_z_from_right_to_anterior() -> None:
    matrix = phantom.rigid((0, 0, 90), (1, 2, 3))
    np.testing.assert_allclose(matrix @ [10, 0, 0, 1], [1, 12, 3, 1], atol=1e-12)


def test_rigid_keeps_lengths_and_handedness() -> None:
    linear = phantom.rigid((10, -20, 30), (0, 0, 0))[:3, :3]
    np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(linear) == pytest.approx(1)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PSR", "LPI", "SLA"])
def test_scan_grid_points_where_its_codes_say(codes: str) -> None:
    grid = phantom.scan_grid((10, 20, 30), (1, 2, 3), codes=codes, centre_mm=(4, 5, 6))
    assert "".join(nib.aff2axcodes(grid.affine)) == codes
    np.testing.assert_allclose(nib.affines.voxel_sizes(grid.affine), (1, 2, 3))
    np.testing.assert_allclose(grid.affine @ [4.5, 9.5, 14.5, 1], [4, 5, 6, 1])


def test_tilted_grid_is_oblique_with_the_same_voxels() -> None:
    grid = phantom.scan_grid((10, 20, 30), (1, 2, 3), tilt_deg=(10, 0, 0))
    assert nib.affines.obliquity(grid.affine).max() == pytest.approx(np.deg2rad(10))
    np.testing.assert_allclose(nib.affines.voxel_sizes(grid.affine), (1, 2, 3))


def test_scan_on_the_grid_of_the_head_copies(head: Head) -> None:
    scan = phantom.scan(head.grey, head, np.eye(4), Grid(head.shape, head.affine))
    np.testing.assert_array_equal(scan, head.grey)


def test_thick_slice_is_the_mean_of_its_thin_ones(head: Head) -> None:
    thick = head.affine @ np.diag([1, 1, 4, 1.0])
    thick[2, 3] += 1.5 * head.voxel_mm
    count = head.shape[2] // 4
    scan = phantom.scan(head.grey, head, np.eye(4), Grid((*head.shape[:2], count), thick))
    slabs = head.grey[:, :, : 4 * count].reshape(*head.shape[:2], count, 4).mean(axis=3)
    np.testing.assert_allclose(scan, slabs, atol=1e-5)


def test_head_is_where_the_pose_puts_it(head: Head, mask: np.ndarray) -> None:
    pose = phantom.rigid((5, -4, 12), (8, -3, 6))
    grid = phantom.scan_grid((70, 90, 80), (3, 3, 3), codes="LPI", centre_mm=(0, -5, -20))
    seen = phantom.scan(mask.astype(np.float32), head, pose, grid)
    there = np.array(ndimage.center_of_mass(seen))
    here = np.array(ndimage.center_of_mass(mask))
    expected = nib.affines.apply_affine(pose @ head.affine, here)
    np.testing.assert_allclose(nib.affines.apply_affine(grid.affine, there), expected, atol=0.2)


def test_background_is_rayleigh_noise() -> None:
    image = phantom.digitise(np.zeros((60, 60, 60), np.float32), rng(), noise=0.05)
    assert image.dtype == np.uint8
    assert image.mean() == pytest.approx(110 * 0.05 * np.sqrt(np.pi / 2), rel=0.01)


def test_signal_is_clipped_not_wrapped() -> None:
    image = phantom.digitise(np.full((9, 9, 9), 5.0, np.float32), rng(), noise=0.01)
    assert (image == 255).all()
