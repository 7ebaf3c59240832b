"""N4 and rigid registration on small brains with a known bias and a known motion."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its own documentation calls it so)
from scipy import ndimage

from bids_stroke.core import geometry
from bids_stroke.core.files import load_image, read_json, save_image
from bids_stroke.interfaces.ants import (
    N4BiasFieldCorrection,
    RigidRegistration,
    judged,
    reproducible,
    thinned,
    to_ants,
)
from tests.core.test_geometry import itk_image, rigid

SHAPE = (40, 48, 34)
AFFINE = np.diag([3.5, 3.5, 3.5, 1])
AFFINE[:3, 3] = (-68, -82, -58)


def mask() -> np.ndarray:
    x, y, z = (axis - (n - 1) / 2 for axis, n in zip(np.indices(SHAPE), SHAPE, strict=True))
    return (x / 17) ** 2 + (y / 21) ** 2 + (z / 14) ** 2 < 1


def tissue() -> np.ndarray:
    """Three tissues in smooth, lopsided shapes."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(12).normal(size=SHAPE), 3)
    levels = np.digitize(smooth, np.quantile(smooth, (0.2, 0.6)))
    return np.where(mask(), np.choose(levels, (60.0, 110.0, 160.0)), 0)


def save(data: np.ndarray, path: Path, dtype: type = np.float32) -> Path:
    return save_image(data, AFFINE, path, dtype=dtype)


