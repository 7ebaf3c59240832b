"""Where lesions are, against counts by pandas and by brute force, and left against right."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_stroke.core import regions
from bids_stroke.core.atlases import Atlas
from bids_stroke.core.geometry import Grid
from bids_stroke.core.regions import Voxels
from bids_stroke.models.templates import tissues

NAMES = {1: "one", 2: "two", 5: "five"}


def random_voxels(seed: int, n: int = 300, count: int = 4) -> Voxels:
    rng = np.random.default_rng(seed)
    return Voxels(rng.integers(1, count + 1, n), rng.uniform(-9, 9, (n, 3)))


def random_atlas(seed: int) -> Atlas:
    labels = np.random.default_rng(seed).choice([0, 0, 1, 2, 5], (10, 10, 10)).astype(np.int32)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -9
    return Atlas("a", labels, affine, NAMES)


@pytest.fixture(scope="module")
def tissue() -> Atlas:
    maps = tissues()
    return regions.tissue_atlas(maps.grey, maps.white, maps.brain, maps.affine)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_main_region_by_counting(seed: int) -> None:
    voxels, atlas = random_voxels(seed), random_atlas(seed + 1)
    found = regions.main_region(voxels, atlas, 4)
    for lesion in range(1, 5):
        here = atlas.at(voxels.points[voxels.lesion == lesion])
        count = Counter(int(label) for label in here if label)
        best = min(count, key=lambda label: (-count[label], label))
        assert found[lesion - 1] == NAMES[best]


def test_a_lesion_outside_the_atlas_has_no_region() -> None:
    voxels = Voxels(np.array([1, 1]), np.full((2, 3), 500.0))
    assert regions.main_region(voxels, random_atlas(0), 1) == ["n/a"]


def test_the_hemisphere_of_all_lesions_is_that_of_their_voxels() -> None:
    points = np.zeros((100, 3))
    points[:, 0] = [-5.0] * 85 + [5.0] * 15
    voxels = Voxels(np.array([1] * 80 + [2] * 20), points)
    assert regions.hemispheres(voxels, 2) == ["left", "both"]
    assert regions.hemisphere(voxels) == "both"
    assert regions.hemisphere(Voxels(voxels.lesion, points - [6, 0, 0])) == "left"
    assert regions.hemisphere(Voxels(np.zeros(0, int), np.zeros((0, 3)))) == "n/a"


@pytest.mark.parametrize(("inside", "name"), [(9, "n/a"), (10, "one")])
def test_a_fringe_in_an_atlas_does_not_name_a_lesion(inside: int, name: str) -> None:
    atlas = Atlas("a", np.ones((2, 2, 2), np.int32), np.eye(4), NAMES)
    points = np.full((100, 3), 500.0)
    points[:inside] = 0
    voxels = Voxels(np.ones(100, dtype=int), points)
    assert regions.main_region(voxels, atlas, 1) == [name]


def test_a_lesion_outside_the_brain_has_no_depth(tissue: Atlas) -> None:
    voxels = Voxels(np.array([1, 2]), np.array([[0.0, 0, 500], [25, -60, -40]]))
    assert regions.depths(voxels, tissue, 2) == ["n/a", "infratentorial"]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_shares_equal_a_groupby(seed: int) -> None:
    rng = np.random.default_rng(seed)
    atlas = random_atlas(seed)
    lesion = rng.random(atlas.labels.shape) < 0.3
    table = regions.region_shares(lesion, atlas.labels, atlas, atlas.affine)
    frame = pd.DataFrame({"label": atlas.labels.ravel(), "hit": lesion.ravel()})
    by = frame.groupby("label")["hit"].agg(["size", "sum"]).loc[list(NAMES)]
    assert table["region"].tolist() == list(NAMES.values())
    assert table["region_volume_mm3"].tolist() == pytest.approx((8 * by["size"]).tolist())
    assert table["lesion_volume_mm3"].tolist() == pytest.approx((8 * by["sum"]).tolist())
    assert table["lesioned_share"].to_numpy() == pytest.approx((by["sum"] / by["size"]).to_numpy())
    assert table["lesion_share"].to_numpy() == pytest.approx((by["sum"] / lesion.sum()).to_numpy())


def test_shares_without_a_lesion() -> None:
    atlas = random_atlas(3)
    table = regions.region_shares(np.zeros((10, 10, 10)), atlas.labels, atlas, atlas.affine)
    assert (table["lesioned_share"] == 0).all()
    assert table["lesion_share"].isna().all()


def test_hemispheres_left_is_negative_x() -> None:
    x = [-30, -20, -1, 30, 20, 5, -30, 30, 0, 0]
    lesion = [1, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    points = np.c_[x, np.zeros(10), np.zeros(10)]
    assert regions.hemispheres(Voxels(np.array(lesion), points), 4) == [
        "left",
        "right",
        "both",
        "both",
    ]


def test_a_tenth_on_the_other_side_is_one_sided() -> None:
    points = np.zeros((100, 3))
    points[:, 0] = [-1] * 90 + [1] * 10
    assert regions.hemispheres(Voxels(np.ones(100, int), points), 1) == ["left"]
    points[89, 0] = 1
    assert regions.hemispheres(Voxels(np.ones(100, int), points), 1) == ["both"]


def test_distance_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((6, 7, 8)) < 0.1
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    points = rng.uniform(0, 12, (40, 3))
    centres = np.argwhere(mask) * [2.0, 1.0, 3.0]
    expected = np.linalg.norm(points[:, None] - centres[None], axis=-1).min(axis=1)
    assert regions.distance_at(points, mask, affine) == pytest.approx(expected)
    assert np.isnan(regions.distance_at(points, mask & False, affine)).all()


PLACES = {
    "left cerebral cortex": (-48, -32, 44),
    "right deep grey matter": (12, -18, 8),
    "left deep grey matter": (-27, 4, 0),
    "right cerebral white matter": (26, -10, 32),
    "left cerebellum": (-25, -60, -40),
    "right cerebellum": (25, -60, -40),
    "brainstem": (3, -28, -35),
    "ventricles": (8, -8, 20),
}


@pytest.mark.parametrize(("name", "point"), PLACES.items())
def test_tissue_atlas_knows_known_places(
    tissue: Atlas, name: str, point: tuple[int, int, int]
) -> None:
    assert tissue.names[int(tissue.at(np.array([point]))[0])] == name


def on_brain(tissue: Atlas) -> np.ndarray:
    """Labels of the template's brain voxels at 2 mm."""
    maps = tissues()
    x, y, z = maps.brain.shape
    return tissue.on_grid(Grid((x, y, z), maps.affine))[maps.brain]


