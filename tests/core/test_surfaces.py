"""Surface distances against surface-distance, SimpleITK and all pairs of points, and by hand."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from bids_stroke.core import surfaces
from tests.core.masks import blobs

SPACINGS = [(1.0, 1.0, 1.0), (0.75, 0.75, 3.3), (1.2, 0.9, 2.0)]
UNIT = (1.0, 1.0, 1.0)
SYMMETRIC = ("assd_pooled_mm", "assd_meanofmeans_mm", "hd_mm", "hd95_max_mm", "nsd_surfel_2mm")


def line(*voxels: int) -> NDArray:
    mask = np.zeros((12, 3, 3), dtype=bool)
    mask[list(voxels), 1, 1] = True
    return mask


def test_the_definitions_differ() -> None:
    """From voxel 0 to voxels 1 and 4: 1 mm one way, 1 and 4 mm the other."""
    values = surfaces.surface_metrics(line(0), line(1, 4), UNIT)
    assert values["assd_pooled_mm"] == pytest.approx(2.0)
    assert values["assd_meanofmeans_mm"] == pytest.approx(1.75)
    assert values["assd_max_mm"] == pytest.approx(2.5)
    assert values["hd_mm"] == 4.0
    assert values["hd95_max_mm"] == pytest.approx(1 + 0.95 * 3)
    assert values["hd95_pooled_mm"] == pytest.approx(np.percentile([1, 1, 4], 95))


def test_a_cube_has_no_surface_inside() -> None:
    cube = np.ones((5, 5, 5), dtype=bool)
    assert len(surfaces.voxel_surface(cube, UNIT).points) == 5**3 - 3**3
    assert len(surfaces.surfel_surface(cube, UNIT).points) == 6**3 - 4**3


def test_area_of_a_voxel() -> None:
    """Eight equilateral triangles between the middles of edges, as marching cubes cuts a voxel."""
    one = surfaces.surfel_surface(line(3), UNIT)
    assert one.weights == pytest.approx(np.full(8, np.sqrt(3) / 8))


def test_area_of_a_plate_grows_with_its_spacing() -> None:
    plate = np.ones((60, 60, 1), dtype=bool)
    area = surfaces.surfel_surface(plate, (2.0, 0.5, 1.0)).weights.sum()
    assert area == pytest.approx(2 * 60 * 60 * 1.0, rel=0.05)


def contour(mask: NDArray) -> NDArray:
    """Indices of mask voxels with a background neighbour, one voxel at a time."""
    steps = [*np.eye(3, dtype=int), *-np.eye(3, dtype=int)]
    inside = {tuple(v) for v in np.argwhere(mask).tolist()}
    return np.array([v for v in sorted(inside) if any(tuple(v + s) not in inside for s in steps)])


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(3))
def test_voxel_surfaces_equal_all_pairs(seed: int, spacing: tuple[float, float, float]) -> None:
    reference, predicted = blobs(seed, (10, 11, 8))
    apart = cdist(contour(reference) * spacing, contour(predicted) * spacing)
    there, back = apart.min(axis=1), apart.min(axis=0)
    values = surfaces.surface_metrics(reference, predicted, spacing)
    assert values["assd_pooled_mm"] == pytest.approx(np.mean([*there, *back]))
    assert values["assd_meanofmeans_mm"] == pytest.approx((there.mean() + back.mean()) / 2)
    assert values["assd_max_mm"] == pytest.approx(max(there.mean(), back.mean()))
    assert values["hd_mm"] == pytest.approx(max(there.max(), back.max()))
    directed = np.percentile(there, 95), np.percentile(back, 95)
    assert values["hd95_max_mm"] == pytest.approx(max(directed))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(3))
def test_voxel_surfaces_equal_simpleitk(seed: int, spacing: tuple[float, float, float]) -> None:
    masks = [np.pad(mask, 1) for mask in blobs(seed)]
    edges, maps = [], []
    for mask in masks:
        image = sitk.GetImageFromArray(mask.astype(np.uint8).T)
        image.SetSpacing(spacing)
        edge = sitk.LabelContour(image, fullyConnected=False)
        away = sitk.SignedMaurerDistanceMap(edge, squaredDistance=False, useImageSpacing=True)
        edges.append(sitk.GetArrayFromImage(edge).T > 0)
        maps.append(np.abs(sitk.GetArrayFromImage(away).T))
    both = np.concatenate([maps[1][edges[0]], maps[0][edges[1]]])
    values = surfaces.surface_metrics(*masks, spacing)
    assert values["assd_pooled_mm"] == pytest.approx(both.mean(), rel=1e-5)
    assert values["hd_mm"] == pytest.approx(both.max(), rel=1e-5)
    assert values["hd95_pooled_mm"] == pytest.approx(np.percentile(both, 95), rel=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(4))
def test_surfels_equal_surface_distance(seed: int, spacing: tuple[float, float, float]) -> None:
    reference, predicted = blobs(seed)
    theirs = surface_distance.compute_surface_distances(reference, predicted, spacing)
    means = surface_distance.compute_average_surface_distance(theirs)
    values = surfaces.surface_metrics(reference, predicted, spacing)
    assert values["assd_surfel_mm"] == pytest.approx(np.mean(means), rel=1e-6)
    hausdorff = surface_distance.compute_robust_hausdorff(theirs, 100)
    assert values["hd_surfel_mm"] == pytest.approx(hausdorff)
    dice = surface_distance.compute_surface_dice_at_tolerance(theirs, surfaces.TOLERANCE_MM)
    assert values["nsd_surfel_2mm"] == pytest.approx(dice, rel=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_areas_of_all_cubes_equal_surface_distance() -> None:
    spacing = (0.7, 1.3, 3.3)
    cubes = [np.array([c >> b & 1 for b in range(8)], dtype=bool) for c in range(1, 256)]
    for cube in (bits.reshape(2, 2, 2) for bits in cubes):
        theirs = surface_distance.compute_surface_distances(cube, cube, spacing)
        ours = surfaces.surfel_surface(cube, spacing).weights
        assert ours.sum() == pytest.approx(theirs["surfel_areas_gt"].sum(), rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SPACINGS))
def test_bounds_and_symmetry(seed: int, spacing: tuple[float, float, float]) -> None:
    reference, predicted = blobs(seed, (10, 9, 8))
    there = surfaces.surface_metrics(reference, predicted, spacing)
    back = surfaces.surface_metrics(predicted, reference, spacing)
    assert [there[name] for name in SYMMETRIC] == pytest.approx([back[name] for name in SYMMETRIC])
    assert 0 <= there["assd_meanofmeans_mm"] <= there["assd_max_mm"] <= there["hd_mm"]
    assert max(there["hd95_pooled_mm"], there["hd95_max_mm"]) <= there["hd_mm"]
    assert 0 <= there["nsd_surfel_2mm"] <= 1
    same = surfaces.surface_metrics(reference, reference, spacing)
    assert same["hd_mm"] == same["assd_surfel_mm"] == 0
    assert same["nsd_surfel_2mm"] == pytest.approx(1)


def test_distances_grow_with_the_voxels() -> None:
    reference, predicted = blobs(1)
    once = surfaces.surface_metrics(reference, predicted, (1.0, 1.0, 2.0))
    twice = surfaces.surface_metrics(reference, predicted, (2.0, 2.0, 4.0))
    names = [name for name in once if name.endswith("_mm")]
    assert [twice[name] for name in names] == pytest.approx([2 * once[name] for name in names])


def test_tolerance_holds_its_limit() -> None:
    """Five voxels of 0.4 mm are 2 mm: within; six are not."""
    near, far = (
        surfaces.surface_metrics(line(5), line(5 + shift), (0.4, 9.0, 9.0)) for shift in (5, 6)
    )
    assert near["nsd_surfel_2mm"] == pytest.approx(1)
    assert far["nsd_surfel_2mm"] == pytest.approx(1 / 2)  # the faces that look at each other


def test_an_empty_mask_has_no_distance() -> None:
    empty = line()
    both, one = (surfaces.surface_metrics(empty, mask, UNIT) for mask in (empty, line(2)))
    distances = [name for name in surfaces.COLUMNS if name.endswith("_mm")]
    assert all(np.isnan(values[name]) for values in (both, one) for name in distances)
    assert (both["nsd_surfel_2mm"], one["nsd_surfel_2mm"]) == (1, 0)


def test_every_column_is_explained() -> None:
    assert list(surfaces.surface_metrics(line(1), line(2), UNIT)) == [*surfaces.COLUMNS]
