"""What fMRIPrep would find in the folder that is made for it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from bids_stroke.core.files import load_image, write_json
from bids_stroke.reports import collect
from bids_stroke.reports.exports import export_fmriprep
from tests.reports import cohorts
from tests.reports.cohorts import block


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset with its output inside; sub-02 has no lesion, sub-03 a mask of its own."""
    root = tmp_path / "raw"
    for name in (
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-03/anat/sub-03_T1w.nii.gz",
        "sub-03/anat/sub-03_label-lesion_roi.nii.gz",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    write_json(root / "dataset_description.json", {"Name": "raw", "BIDSVersion": "1.10.0"})
    (root / ".bidsignore").write_text("extra\n")
    out = root / "derivatives" / "bids_stroke"
    cohorts.write_session(out, {"subject": "01", "session": "1"}, block(4, 3))
    cohorts.write_session(out, {"subject": "02"}, block(4, 0))
    cohorts.write_session(out, {"subject": "03"}, block(4, 2))
    return root


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def export(root: Path) -> tuple[Path, int]:
    out = root / "derivatives" / "bids_stroke"
    return export_fmriprep(root, out, collect.sessions(out))


def test_masks_lie_beside_links_and_the_input_stays_as_it_was(dataset: Path) -> None:
    raw = {n: c for n, c in files_of(dataset).items() if not n.startswith("derivatives")}
    folder, count = export(dataset)
    assert (folder.name, count) == ("fmriprep_input", 2)
    mask = folder / "sub-01/ses-1/anat/sub-01_ses-1_T1w_label-lesion_roi.nii.gz"
    image = load_image(mask)
    assert np.array_equal(np.asarray(image.dataobj) > 0, block(4, 3))
    assert np.allclose(image.affine, cohorts.NATIVE)
    for name in ("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01/ses-1/func", "sub-02"):
        assert (folder / name).is_symlink()
        assert (folder / name).resolve() == (dataset / name).resolve()
    rois = sorted(p.name for p in (folder / "sub-03" / "anat").glob("*roi*"))
    assert rois == ["sub-03_T1w_label-lesion_roi.nii.gz"]
    assert not (folder / "derivatives").exists()
    assert (folder / ".bidsignore").read_text() == "extra\n*lesion_roi.nii.gz\n"
    after = {n: c for n, c in files_of(dataset).items() if not n.startswith("derivatives")}
    assert after == raw


def test_an_export_over_an_older_one_never_writes_through_a_link(dataset: Path) -> None:
    export(dataset)
    out = dataset / "derivatives" / "bids_stroke"
    cohorts.write_session(out, {"subject": "02"}, block(4, 3))  # sub-02 was a link till now
    folder, count = export(dataset)
    assert count == 3
    assert (folder / "sub-02/anat/sub-02_T1w_label-lesion_roi.nii.gz").is_file()
    assert not list((dataset / "sub-02").rglob("*roi*"))


def test_fmriprep_finds_what_it_looks_for(dataset: Path) -> None:
    """niworkflows' own query, which fMRIPrep and sMRIPrep use."""
    niworkflows = pytest.importorskip("niworkflows.utils.bids")
    folder, _ = export(dataset)
    found, _ = niworkflows.collect_data(str(folder), "01", bids_validate=False)
    assert [Path(p).name for p in found["roi"]] == ["sub-01_ses-1_T1w_label-lesion_roi.nii.gz"]
    assert [Path(p).name for p in found["t1w"]] == ["sub-01_ses-1_T1w.nii.gz"]
    assert len(found["bold"]) == 1


def test_the_output_ignores_the_folder_once(dataset: Path) -> None:
    out = dataset / "derivatives" / "bids_stroke"
    for _ in range(2):
        export(dataset)
    assert (out / ".bidsignore").read_text().split() == ["fmriprep_input"]
    shutil.rmtree(out / "fmriprep_input")
    assert (dataset / "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz").exists()
