"""Lesions that bidsgate puts into scans: datasets of the benchmark, its sums, its quick form."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from tests.programs import imported

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "recovery.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks are not installed")


@pytest.fixture(scope="module")
def recovery() -> Iterator[ModuleType]:
    with imported(SCRIPT) as module:
        yield module


def test_each_draw_is_a_session_with_all_images(recovery: ModuleType, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((2, 3, 4), np.float32), np.eye(4))
    scans = {"sub-01_ses-02": {"T1w": image, "FLAIR": image}}
    root = recovery.write(recovery.Cohort("some", scans, []), tmp_path / "scans", 2)
    names = sorted(path.name for path in root.glob("sub-01/ses-*/anat/*"))
    sessions = [f"sub-01_ses-02draw{draw}" for draw in range(2)]
    assert names == [f"{name}_{kind}.nii.gz" for name in sessions for kind in ("FLAIR", "T1w")]
    flairs = recovery.only(root, ["FLAIR"], tmp_path / "flairs")
    assert [p.name for p in sorted(flairs.glob("sub-*/**/*.nii.gz"))] == names[::2]
    assert (flairs / "dataset_description.json").is_file()


def test_a_row_counts_lesions_by_size_and_means_sessions(recovery: ModuleType) -> None:
    def session(volumes: dict[float, bool], dice: float, parts: int) -> dict:
        lesions = [{"volume_mm3": v, "detected": hit} for v, hit in volumes.items()]
        return {
            "per_lesion": lesions,
            "dice": dice,
            "volume_ratio": 1.0,
            "false_positive_components": parts,
            "false_positive_volume_mm3": 500.0 * parts,
        }

    found = [session({30.0: True, 99.0: False, 100.0: True}, 0.5, 1), session({900.0: True}, 1, 2)]
    row = recovery.summary("some", ("T1w", "FLAIR"), found)
    assert row["inputs"] == "T1w + FLAIR" and row["found"] == "3 of 4"
    assert [row[f"{size} mm3"] for size in ("<100", "100-500", ">500")] == [
        "1 of 2",
        "1 of 1",
        "1 of 1",
    ]
    assert (row["Dice"], row["false parts"], row["false mL"]) == (0.75, 1.5, 0.75)


@pytest.mark.real
def test_the_flair_lies_on_the_grid_of_the_t1w(recovery: ModuleType, real_data: Path) -> None:
    """bidsgate refuses pairs that do not share it; the publisher's brain masks must agree there."""
    scan = recovery.Scan(real_data, "sub-01_ses-02")
    images = recovery.on_t1w(scan)
    np.testing.assert_array_equal(images["FLAIR"].affine, images["T1w"].affine)
    assert images["FLAIR"].shape == images["T1w"].shape
    flair, brain = np.asarray(images["FLAIR"].dataobj), np.asarray(scan.brain("T1w").dataobj) > 0
    before = scan.image("FLAIR").get_fdata()[np.asarray(scan.brain("FLAIR").dataobj) > 0]
    assert np.median(flair[brain]) == pytest.approx(np.median(before), rel=0.05)


@pytest.mark.slow
@pytest.mark.real
def test_the_program_finds_most_of_what_bidsgate_put_in(real_data: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(real_data), str(tmp_path), "--quick"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (row,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    found, lesions = row["found"].split(" of ")
    assert int(lesions) == 12 and int(found) >= 8
    assert row["Dice"] > 0.6
