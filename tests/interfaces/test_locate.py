"""Lesion tables with columns of where: sides on every axis order, and the table of regions."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from bids_stroke.core import geometry, lesions, regions, tracts
from bids_stroke.core.atlases import Atlas
from bids_stroke.core.files import read_json, save_image, write_text
from bids_stroke.core.geometry import Grid
from bids_stroke.interfaces import locate
from bids_stroke.interfaces.locate import LocateLesions, region_table
from bids_stroke.models import atlases
from bids_stroke.models.atlases import AtlasSet
from bids_stroke.models.templates import SHIPPED, Template

GRID = Grid(
    (40, 40, 30), np.array([[2.0, 0, 0, -40], [0, 2, 0, -40], [0, 0, 3, -45], [0, 0, 0, 1]])
)
TISSUE = Atlas("tissue", np.ones(GRID.shape, np.int32), GRID.affine, regions.TISSUE)


def halves(name: str) -> Atlas:
    x = apply_affine(GRID.affine, np.indices(GRID.shape).reshape(3, -1).T)[:, 0]
    labels = np.where(x < 0, 1, 2).reshape(GRID.shape).astype(np.int32)
    return Atlas(name, labels, GRID.affine, {1: f"left {name}", 2: f"right {name}"})


@pytest.fixture(autouse=True)
def small_atlases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two halves instead of anatomy, so that nothing but the geometry is tested."""
    known = AtlasSet(
        TISSUE, {"lobe": halves("lobe")}, halves("tract"), {"halves": halves("halves")}
    )
    template = Template(SHIPPED, np.ones(GRID.shape), np.ones(GRID.shape, bool), GRID)
    monkeypatch.setattr(atlases, "gather", lambda given, threshold: known)
    monkeypatch.setattr(locate, "find_template", lambda name: template)


def phantom() -> np.ndarray:
    """A large lesion left in front, a small one right behind."""
    labels = np.zeros(GRID.shape, np.int16)
    labels[5:12, 25:32, 10:14] = 1
    labels[28:31, 5:8, 20:22] = 2
    return labels


def run(tmp_path: Path, labels: np.ndarray, affine: np.ndarray, shift: np.ndarray) -> dict:
    files = {
        "t1w_labels": save_image(labels, affine, tmp_path / "l.nii.gz", dtype=np.int16),
        "mask": save_image(phantom() > 0, GRID.affine, tmp_path / "m.nii.gz", dtype=np.uint8),
        "inverse": geometry.write_itk_affine(shift, tmp_path / "i.txt"),
    }
    table = lesions.table(labels, np.ones(labels.shape), affine)
    text = table.to_csv(sep="\t", index=False, na_rep="n/a")
    files["t1w_table"] = write_text(tmp_path / "t.tsv", text)
    paths = {name: str(path) for name, path in files.items()}
    node = LocateLesions(**paths, template=SHIPPED, source="t1w")
    return node.run(cwd=str(tmp_path)).outputs.get()


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PSR", "PSL", "IRP", "LPI"])
def test_left_stays_left_on_every_axis_order(tmp_path: Path, codes: str) -> None:
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(codes)))
    labels = np.ascontiguousarray(apply_orientation(phantom(), turn))
    affine = GRID.affine @ inv_ornt_aff(turn, GRID.shape)
    assert "".join(nib.aff2axcodes(affine)) == codes
    table = pd.read_csv(run(tmp_path, labels, affine, np.eye(4))["t1w_table"], sep="\t")
    assert table["hemisphere"].tolist() == ["left", "right"]
    assert table["lobe"].tolist() == ["left lobe", "right lobe"]
    assert table["n_voxels"].tolist() == [196, 18]


def test_the_transform_is_used_from_the_image_to_the_template(tmp_path: Path) -> None:
    """The image lies 60 mm to the left of the template: the transform brings it back."""
    affine, shift = GRID.affine.copy(), np.eye(4)
    affine[0, 3] -= 60
    shift[0, 3] = 60
    table = pd.read_csv(run(tmp_path, phantom(), affine, shift)["t1w_table"], sep="\t")
    assert table["hemisphere"].tolist() == ["left", "right"]


def test_regions_and_location(tmp_path: Path) -> None:
    made = run(tmp_path, phantom(), GRID.affine, np.eye(4))
    table = pd.read_csv(made["regions"], sep="\t", keep_default_na=False)
    assert list(table.columns) == list(locate.REGION_COLUMNS)
    assert set(locate.region_dictionary()) == set(table.columns)
    assert table["index"].tolist() == [1, 2, 3, 4]
    assert table["name"].tolist()[:2] == ["halves: left halves", "halves: right halves"]
    assert table["lesion_volume_mm3"].astype(float).tolist() == [196 * 12, 18 * 12] * 2
    assert table["severity"].tolist() == ["n/a", "n/a", "medium", "small"]
    location = read_json(Path(made["location"]))
    assert location["volume_mm3"]["hemisphere"] == {"left": 2352.0, "right": 216.0}
    left = location["tracts"]["left tract"]
    assert left["raw_mm3"] == 2352.0
    expected = tracts.tract_load(phantom(), halves("tract").labels == 1, GRID.affine)
    assert left["weighted_mm3"] == pytest.approx(expected.weighted_mm3)


def test_a_session_without_a_lesion(tmp_path: Path) -> None:
    made = run(tmp_path, np.zeros(GRID.shape, np.int16), GRID.affine, np.eye(4))
    table = pd.read_csv(made["t1w_table"], sep="\t")
    assert len(table) == 0
    assert set(regions.COLUMNS) <= set(table.columns)
    assert read_json(Path(made["location"]))["ventricle_distance_mm"] is None


def test_regions_end_where_the_brain_does() -> None:
    brain = np.zeros(GRID.shape, bool)
    brain[:20] = True
    known = AtlasSet(TISSUE, {}, None, {"halves": halves("halves")})
    table = region_table(phantom(), GRID, brain, known, (2.0, 7.0))
    assert table["region_volume_mm3"].tolist() == [20 * 40 * 30 * 12, 0]