def test_tissue_atlas_leaves_no_voxel_of_the_brain_out(tissue: Atlas) -> None:
    assert (on_brain(tissue) > 0).mean() > 0.995


def test_tissue_volumes_are_anatomical(tissue: Atlas) -> None:
    """Millilitres of an average head of young adults, in wide bounds, and sides alike."""
    ml = np.bincount(on_brain(tissue), minlength=11) * 8 / 1000
    assert 120 < ml[7] + ml[8] < 230
    assert 20 < ml[9] < 45
    assert 10 < ml[10] < 40
    for left in (1, 3, 5, 7):
        assert ml[left] == pytest.approx(ml[left + 1], rel=0.12)


def ball(centre: tuple[int, int, int], radius: int) -> np.ndarray:
    axis = np.arange(-radius, radius + 1)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return grid[np.linalg.norm(grid, axis=1) <= radius] + np.array(centre, float)


def test_an_asymmetric_phantom_is_told_apart(tissue: Atlas) -> None:
    """A small deep lesion left, a large cortical one right, one in the cerebellum right."""
    places = [ball((-27, 2, 4), 4), ball((50, 20, 28), 10), ball((25, -60, -40), 6)]
    voxels = Voxels(np.repeat([1, 2, 3], [len(p) for p in places]), np.concatenate(places))
    table = regions.locate(voxels, 3, tissue, {"lobe": regions.infratentorial_names(tissue)})
    assert list(table.columns) == list(regions.COLUMNS)
    assert table["hemisphere"].tolist() == ["left", "right", "right"]
    assert table["depth"].tolist() == ["deep", "cortical", "infratentorial"]
    assert table["lobe"].tolist() == ["n/a", "n/a", "cerebellum"]
    assert (table["territory"] == "n/a").all()
    near, far, _ = table["ventricle_distance_mm"]
    assert near < far


def test_no_lesion_no_row(tissue: Atlas) -> None:
    voxels = Voxels(np.zeros(0, int), np.zeros((0, 3)))
    assert len(regions.locate(voxels, 0, tissue, {})) == 0


def test_the_brainstem_is_r2_whatever_the_atlas_says(tissue: Atlas) -> None:
    everywhere = Atlas(
        "super_region", np.ones((200, 240, 200), np.int32),
        np.array([[1.0, 0, 0, -100], [0, 1, 0, -130], [0, 0, 1, -80], [0, 0, 0, 1]]),
        {1: "R1", 2: "R2"},
    )  # fmt: skip
    found = regions.with_cerebellum(everywhere, tissue)
    assert found.at(np.array([PLACES["brainstem"], PLACES["left cerebral cortex"]])).tolist() == [
        2,
        1,
    ]
