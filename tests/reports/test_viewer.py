"""What the viewer is given: grids, left and right, thresholds, sizes, and hostile text."""

import base64
import gzip
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from bids_stroke.core import lesions
from bids_stroke.core.files import save_image
from bids_stroke.core.geometry import grid_of, resample
from bids_stroke.reports import collect, layers, participant, viewer
from tests.reports import fake

RAS = np.array([[1.0, 0, 0, -20], [0, 1, 0, -24], [0, 0, 1.5, -12], [0, 0, 0, 1]])
SHAPE = (40, 48, 20)


def decoded(content: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(content)))


def brain() -> np.ndarray:
    """A box that is brighter on the right, with one bright voxel block at +x, +y, +z."""
    data = np.zeros(SHAPE, np.float32)
    data[5:35, 5:43, 3:17] = 100
    data[28:32, 36:40, 12:15] = 400
    return data


def payload(html: str) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASL"])
def test_every_storage_order_shows_the_same_place(codes: str) -> None:
    image = nib.Nifti1Image(brain(), RAS)
    turned = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes)))
    volume = viewer.Volume(name="T1w", data=np.asarray(turned.dataobj), limits=(0, 400))
    (content,), _ = viewer.encoded([volume], turned.affine)
    shown = decoded(content)
    assert nib.aff2axcodes(shown.affine) == ("R", "A", "S")
    peak = np.argwhere(shown.get_fdata() > 300).mean(axis=0)
    truth = nib.affines.apply_affine(RAS, np.argwhere(brain() > 300).mean(axis=0))
    np.testing.assert_allclose(nib.affines.apply_affine(shown.affine, peak), truth, atol=0.6)


def test_values_survive_within_a_step() -> None:
    volume = viewer.Volume(name="T1w", data=brain(), limits=(0, 400))
    (content,), voxel = viewer.encoded([volume], RAS)
    shown = decoded(content)
    assert voxel == 1.0 and shown.get_data_dtype() == np.uint8
    back = resample(shown.get_fdata(), grid_of(shown), viewer.Grid(SHAPE, RAS), order=0)
    assert np.abs(back - brain()).max() <= 400 / 255 / 2 + 1e-3


def test_a_probability_at_the_threshold_stays_at_or_above_it() -> None:
    grades = np.linspace(0, 1, 40 * 48 * 20).reshape(SHAPE).astype(np.float32)
    image = viewer.Volume(name="T1w", data=np.ones(SHAPE))
    map_ = viewer.Volume(name="P", data=grades, kind="map", limits=(0.05, 1))
    (_, content), _ = viewer.encoded([image, map_], RAS)
    shown = decoded(content).get_fdata()
    for threshold in layers.THRESHOLDS:
        wrong = (shown >= threshold - 1e-6) != (grades >= threshold)
        assert wrong.mean() < 1e-3, "only values within float's reach of the threshold may differ"


@pytest.mark.parametrize("most", [1, 40, 255, 900])
def test_counts_are_told_as_they_are_and_one_is_never_lost(most: int) -> None:
    counts = np.zeros(SHAPE, np.uint16)
    counts[10, 10, 10], counts[20, 20, 10], counts[30, 30, 10] = 1, max(most // 2, 1), most
    image = viewer.Volume(name="T", data=np.ones(SHAPE))
    role = {"kind": "map", "role": "count", "limits": (0.5, float(most))}
    (_, content), _ = viewer.encoded([image, viewer.Volume(name="N", data=counts, **role)], RAS)
    shown = decoded(content).get_fdata()
    np.testing.assert_allclose(shown, counts, atol=0 if most <= 255 else 900 / 255)
    np.testing.assert_array_equal(shown > 0, counts > 0)


def test_large_images_are_reduced_until_they_fit() -> None:
    rng = np.random.default_rng(0)
    noise = viewer.Volume(name="T1w", data=rng.uniform(1, 2, (90, 90, 90)))
    labels = viewer.Volume(name="L", data=np.ones((90, 90, 90)), kind="labels", color="#ffffff")
    contents, voxel = viewer.encoded([noise, labels], np.eye(4), max_bytes=100_000)
    assert sum(map(len, contents)) <= 100_000 and voxel > 1.5
    assert decoded(contents[0]).shape == decoded(contents[1]).shape


def test_thick_slices_are_not_made_thinner() -> None:
    affine = np.diag([0.5, 0.5, 4, 1])
    (content,), _ = viewer.encoded([viewer.Volume(name="T1w", data=np.ones((40, 40, 10)))], affine)
    np.testing.assert_allclose(decoded(content).header.get_zooms(), (1, 1, 4))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="not 'mesh'"):
        viewer.encoded([viewer.Volume(name="x", data=brain(), kind="mesh")], RAS)