def test_arrays_are_given_to_ants_where_itk_has_them() -> None:
    affine = rigid((10, -20, 30), (5, 6, 7)) @ np.diag([-1.0, 2, 3, 1])
    ours, itk = to_ants(np.ones((4, 5, 6)), affine), itk_image(np.ones((4, 5, 6)), affine)
    np.testing.assert_allclose(ours.origin, itk.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(ours.spacing, itk.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(ours.direction.ravel(), itk.GetDirection(), atol=1e-6)
    assert isinstance(itk, sitk.Image)


def test_n4_removes_a_known_bias(tmp_path: Path) -> None:
    x, y, _ = np.indices(SHAPE) / np.array(SHAPE).reshape(3, 1, 1, 1)
    biased = tissue() * np.exp(0.6 * x - 0.4 * y**2)
    inside = mask()
    out = (
        N4BiasFieldCorrection(
            in_file=save(biased, tmp_path / "t1w.nii.gz"),
            in_mask=save(inside, tmp_path / "mask.nii.gz", np.uint8),
            shrink=2,
            levels=4,
            iterations=50,
        )
        .run(cwd=tmp_path)
        .outputs.out_file
    )
    corrected = load_image(out).get_fdata()
    assert not corrected[~inside].any()
    white = inside & (tissue() == 160)

    def variation(data: np.ndarray) -> float:
        return float(data[white].std() / data[white].mean())

    assert variation(biased) > 0.1
    assert variation(corrected) < 0.25 * variation(biased)


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Path]:
    """A brain, and the same brain in another contrast after a known motion."""
    grid, inside = geometry.Grid(SHAPE, AFFINE), mask()
    moving = np.where(inside, 250 - tissue(), 0)
    images = {"moving": moving, "moving_mask": inside}
    images["fixed"] = geometry.resample(tissue(), grid, grid, transform=MOTION, order=1)
    images["fixed_mask"] = geometry.resample(inside, grid, grid, transform=MOTION, order=0)
    return {name: save(data, tmp_path / f"{name}.nii.gz") for name, data in images.items()}


MOTION = rigid((4, -6, 8), (6, -4, 3))


def test_registration_finds_a_known_motion(pair: dict[str, Path], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    outputs = []
    for folder in (first, second):
        folder.mkdir()
        outputs.append(RigidRegistration(**pair).run(cwd=folder).outputs)
    matrix = geometry.read_itk_affine(Path(outputs[0].forward))
    points = nib.affines.apply_affine(AFFINE, np.argwhere(mask()))
    apply = nib.affines.apply_affine
    error = np.linalg.norm(apply(matrix, points) - apply(MOTION, points), axis=1)
    assert error.mean() < 0.35
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-5)
    inverse = geometry.read_itk_affine(Path(outputs[0].inverse))
    np.testing.assert_allclose(inverse @ matrix, np.eye(4), atol=1e-9)
    quality = read_json(outputs[0].qc)
    assert quality["rotation_deg"] == pytest.approx(10.9, abs=0.6)
    assert quality["similarity_after"] > quality["similarity_before"]
    assert quality["brain_overlap_dice"] > 0.95
    assert quality["flags"] == []
    assert Path(outputs[0].forward).read_bytes() == Path(outputs[1].forward).read_bytes()


def test_two_different_brains_are_flagged(pair: dict[str, Path], tmp_path: Path) -> None:
    half = load_image(pair["moving"]).get_fdata()
    half[:, :26] = 0
    pair["moving"] = save(half, tmp_path / "half.nii.gz")
    pair["moving_mask"] = save(half != 0, tmp_path / "half_mask.nii.gz", np.uint8)
    quality = read_json(RigidRegistration(**pair).run(cwd=tmp_path).outputs.qc)
    assert any("overlap" in flag for flag in quality["flags"])


def test_a_registration_that_makes_it_worse_is_not_used() -> None:
    grid = geometry.Grid(SHAPE, AFFINE)
    inside = mask().astype(np.uint8)
    images = {
        "fixed": (tissue(), grid),
        "moving": (np.where(mask(), 300 - tissue(), 0), grid),
        "fixed_mask": (inside, grid),
        "moving_mask": (inside, grid),
    }
    wrong = rigid((0, 0, 0), (12, 0, 0))
    used, quality = judged(images, wrong)
    assert np.array_equal(used, np.eye(4))
    assert any("fell" in flag for flag in quality["flags"])
    assert any("headers was kept" in flag for flag in quality["flags"])
    assert quality["translation_mm"] == 0
    used, quality = judged({**images, "moving": images["fixed"]}, np.eye(4))
    assert np.array_equal(used, np.eye(4))
    assert quality["flags"] == []


@pytest.mark.parametrize(
    ("sides", "step"),
    [((1, 1, 1), (2, 2, 2)), ((0.7, 2, 6), (3, 1, 1)), ((3.5, 3.5, 3.5), (1, 1, 1))],
)
def test_a_registration_is_judged_at_voxels_of_two_millimetres(
    sides: tuple[float, ...], step: tuple[int, ...]
) -> None:
    """Those left are where they were; the moving image, which is interpolated, keeps all."""
    affine = rigid((5, -8, 20), (-20, 3, 9)) @ np.diag([*sides, 1.0])
    values = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    fewer = thinned(
        dict.fromkeys(
            ("fixed", "fixed_mask", "moving", "moving_mask"), (values, geometry.Grid(SHAPE, affine))
        )
    )
    assert fewer["moving"][0] is fewer["moving_mask"][0] is values
    few, coarse = fewer["fixed"]
    assert (
        few.shape == coarse.shape == tuple(-(-n // by) for n, by in zip(SHAPE, step, strict=True))
    )
    at = np.array((4, 5, 4))
    assert few[tuple(at)] == values[tuple(at * step)]
    apply = nib.affines.apply_affine
    np.testing.assert_allclose(apply(coarse.affine, at), apply(affine, at * step))


def test_scans_far_apart_start_at_the_brain_centres(pair: dict[str, Path], tmp_path: Path) -> None:
    image = load_image(pair["moving"])
    away = image.affine.copy()
    away[:3, 3] += (180, -150, 90)
    for name in ("moving", "moving_mask"):
        data = load_image(pair[name]).get_fdata()
        pair[name] = save_image(data, away, tmp_path / f"far_{name}.nii.gz", dtype=np.float32)
    quality = read_json(RigidRegistration(**pair).run(cwd=tmp_path).outputs.qc)
    assert quality["brain_overlap_dice"] > 0.95
    assert quality["rotation_deg"] == pytest.approx(10.9, abs=0.6)
    assert any("mm" in flag for flag in quality["flags"])


def test_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTS_RANDOM_SEED", "77")
    monkeypatch.delenv("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", raising=False)
    with reproducible(5):
        assert os.environ["ANTS_RANDOM_SEED"] == "5"
        assert os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == "1"
    assert os.environ["ANTS_RANDOM_SEED"] == "77"
    assert "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS" not in os.environ
