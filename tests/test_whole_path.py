"""From a BIDS dataset to derivatives by the command line, on tiny heads with known lesions."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_stroke.cli.demo import main as demo
from bids_stroke.cli.run import main
from bids_stroke.core.files import sha256
from tests.validator import issues

PARTICIPANTS = {"02": ("T1w", "FLAIR"), "03": ("T1w",), "04": ("FLAIR",)}


@dataclass(frozen=True)
class Run:
    bids: Path
    out: Path
    work: Path
    code: int
    before: dict[str, str]

    def logs(self) -> list[Path]:
        return [path for path in (self.out / "logs").iterdir() if path.is_dir()]


def checksums(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file()}


def participant(run_or_bids: Path, out: Path, work: Path, *more: str) -> int:
    return main(
        [str(run_or_bids), str(out), "participant", "-w", str(work), "--device", "cpu", *more]
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    root = tmp_path_factory.mktemp("whole path")  # a space in the name, as users have
    bids, out, work = root / "bids", root / "out", root / "work"
    assert demo([str(bids), "--tiny"]) == 0
    before = checksums(bids)
    labels = ["--participant-label", *PARTICIPANTS]
    yield Run(bids, out, work, participant(bids, out, work, *labels), before)


def names(subject: str, modalities: tuple[str, ...]) -> set[str]:
    """The golden list of images, tables and transforms of a session."""
    pre = f"sub-{subject}_"
    made = {f"{pre}desc-brain_mask"}
    for m in modalities:
        made |= {f"{pre}desc-preproc_{m}", f"{pre}space-{m}_label-L_desc-stroke_mask"}
        made |= {f"{pre}space-{m}_label-L_desc-stroke_probseg", f"{pre}space-{m}_seg-lesions_dseg"}
    images = {f"{n}.nii.gz" for n in made}
    tables = {f"{pre}space-{m}_seg-lesions_dseg.tsv" for m in modalities}
    transforms: set[str] = set()
    if len(modalities) == 2:
        images |= {f"{pre}space-FLAIR_desc-brain_mask.nii.gz"}
        images |= {f"{pre}space-T1w_desc-preproc_FLAIR.nii.gz"}
        transforms |= {f"{pre}from-{a}_to-{b}_mode-image_xfm.txt" for a, b in (("T1w", "FLAIR"),)}
        transforms |= {f"{pre}from-FLAIR_to-T1w_mode-image_xfm.txt"}
    everything = images | tables | transforms
    return everything | {n.partition(".")[0] + ".json" for n in everything}


def test_all_participants_are_complete(run: Run) -> None:
    assert run.code == 0


@pytest.mark.parametrize("subject", PARTICIPANTS)
def test_every_file_of_the_name_set_and_no_other(run: Run, subject: str) -> None:
    folder = run.out / f"sub-{subject}" / "anat"
    assert {p.name for p in folder.iterdir()} == names(subject, PARTICIPANTS[subject])


def test_validator_has_nothing_to_say(run: Run) -> None:
    assert issues(run.out) == []


def test_input_is_untouched(run: Run) -> None:
    assert checksums(run.bids) == run.before


@pytest.mark.parametrize("subject", PARTICIPANTS)
def test_everything_in_a_space_is_on_its_grid(run: Run, subject: str) -> None:
    raw = run.bids / f"sub-{subject}" / "anat"
    for modality in PARTICIPANTS[subject]:
        source = nib.load(raw / f"sub-{subject}_{modality}.nii.gz")
        folder = run.out / f"sub-{subject}" / "anat"
        there = [*folder.glob(f"*space-{modality}_*.nii.gz")]
        there += [folder / f"sub-{subject}_desc-preproc_{modality}.nii.gz"]
        assert len(there) >= 4
        for path in there:
            made = nib.load(path)
            assert made.shape == source.shape[:3], path.name
            assert np.allclose(made.affine, source.affine, atol=1e-4), path.name
            assert np.allclose(made.get_qform(), made.get_sform(), atol=1e-3), path.name


@pytest.mark.parametrize("subject", PARTICIPANTS)
def test_mask_probability_labels_and_table_agree(run: Run, subject: str) -> None:
    for modality in PARTICIPANTS[subject]:
        start = run.out / f"sub-{subject}" / "anat" / f"sub-{subject}_space-{modality}"
        mask = nib.load(f"{start}_label-L_desc-stroke_mask.nii.gz")
        probability = nib.load(f"{start}_label-L_desc-stroke_probseg.nii.gz").get_fdata()
        labels = np.asanyarray(nib.load(f"{start}_seg-lesions_dseg.nii.gz").dataobj)
        rows = pd.read_csv(f"{start}_seg-lesions_dseg.tsv", sep="\t")
        sidecar = json.loads(Path(f"{start}_label-L_desc-stroke_mask.json").read_text())
        lesion = np.asanyarray(mask.dataobj) > 0
        voxel = abs(np.linalg.det(mask.affine[:3, :3]))
        assert np.array_equal(lesion, labels > 0)
        assert (probability[lesion] >= sidecar["Threshold"] - 1e-6).all()
        assert rows["n_voxels"].tolist() == np.bincount(labels.ravel())[1:].tolist()
        assert rows["volume_mm3"].sum() == pytest.approx(lesion.sum() * voxel, rel=1e-4)
        assert (rows["volume_mm3"] >= sidecar["MinimumVolume"] - 1e-3).all()


def test_sidecars_tell_where_a_mask_came_from(run: Run) -> None:
    path = run.out / "sub-02/anat/sub-02_space-FLAIR_label-L_desc-stroke_mask.json"
    sidecar = json.loads(path.read_text())
    assert sidecar["Type"] == "Lesion"
    assert sidecar["Manual"] is False
    assert sidecar["SpatialReference"] == "bids:raw:sub-02/anat/sub-02_FLAIR.nii.gz"
    assert sidecar["Sources"] == [
        f"bids:raw:sub-02/anat/sub-02_{m}.nii.gz" for m in PARTICIPANTS["02"]
    ]
    assert "synthetic" in sidecar["Model"]["TrainingData"].lower()
    assert all(len(sha) == 64 for sha in sidecar["Model"]["SHA256"].values())


def test_known_lesions_are_found_where_they_are(run: Run) -> None:
    """Not how well: the lesion of 20 mL is hit, and the masks lie over it on both grids."""
    for modality in PARTICIPANTS["02"]:
        found = nib.load(
            run.out / f"sub-02/anat/sub-02_space-{modality}_label-L_desc-stroke_mask.nii.gz"
        )
        known = run.bids / "derivatives/truth/sub-02/anat"
        truth = nib.load(known / f"sub-02_space-{modality}_label-L_desc-truth_mask.nii.gz")
        a, b = (np.asanyarray(i.dataobj) > 0 for i in (found, truth))
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.3


def test_report_says_what_the_model_is(run: Run) -> None:
    page = (run.out / "sub-02.html").read_text()
    assert "synthetic" in page
    outside = re.findall(r"""<[^>]+(?:src|href)=["']https?://[^"']+""", page)
    assert not [tag for tag in outside if not tag.startswith("<a ")]  # links may be clicked


def test_second_run_recomputes_nothing(run: Run, capsys: pytest.CaptureFixture) -> None:
    """It passes over who is complete; without a record of that it looks at each step."""
    before, logs = checksums(run.out / "sub-03"), set(run.logs())
    assert participant(run.bids, run.out, run.work, "--participant-label", "03") == 0
    assert "1 of 1 participants were complete already." in capsys.readouterr().out
    (log,) = set(run.logs()) - logs
    assert not (log / "timing.tsv").exists()
    (record,) = run.work.glob("*/finished/sub-03.json")
    record.unlink()
    assert participant(run.bids, run.out, run.work, "--participant-label", "03") == 0
    (log,) = set(run.logs()) - logs - {log}
    steps = pd.read_csv(log / "timing.tsv", sep="\t")["step"].unique()
    assert not {"conform", "brain extraction", "N4", "segmentation"} & set(steps)
    assert checksums(run.out / "sub-03") == before


def test_group_compares_with_the_known_lesions(run: Run, capsys: pytest.CaptureFixture) -> None:
    assert main([str(run.bids), str(run.out), "group", "-w", str(run.work)]) == 0
    rows = pd.read_csv(run.out / "group_metrics.tsv", sep="\t")
    assert set(rows["participant_id"]) == {f"sub-{s}" for s in PARTICIPANTS}
    assert (run.out / "group.html").is_file()
    assert "Dice" in capsys.readouterr().out


def test_nothing_half_written_is_left(run: Run) -> None:
    assert not [p for p in run.out.rglob("*") if ".tmp-" in p.name]


@pytest.fixture
def mixed(tmp_path: Path, run: Run) -> tuple[Path, dict[str, str]]:
    """A dataset with one good participant and one for every way to be bad; with what is said."""
    bids = tmp_path / "bids"
    shutil.copytree(run.bids / "sub-03", bids / "sub-good")
    for path in (bids / "sub-good").rglob("sub-03*"):
        path.rename(path.with_name(path.name.replace("sub-03", "sub-good")))
    shutil.copy(run.bids / "dataset_description.json", bids)
    whole = (bids / "sub-good/anat/sub-good_T1w.nii.gz").read_bytes()
    image = nib.load(bids / "sub-good/anat/sub-good_T1w.nii.gz")
    data = image.get_fdata(dtype=np.float32)
    nans = np.where(np.arange(data.size).reshape(data.shape) % 3 == 0, np.nan, data)
    bad = {
        "empty": b"",
        "corrupt": whole[:500] + bytes(200) + whole[700:],
        "truncated": whole[: len(whole) // 2],
        "nan": nib.Nifti1Image(nans, image.affine),
        "constant": nib.Nifti1Image(np.full_like(data, 7), image.affine),
        "zero": nib.Nifti1Image(np.zeros_like(data), image.affine),
        "fourd": nib.Nifti1Image(np.stack([data, data], -1), image.affine),
        "twod": nib.Nifti1Image(data[:, :, 0], image.affine),
    }
    for name, content in bad.items():
        path = bids / f"sub-{name}/anat/sub-{name}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            nib.save(content, path)
    return bids, dict.fromkeys(bad, "")


def test_bad_files_are_named_and_the_others_finish(
    mixed: tuple[Path, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bids, bad = mixed
    out = tmp_path / "out"
    assert participant(bids, out, tmp_path / "work") == 1
    said = capsys.readouterr().out
    for name in bad:
        lines = [line for line in said.splitlines() if f"sub-{name}: FAILED" in line]
        assert len(lines) == 1, name
        assert f"sub-{name}_T1w.nii.gz" in lines[0], lines
        assert "Traceback" not in lines[0]
        assert not list(out.glob(f"sub-{name}/**/*mask*"))
        page = (out / f"sub-{name}.html").read_text()
        assert f"sub-{name}_T1w.nii.gz" in page
    assert "sub-good: complete" in said
    assert list(out.glob("sub-good/anat/*desc-stroke_mask.nii.gz"))
    assert not [p for p in out.rglob("*") if ".tmp-" in p.name]
