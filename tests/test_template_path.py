"""An ensemble with template space from the command line to the group, on tiny brains."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_stroke.cli.run import main
from bids_stroke.core import regions
from bids_stroke.models.templates import SHIPPED, find_template
from tests.bids.skeleton import describe
from tests.small import FLAGS, add_subject
from tests.test_whole_path import names
from tests.tiny_model import write_model
from tests.validator import issues

PARTICIPANTS = {"01": ("T1w", "FLAIR")}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@dataclass(frozen=True)
class Run:
    bids: Path
    out: Path
    work: Path
    code: int

    def anat(self, subject: str) -> Path:
        return self.out / f"sub-{subject}" / "anat"


def model(folder: Path, name: str, folds: int) -> str:
    point = "threshold = 0.3\nmin_volume_mm3 = 500.0"
    path = write_model(folder / name, folds=folds, spacing=6.0, operating_point=point)
    path.write_text(path.read_text().replace('name = "tiny"', f'name = "{name}"'))
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    root = tmp_path_factory.mktemp("template")
    bids, out, work = root / "bids", root / "out", root / "work"
    describe(bids)
    for subject, modalities in PARTICIPANTS.items():
        add_subject(bids, subject, modalities)
    models = ["--model", model(root, "one", 1), model(root, "two", 2), "--ensemble", "stack"]
    spaces = ["--output-spaces", "T1w", "FLAIR", SHIPPED]
    places = [str(bids), str(out), "participant", "-w", str(work)]
    yield Run(bids, out, work, main([*places, *FLAGS, *models, *spaces]))


def more_names(subject: str, modalities: tuple[str, ...]) -> set[str]:
    """What an ensemble and a template add to the golden list."""
    pre, source = f"sub-{subject}_", modalities[0]
    added = {f"{pre}space-{m}_label-L_desc-uncertainty_probseg.nii.gz" for m in modalities}
    there = f"{pre}space-{SHIPPED}_"
    added |= {f"{there}label-L_desc-stroke_{s}.nii.gz" for s in ("mask", "probseg")}
    added |= {f"{there}desc-preproc_{source}.nii.gz", f"{there}seg-regions_dseg.tsv"}
    ways = ((source, SHIPPED), (SHIPPED, source))
    added |= {f"{pre}from-{a}_to-{b}_mode-image_xfm.h5" for a, b in ways}
    return added | {n.partition(".")[0] + ".json" for n in added}


@pytest.mark.parametrize("subject", PARTICIPANTS)
def test_every_file_of_the_name_set_and_no_other(run: Run, subject: str) -> None:
    assert run.code == 0
    modalities = PARTICIPANTS[subject]
    expected = names(subject, modalities) | more_names(subject, modalities)
    assert {path.name for path in run.anat(subject).iterdir()} == expected


def test_validator_has_nothing_to_say(run: Run) -> None:
    assert issues(run.out) == []


@pytest.mark.parametrize("subject", PARTICIPANTS)
def test_tables_tell_of_members_and_of_places(run: Run, subject: str) -> None:
    for modality in PARTICIPANTS[subject]:
        start = run.anat(subject) / f"sub-{subject}_space-{modality}"
        rows = pd.read_csv(f"{start}_seg-lesions_dseg.tsv", sep="\t")
        said = json.loads(Path(f"{start}_seg-lesions_dseg.json").read_text())
        assert len(rows)
        assert set(regions.COLUMNS) <= set(rows)
        assert set(rows) <= set(said)
        assert (rows["members_share"] == 1).all()  # stacking keeps what every model marks
        spread = nib.load(f"{start}_label-L_desc-uncertainty_probseg.nii.gz").get_fdata()
        labels = np.asanyarray(nib.load(f"{start}_seg-lesions_dseg.nii.gz").dataobj)
        means = [spread[labels == i].mean() for i in rows["index"]]
        assert rows["disagreement"].to_list() == pytest.approx(means, abs=1e-4)


@pytest.mark.parametrize("subject", PARTICIPANTS)
def test_maps_lie_on_the_templates_grid(run: Run, subject: str) -> None:
    grid = find_template(SHIPPED).grid
    there = [*run.anat(subject).glob(f"*space-{SHIPPED}_*.nii.gz")]
    assert len(there) == 3
    for path in there:
        made = nib.load(path)
        assert made.shape == grid.shape, path.name
        assert np.allclose(made.affine, grid.affine), path.name
        assert np.asanyarray(made.dataobj).any(), path.name


def test_the_group_shows_the_overlap_and_the_places(run: Run) -> None:
    assert main([str(run.bids), str(run.out), "group", "-w", str(run.work)]) == 0
    counts = np.asanyarray(nib.load(run.out / "group_overlap.nii.gz").dataobj)
    masks = [
        np.asanyarray(nib.load(p).dataobj) for p in run.out.rglob(f"*{SHIPPED}*stroke_mask.nii.gz")
    ]
    assert np.array_equal(counts, np.sum(masks, axis=0))
    assert json.loads((run.out / "group_overlap.json").read_text())["Space"] == SHIPPED
    assert "group_overlap.nii.gz" in (run.out / "group.html").read_text()
    rows = pd.read_csv(run.out / "group_lesions.tsv", sep="\t")
    assert {*regions.COLUMNS, "members_share", "disagreement"} <= set(rows)
    assert rows["hemisphere"].isin(["left", "right", "both", "midline"]).all()
