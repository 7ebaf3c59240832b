"""Atlases: looking up, groups, gaps, and the names of lobes and super-regions."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from bids_stroke.core import atlases
from bids_stroke.core.atlases import Atlas
from bids_stroke.core.geometry import Grid

AFFINE = np.array([[-2.0, 0, 0, 10], [0, 2, 0, -12], [0, 0, 3, -9], [0, 0, 0, 1]])


def random_atlas(seed: int = 0) -> Atlas:
    labels = np.random.default_rng(seed).integers(0, 5, (10, 12, 6)).astype(np.int32)
    return Atlas("a", labels, AFFINE, {1: "one", 2: "two", 3: "three", 4: "four"})


def test_points_are_looked_up_as_scipy_does() -> None:
    atlas = random_atlas()
    points = np.random.default_rng(1).uniform(-15, 15, (500, 3))
    index = apply_affine(np.linalg.inv(AFFINE), points)
    expected = ndimage.map_coordinates(
        atlas.labels, index.T, order=0, mode="grid-constant", cval=0, prefilter=False
    )
    inside = np.abs(index - np.rint(index)).max(axis=1) < 0.49
    assert inside.sum() > 300
    assert np.array_equal(atlas.at(points)[inside], expected[inside])
    assert atlas.at(np.zeros((0, 3))).shape == (0,)


def test_on_its_own_grid_in_another_orientation() -> None:
    """An atlas stored as LAS looks the same from RAS: nothing is mirrored."""
    atlas = random_atlas()
    image = nib.as_closest_canonical(nib.Nifti1Image(atlas.labels, AFFINE))
    found = atlas.on_grid(Grid(image.shape, image.affine))
    assert np.array_equal(found, np.asanyarray(image.dataobj))
    assert not np.array_equal(found, atlas.labels)


def test_most_probable_region_if_it_is_enough() -> None:
    maps = np.zeros((1, 1, 4, 2))
    maps[0, 0, :, 0] = [0.3, 0.2, 0.25, 0.5]
    maps[0, 0, :, 1] = [0.6, 0.1, 0.0, 0.5]
    assert atlases.from_probabilities(maps, 0.25).ravel().tolist() == [2, 0, 1, 1]


def test_gaps_get_their_nearest_label_within_reach() -> None:
    labels = np.zeros((9, 1, 1), np.int32)
    labels[0], labels[8] = 1, 2
    atlas = Atlas("a", labels, np.diag([2.0, 5, 5, 1]), {1: "x", 2: "y"})
    grown = atlases.filled(atlas, 4.0)
    x = np.array([-6.0, -4, -2, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22])
    found = grown.at(np.c_[x, np.zeros((15, 2))])
    assert found.tolist() == [0, 1, 1, 1, 1, 1, 0, 0, 0, 2, 2, 2, 2, 2, 0]


def test_groups_hold_all_their_regions_and_no_other() -> None:
    atlas = random_atlas()
    found = atlases.grouped(
        atlas, {"one": "odd", "two": None, "three": "odd", "four": "even"}.get, "g"
    )
    assert found.names == {1: "even", 2: "odd"}
    assert np.array_equal(found.labels == 2, np.isin(atlas.labels, (1, 3)))
    assert np.array_equal(found.labels == 1, atlas.labels == 4)


@pytest.mark.parametrize(
    ("name", "region"),
    [
        ("Inferior_Frontal_Gyrus", "R1"),
        ("Left Cerebrum:Frontal Lobe:Inf Frontal Gyrus:Gray Matter:Brodmann area 44", "R1"),
        ("Thalamus", "R1"),
        ("Insula", "R1"),
        ("Left Cerebrum:Sub-lobar:Extra-Nuclear", "R1"),
        ("Culmen_of_Vermis", "R2"),
        ("Right Brainstem:Midbrain", "R2"),
        ("Superior_Frontal_Gyrus", "R3"),
        ("Precuneus", "R3"),
        ("Superior_Occipital_Gyrus", "R3"),
        ("Left Cerebrum:Frontal Lobe:Sub-Gyral", "R3"),
        ("Superior_Temporal_Gyrus", "R4"),
        ("Anterior_Cingulate", "R4"),
        ("Medial_Frontal_Gyrus", "R4"),
        ("Parahippocampal_Gyrus", "R4"),
        ("Sub-Gyral", None),
        ("Background", None),
    ],
)
def test_super_regions(name: str, region: str | None) -> None:
    assert atlases.super_region(name) == region


@pytest.mark.parametrize(
    ("name", "lobe"),
    [
        ("ctx-lh-rostralmiddlefrontal", "frontal"),
        ("ctx-rh-precentral", "frontal"),
        ("ctx-rh-postcentral", "parietal"),
        ("ctx-lh-precuneus", "parietal"),
        ("ctx-lh-cuneus", "occipital"),
        ("ctx-lh-inferiortemporal", "temporal"),
        ("Left-Hippocampus", "temporal"),
        ("ctx-lh-isthmuscingulate", "cingulate"),
        ("Right-Putamen", "deep grey matter"),
        ("Right-Cerebellum-White-Matter", "cerebellum"),
        ("Brain-Stem", "brainstem"),
        ("Left-Cerebral-White-Matter", None),
        ("Left-Lateral-Ventricle", None),
    ],
)
def test_lobes(name: str, lobe: str | None) -> None:
    assert atlases.desikan_lobe(name) == lobe


def test_talairach_affine_takes_the_anterior_commissure_near_zero() -> None:
    """MNI's anterior commissure (0, 4, -5) lies near the origin of Talairach."""
    assert np.linalg.norm(apply_affine(atlases.TALAIRACH_FROM_MNI, [0, 3, -4])) < 2.5
    there = atlases.from_talairach(np.eye(4))
    assert apply_affine(atlases.TALAIRACH_FROM_MNI, apply_affine(there, [30, -20, 10])) == (
        pytest.approx([30, -20, 10])
    )
