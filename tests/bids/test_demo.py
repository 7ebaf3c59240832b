"""The demonstration dataset: valid, reproducible, and true about itself."""

import hashlib
import json
from itertools import islice
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from bids_stroke.bids import demo
from bids_stroke.core.geometry import grid_of, read_itk_affine, resample
from bids_stroke.errors import CannotCreate
from tests.validator import issues

SCANS = {
    "sub-01_ses-01": {"T1w", "FLAIR"},
    "sub-01_ses-02": {"T1w", "FLAIR"},
    "sub-02": {"T1w", "FLAIR"},
    "sub-03": {"T1w"},
    "sub-04": {"FLAIR"},
    "sub-05": {"T1w", "FLAIR"},
    "sub-06": {"T1w", "FLAIR"},
    "sub-07": {"T1w", "FLAIR"},
}
BOTH = [label for label, suffixes in SCANS.items() if len(suffixes) == 2]
EACH = [(label, suffix) for label, suffixes in SCANS.items() for suffix in sorted(suffixes)]
WITH_LESION = [(label, suffix) for label, suffix in EACH if label != "sub-05"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    assert len(list(demo.write_demo(root, voxel_mm=3.0))) == 7
    return root


def load(root: Path, label: str, ending: str) -> nib.Nifti1Image:
    folder = "truth" in ending or "space" in ending or "brain" in ending
    base = root / "derivatives" / "truth" if folder else root
    return nib.load(base.joinpath(*label.split("_"), "anat", f"{label}_{ending}.nii.gz"))


def lesion(root: Path, label: str, suffix: str) -> nib.Nifti1Image:
    return load(root, label, f"space-{suffix}_label-L_desc-truth_mask")


def brain(root: Path, label: str, suffix: str) -> nib.Nifti1Image:
    return load(root, label, f"space-{suffix}_desc-brainTruth_mask")


def as_bool(image: nib.Nifti1Image) -> np.ndarray:
    return np.asarray(image.dataobj) > 0


def centroid(image: nib.Nifti1Image) -> np.ndarray:
    return nib.affines.apply_affine(image.affine, np.argwhere(as_bool(image)).mean(axis=0))


def volume_ml(image: nib.Nifti1Image) -> float:
    return as_bool(image).sum() * abs(np.linalg.det(image.affine)) / 1000


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.mark.parametrize("dataset", [".", "derivatives/truth"])
def test_validator_is_silent(tiny: Path, dataset: str) -> None:
    assert issues(tiny / dataset) == []


def test_has_the_scans_that_it_should(tiny: Path) -> None:
    found: dict[str, set[str]] = {}
    for path in tiny.glob("sub-*/**/*.nii.gz"):
        label, _, suffix = path.name.removesuffix(".nii.gz").rpartition("_")
        found.setdefault(label, set()).add(suffix)
    assert found == SCANS


def test_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        list(islice(demo.write_demo(tmp_path / name, seed=seed, voxel_mm=4.0), 1))
    first, second, other = (digests(tmp_path / name) for name in "abc")
    assert first == second
    scans = [name for name in first if name.endswith("T1w.nii.gz")]
    assert scans
    assert all(first[name] != other[name] for name in scans)


@pytest.mark.parametrize(("label", "suffix"), EACH)
def test_truth_is_on_the_grid_of_its_scan(tiny: Path, label: str, suffix: str) -> None:
    scan = load(tiny, label, suffix)
    for truth in (lesion(tiny, label, suffix), brain(tiny, label, suffix)):
        assert truth.shape == scan.shape
        np.testing.assert_array_equal(truth.affine, scan.affine)
        assert truth.get_data_dtype() == np.uint8
        assert set(np.unique(truth.dataobj)) <= {0, 1}


@pytest.mark.parametrize(("label", "suffix"), EACH)
def test_lesion_is_in_the_brain(tiny: Path, label: str, suffix: str) -> None:
    inside = as_bool(brain(tiny, label, suffix))[as_bool(lesion(tiny, label, suffix))]
    assert inside.size == 0 or inside.mean() > 0.9


@pytest.mark.parametrize(("label", "suffix"), WITH_LESION)
def test_lesion_differs_from_the_other_side(tiny: Path, label: str, suffix: str) -> None:
    scan, mask = load(tiny, label, suffix), lesion(tiny, label, suffix)
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[0, 3] = 2 * centroid(brain(tiny, label, suffix))[0]
    grid = grid_of(scan)
    values = np.asarray(scan.dataobj, dtype=float)
    here, tissue = as_bool(mask), as_bool(brain(tiny, label, suffix))
    there = (resample(here, grid, grid, transform=mirror, order=0) > 0) & tissue & ~here
    assert ks_2samp(values[here], values[there]).statistic > 0.35


@pytest.mark.parametrize("label", BOTH)
def test_known_motion_joins_the_two_scans(tiny: Path, label: str) -> None:
    stem = f"{label}_from-T1w_to-FLAIR_mode-image_xfm"
    folder = tiny.joinpath("derivatives", "truth", *label.split("_"), "anat")
    pull = read_itk_affine(folder / f"{stem}.txt")
    matrix = json.loads((folder / f"{stem}.json").read_text())["MatrixRAS"]
    np.testing.assert_allclose(matrix, pull, atol=1e-6)
    moving, fixed = brain(tiny, label, "T1w"), brain(tiny, label, "FLAIR")
    source, target = grid_of(moving), grid_of(fixed)
    apart, joined = (
        dice(resample(as_bool(moving), source, target, transform=t) >= 0.5, as_bool(fixed))
        for t in (None, pull)
    )
    assert joined > 0.975
    assert apart < joined - 0.005


@pytest.mark.parametrize("label", [label for label in BOTH if label != "sub-05"])
def test_lesions_of_the_two_scans_are_one_lesion(tiny: Path, label: str) -> None:
    folder = tiny.joinpath("derivatives", "truth", *label.split("_"), "anat")
    push = read_itk_affine(folder / f"{label}_from-FLAIR_to-T1w_mode-image_xfm.txt")
    t1w, flair = (lesion(tiny, label, suffix) for suffix in ("T1w", "FLAIR"))
    expected = nib.affines.apply_affine(push, centroid(t1w))
    np.testing.assert_allclose(centroid(flair), expected, atol=1.0)
    assert volume_ml(flair) == pytest.approx(volume_ml(t1w), rel=0.08)


def test_the_two_motions_are_inverse_and_small(tiny: Path) -> None:
    folder = tiny / "derivatives" / "truth" / "sub-06" / "anat"
    there, back = (
        read_itk_affine(folder / f"sub-06_from-{a}_to-{b}_mode-image_xfm.txt")
        for a, b in (("T1w", "FLAIR"), ("FLAIR", "T1w"))
    )
    np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-9)
    angle = np.degrees(np.arccos((np.trace(there[:3, :3]) - 1) / 2))
    assert 0.2 < angle < 6
    assert 0.2 < np.linalg.norm(there[:3, 3]) < 8