def test_text_cannot_leave_its_place() -> None:
    volume = viewer.Volume(name=fake.HOSTILE, data=brain())
    html = str(viewer.viewer_html([volume], RAS, name="v", title="</script>" + fake.HOSTILE))
    assert "<script>alert" not in html and html.count("</script>") == 1
    assert payload(html)["layers"][0]["name"] == fake.HOSTILE


def test_linked_images_are_named_and_not_carried() -> None:
    volume = viewer.Volume(name="T1w", data=brain(), file="sub-01/anat/sub-01_T1w.nii.gz")
    html = str(viewer.viewer_html([volume], RAS, name="v", title="t", linked=True))
    assert payload(html)["layers"][0]["base64"] == ""
    assert 'href="sub-01/anat/sub-01_T1w.nii.gz"' in html


def test_the_library_is_packed_whole() -> None:
    carried = gzip.decompress(base64.b64decode(viewer.niivue()))
    assert carried == files("nilearn").joinpath("_assets", "js", "niivue.umd.js").read_bytes()
    assert len(viewer.niivue()) < len(carried) / 2


def test_a_page_without_a_viewer_carries_no_library() -> None:
    assert viewer.assets([""]) == {}
    assert "Redistribution" in str(viewer.assets(["x"])["licences"])


def test_cuts_are_those_of_the_program(tmp_path: Path) -> None:
    probability = fake.lesion_probability(4)
    own = viewer.Cut(threshold=0.37, volume_ml=1.0, count=9)
    rules = {"min_volume_mm3": 300.0, "connectivity": 26, "inclusive": True}
    found = layers.cuts(probability, fake.AFFINE, own, **rules)
    assert own in found.steps and found.own == 0.37
    assert [c.threshold for c in found.steps] == sorted(c.threshold for c in found.steps)
    for cut in found.steps:
        if cut is own:
            continue
        labels = lesions.segment(probability, fake.AFFINE, threshold=cut.threshold, **rules)
        assert cut.count == labels.max()
        assert cut.volume_ml == pytest.approx(np.count_nonzero(labels) * 64 / 1000)


def test_the_viewer_jumps_into_a_lesion_not_to_its_centroid() -> None:
    labels = np.zeros(SHAPE, np.int16)
    labels[5:30, 5, 5] = labels[5:30, 30, 5] = labels[5, 5:30, 5] = 1
    images = layers.Images("T1w", RAS, {"lesions": labels}, {})
    point = layers.places(images)[1]
    voxel = np.rint(nib.affines.apply_affine(np.linalg.inv(RAS), point)).astype(int)
    assert labels[tuple(voxel)] == 1


def test_a_damaged_image_costs_the_viewer_not_the_page(tmp_path: Path) -> None:
    fake.write_session(tmp_path, {"subject": "01"}, ("FLAIR",), count=1)
    image = next(tmp_path.rglob("*_desc-preproc_FLAIR.nii.gz"))
    image.write_bytes(image.read_bytes()[:900])
    html = participant.write_participant_report(tmp_path, "01").read_text(encoding="utf-8")
    assert "The viewer is left out" in html and "NiiVue" not in html


def test_an_image_on_another_grid_is_left_out(tmp_path: Path) -> None:
    fake.write_session(tmp_path, {"subject": "01"}, count=1)
    path = next(tmp_path.rglob("*_space-FLAIR_desc-preproc_T1w.nii.gz"))
    save_image(np.ones((9, 9, 9)), np.eye(4), path, dtype=np.float32)
    session = collect.sessions(tmp_path, "01")[0]
    images = layers.load(tmp_path, session)
    assert images is not None and images.modalities == ["FLAIR"]


def test_a_session_without_images_has_a_page(tmp_path: Path) -> None:
    fake.write_session(tmp_path, {"subject": "01"}, ("T1w",), count=1)
    for path in tmp_path.rglob("*.nii.gz"):
        path.unlink()
    html = participant.write_participant_report(tmp_path, "01").read_text(encoding="utf-8")
    assert 'class="viewer"' not in html and "in 1 lesion" in html


def test_pages_of_several_sessions_stay_small(outputs: Path) -> None:
    assert (outputs / "sub-01.html").stat().st_size < 15_000_000
