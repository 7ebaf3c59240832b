"""N4 by matrix products against the filter of ITK, and against a bias that is known."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its own documentation calls it so)
from scipy import ndimage
from scipy.interpolate import BSpline

from bids_stroke.core.bias import kept_by_itk, n4, sharpened, splines
from bids_stroke.core.warps import to_sitk
from tests.core.test_geometry import rigid

SHAPE = (41, 46, 30)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def mask() -> np.ndarray:
    x, y, z = (axis - (n - 1) / 2 for axis, n in zip(np.indices(SHAPE), SHAPE, strict=True))
    return (x / 17) ** 2 + (y / 21) ** 2 + (z / 13) ** 2 < 1


def bias() -> np.ndarray:
    x, y, z = np.indices(SHAPE) / np.array(SHAPE).reshape(3, 1, 1, 1)
    return np.exp(0.5 * x - 0.3 * y**2 + 0.2 * np.sin(3 * z))


def image(seed: int = 12) -> np.ndarray:
    """Three tissues in smooth shapes with noise, under a bias field; a few voxels are 0."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=SHAPE), 3)
    levels = np.digitize(smooth, np.quantile(smooth, (0.2, 0.6)))
    tissue = np.choose(levels, (60.0, 110.0, 160.0)) + rng.normal(scale=3, size=SHAPE)
    tissue[15:17, 20, 12] = 0
    return np.where(mask(), tissue * bias(), 0).astype(np.float32)


def by_itk(
    data: np.ndarray, inside: np.ndarray, shrink: int, levels: int, iterations: int
) -> np.ndarray:
    """The same by ITK's own filters, as ANTs puts them together."""
    whole = sitk.GetImageFromArray(data.T.copy())
    region = sitk.GetImageFromArray(inside.T.astype(np.uint8))
    correcter = sitk.N4BiasFieldCorrectionImageFilter()
    correcter.SetMaximumNumberOfIterations([iterations] * levels)
    correcter.SetConvergenceThreshold(1e-7)
    correcter.SetNumberOfThreads(1)
    factors = [shrink] * 3
    correcter.Execute(sitk.Shrink(whole, factors), sitk.Shrink(region, factors))
    lattice = correcter.GetLogBiasFieldAsImage(whole)
    return np.asarray(data / np.exp(sitk.GetArrayFromImage(lattice).T))


@pytest.mark.parametrize(
    ("shrink", "levels", "iterations"), [(1, 1, 4), (2, 2, 20), (3, 3, 5), (2, 4, 50)]
)
def test_it_is_the_filter_of_itk(shrink: int, levels: int, iterations: int) -> None:
    data = image()
    seen = mask() & (data > 0)
    ours = n4(data, seen, AFFINE, shrink=shrink, levels=levels, iterations=iterations)
    theirs = by_itk(data, seen, shrink, levels, iterations)
    # ITK works in float32, and errors add up over iterations
    np.testing.assert_allclose(ours[seen], theirs[seen], rtol=2e-3)


def test_a_known_bias_is_removed() -> None:
    data, inside = image(), mask() & (image() > 0)
    found = data[inside] / n4(data, mask(), AFFINE, shrink=2)[inside]
    logarithm, true = np.log(found), np.log(bias()[inside])
    left = (logarithm - logarithm.mean()) - (true - true.mean())
    assert left.std() < 0.25 * true.std()


def test_an_empty_mask_and_a_constant_image_stay() -> None:
    data = np.full(SHAPE, 7, dtype=np.float32)
    np.testing.assert_array_equal(n4(data, np.zeros(SHAPE), AFFINE), data)
    np.testing.assert_allclose(n4(data, mask(), AFFINE), data, rtol=1e-5)


@pytest.mark.parametrize("spans", [1, 2, 8])
def test_splines_are_uniform_cubic(spans: int) -> None:
    matrix = splines(25, spans)
    knots = np.arange(-3, spans + 4, dtype=float)
    theirs = BSpline.design_matrix(np.linspace(0, spans, 25), knots, 3).toarray()
    np.testing.assert_allclose(matrix, theirs, atol=1e-12)


def test_sharpening_draws_values_to_the_peaks() -> None:
    rng = np.random.default_rng(3)
    true = rng.choice([4.0, 4.6], size=4000)
    blurred = true + rng.normal(scale=0.06, size=true.size)
    assert np.abs(sharpened(blurred) - true).mean() < 0.5 * np.abs(blurred - true).mean()


def test_voxels_of_0_or_less_have_no_say() -> None:
    data = image()
    np.testing.assert_array_equal(
        n4(data, mask(), AFFINE, levels=1, iterations=5),
        n4(data, mask() & (data > 0), AFFINE, levels=1, iterations=5),
    )
    darker = np.where(data > 0, data, -40)
    both = [n4(one, mask(), AFFINE, levels=1, iterations=5)[data > 0] for one in (data, darker)]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("shape", [(41, 46, 30), (64, 64, 20), (7, 16, 9)])
@pytest.mark.parametrize("shrink", [1, 2, 3, 4])
@pytest.mark.parametrize("angles", [(0, 0, 0), (11, -7, 4), (30, 45, 60)])
def test_the_voxels_of_itk_are_kept(
    shape: tuple[int, int, int], shrink: int, angles: tuple[int, int, int]
) -> None:
    affine = rigid(angles, (12.3, -40.1, 7.7)) @ np.diag([0.47, 0.47, 3.3, 1])
    indices = np.stack(np.indices(shape))
    itk = [sitk.Shrink(to_sitk(axis, affine), [shrink] * 3) for axis in indices]
    expected = np.stack([sitk.GetArrayFromImage(axis).T for axis in itk])
    taken = kept_by_itk(shape, affine, shrink)
    np.testing.assert_array_equal(indices[(slice(None), *np.ix_(*taken))], expected)