@pytest.mark.parametrize(("label", "suffix"), WITH_LESION)
def test_side_in_the_table_is_the_side_in_the_world(tiny: Path, label: str, suffix: str) -> None:
    people = pd.read_csv(tiny / "participants.tsv", sep="\t", index_col=0)
    mask, head = lesion(tiny, label, suffix), brain(tiny, label, suffix)
    points = nib.affines.apply_affine(mask.affine, np.argwhere(as_bool(mask)))
    right = (points[:, 0] > centroid(head)[0]).mean()
    side = people.loc[label.split("_")[0], "lesion_side"]
    assert {"left": right < 0.01, "right": right > 0.99, "both": 0.005 < right < 0.995}[side]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("sub-01_ses-01", 20),
        ("sub-01_ses-02", 15),
        ("sub-02", 3),
        ("sub-03", 60),
        ("sub-05", 0),
        ("sub-06", 60.5),
        ("sub-07", 20.5),
    ],
)
def test_lesions_have_the_volumes_of_the_plan(tiny: Path, label: str, expected: float) -> None:
    mask = lesion(tiny, label, "T1w")
    assert volume_ml(mask) == pytest.approx(expected, rel=0.1)
    sidecar = json.loads(Path(mask.get_filename().replace(".nii.gz", ".json")).read_text())
    assert sidecar["VolumeMM3"] == pytest.approx(volume_ml(mask) * 1000, abs=0.1)
    assert sidecar["Manual"] is False
    assert sidecar["Type"] == "Lesion"


def test_storage_varies_as_the_plan_says(tiny: Path) -> None:
    codes = {
        (label, suffix): "".join(nib.aff2axcodes(load(tiny, label, suffix).affine))
        for label, suffix in EACH
    }
    assert codes["sub-07", "T1w"] == "PSR"
    assert codes["sub-07", "FLAIR"] == "LPI"
    assert codes["sub-01_ses-01", "FLAIR"] == "LAS"
    oblique = {
        label: np.degrees(nib.affines.obliquity(load(tiny, label, "T1w").affine).max())
        for label in BOTH
    }
    assert oblique["sub-06"] > 10
    assert oblique["sub-02"] < 0.01


def test_says_that_it_is_synthetic(tiny: Path) -> None:
    assert "synthetic" in (tiny / "README.md").read_text()
    assert "synthetic" in json.loads((tiny / "dataset_description.json").read_text())["Name"]
    sidecars = list(tiny.glob("sub-*/**/*.json"))
    assert all("ynthetic" in path.read_text() for path in sidecars if "sessions" not in path.name)


def test_removal_leaves_what_is_not_the_demo(tmp_path: Path) -> None:
    list(islice(demo.write_demo(tmp_path, voxel_mm=6.0), 1))
    mine = tmp_path / "derivatives" / "mine" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("keep")
    demo.remove_demo(tmp_path)
    assert mine.read_text() == "keep"
    assert not (tmp_path / "sub-01").exists()
    assert not (tmp_path / "derivatives" / "truth").exists()


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"GeneratedBy": []}', '{"GeneratedBy": [{"Name": "other"}]}']
)
def test_removal_refuses_the_datasets_of_others(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset_description.json").write_text(text)
    (tmp_path / "sub-01").mkdir()
    with pytest.raises(CannotCreate, match="is not a demonstration dataset"):
        demo.remove_demo(tmp_path)
    assert (tmp_path / "sub-01").is_dir()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_brain_extraction_works_on_the_full_phantom(tmp_path: Path) -> None:
    deepbet = pytest.importorskip("deepbet")
    extraction = deepbet.BrainExtraction(no_gpu=True)
    list(islice(demo.write_demo(tmp_path), 1))
    for suffix in ("T1w", "FLAIR"):
        _, found, _ = extraction.run(load(tmp_path, "sub-01_ses-02", suffix))
        truth = as_bool(brain(tmp_path, "sub-01_ses-02", suffix))
        assert dice(as_bool(found), truth) > 0.96
