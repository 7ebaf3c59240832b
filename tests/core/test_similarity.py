"""Numbers that judge a registration, against scikit-image, scikit-learn, scipy and SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its own documentation calls it so)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from skimage.metrics import normalized_mutual_information

from bids_stroke.core import similarity

GENERATOR = np.random.default_rng(8)
BASE = GENERATOR.normal(size=(14, 15, 16))
EVERYWHERE = np.ones(BASE.shape)


def test_nmi_equals_scikit_image() -> None:
    other = np.sin(BASE) + GENERATOR.normal(scale=0.3, size=BASE.shape)
    mask = BASE > -1
    cut = [np.clip(a[mask], *np.percentile(a[mask], (1, 99))) for a in (BASE, other)]
    ours = similarity.normalised_mutual_information(BASE, other, mask, bins=20)
    assert ours == pytest.approx(normalized_mutual_information(*cut, bins=20), abs=1e-9)


def test_nmi_of_equal_unrelated_and_missing_images() -> None:
    nmi = similarity.normalised_mutual_information
    assert nmi(BASE, -3 * BASE + 1, EVERYWHERE) == pytest.approx(2)
    large = GENERATOR.normal(size=(2, 60, 60, 60))
    assert nmi(*large, np.ones((60, 60, 60))) == pytest.approx(1, abs=0.01)
    assert nmi(BASE, BASE, np.zeros(BASE.shape)) == 1
    assert nmi(np.zeros(BASE.shape), np.zeros(BASE.shape), EVERYWHERE) == 1


def test_nmi_falls_with_a_shift() -> None:
    smooth = np.cumsum(np.cumsum(BASE, 0), 1)
    values = [
        similarity.normalised_mutual_information(smooth, np.roll(smooth, step, 0), EVERYWHERE)
        for step in (0, 1, 4)
    ]
    assert values == sorted(values, reverse=True)


def test_dice_equals_itk() -> None:
    a, b = BASE > 0.3, BASE > 0.6
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*(sitk.GetImageFromArray(m.astype(np.uint8)) for m in (a, b)))
    assert similarity.dice(a, b) == pytest.approx(overlap.GetDiceCoefficient())
    assert similarity.dice(a * 0, b * 0) == 1
    assert similarity.dice(a, b * 0) == 0


@settings(max_examples=30, deadline=None)
@given(
    angle=st.floats(0.01, 179.9),
    axis=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda a: np.linalg.norm(a) > 0.1),
)
def test_rotation_angle_about_any_axis(angle: float, axis: tuple[float, ...]) -> None:
    unit = np.array(axis) / np.linalg.norm(axis)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(unit * angle, degrees=True).as_matrix()
    assert similarity.rotation_deg(matrix) == pytest.approx(angle, abs=1e-5)


def test_centroid_and_displacement() -> None:
    mask = np.zeros((9, 9, 9))
    mask[2:5, 4, 6] = 1
    affine = np.diag([-2.0, 3, 4, 1])
    affine[:3, 3] = (1, 2, 3)
    centre = similarity.centroid_mm(mask, affine)
    np.testing.assert_allclose(centre, (-5, 14, 27))
    shift = np.eye(4)
    shift[:3, 3] = (3, 0, 4)
    np.testing.assert_allclose(similarity.displacement_mm(shift, np.stack([centre, centre])), 5)


def test_each_sign_of_a_wrong_registration_has_its_flag() -> None:
    good = {"before": 1.1, "after": 1.2, "rotation": 3.0, "translation": 4.0, "overlap": 0.95}
    assert similarity.registration_flags(**good) == []
    for key, value, word in (
        ("after", 1.0, "Similarity fell"),
        ("rotation", 45.0, "45 degrees"),
        ("translation", 80.0, "80 mm"),
        ("overlap", 0.5, "0.50"),
    ):
        (flag,) = similarity.registration_flags(**{**good, key: value})
        assert word in flag
