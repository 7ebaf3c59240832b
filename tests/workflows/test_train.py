"""The graph of cases: what it shares with the participant level, and what it adds."""

from pathlib import Path

import pytest
from nipype.pipeline.engine import Workflow

from bids_stroke import config as cfg
from bids_stroke.bids.pairs import Pair
from bids_stroke.bids.training_checks import Reference
from bids_stroke.models import descriptor
from bids_stroke.workflows.base import init_bids_stroke_wf
from bids_stroke.workflows.train import case_file, init_cases_wf, where_file
from tests.tiny_model import write_model
from tests.training_data import tiny_recipe, write_dataset


@pytest.fixture
def given(tmp_path: Path) -> dict:
    """Configuration, a pair with its reference, and a model with the recipe's preprocessing."""
    bids = write_dataset(tmp_path / "bids", participants=1)
    anat = bids / "sub-01" / "anat"
    pair = Pair(
        subject="01",
        t1w=anat / "sub-01_T1w.nii.gz",
        flair=anat / "sub-01_FLAIR.nii.gz",
        entities={"subject": "01", "suffix": "T1w"},
    )
    mask = next(bids.glob("derivatives/manual/sub-01/anat/*_mask.nii.gz"))
    dataset = cfg.Dataset(bids_dir=bids, output_dir=tmp_path / "out", level="train")
    return {
        "config": cfg.Config(dataset=dataset, execution=cfg.Execution(work_dir=tmp_path / "work")),
        "reference": Reference(pair=pair, space="T1w", file=mask),
        "model": descriptor.load(write_model(tmp_path / "models")),
    }


def cases_wf(given: dict, folder: Path, **settings: object) -> Workflow:
    recipe = tiny_recipe(
        preprocessing={"steps": list(given["model"].preprocessing.steps), "reference": "T1w"}
    )
    return init_cases_wf(
        config=given["config"],
        references=[given["reference"]],
        groups={"sub-01": "sub-01"},
        recipe=recipe,
        device="cpu",
        log_dir=folder,
        **settings,  # type: ignore[arg-type]
    )


def hashes(workflow: Workflow) -> dict[str, str]:
    """Hash of what each preprocessing node is given, by its full name, which is its folder."""
    nodes = workflow._create_flat_graph().nodes()
    return {
        node.fullname: node.inputs.get_hashval(hash_method="content")[1]
        for node in nodes
        if "preproc_wf" in node.fullname.split(".")
    }


def test_steps_of_the_participant_level_are_those_of_training(given: dict, tmp_path: Path) -> None:
    """Equal folders and equal inputs: nipype computes nothing twice in one work folder."""
    participant = init_bids_stroke_wf(
        config=given["config"],
        pairs=[given["reference"].pair],
        descriptors={"sub-01": (given["model"], "named")},
        device="cpu",
        log_dir=tmp_path / "logs",
    )
    of_participant, of_training = hashes(participant), hashes(cases_wf(given, tmp_path / "logs"))
    assert len(of_training) > 8
    assert of_training.items() <= of_participant.items()


def test_references_are_located_when_asked(given: dict, tmp_path: Path) -> None:
    names = [node.name for node in cases_wf(given, tmp_path)._get_all_nodes()]
    assert "case" in names and "where" not in names
    pair_wf = cases_wf(given, tmp_path, locate=True).get_node(given["reference"].pair.workflow_name)
    where, steps = pair_wf.get_node("where"), tmp_path / "steps"
    incoming = {
        target
        for *_, links in pair_wf._graph.in_edges(where, data=True)
        for _, target in links["connect"]
    }
    assert incoming == {"image", "brain", "label"}
    assert (
        where_file(steps, given["reference"]).parents[1]
        == (case_file(steps, given["reference"]).parents[1])
    )
