"""The workflow of figures: every wanted figure is made, none hangs in the air."""

from dataclasses import replace
from pathlib import Path

import pytest
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from bids_stroke.bids.names import output_path
from bids_stroke.bids.pairs import Pair
from bids_stroke.models.descriptor import Descriptor, OperatingPoint, Preprocessing
from bids_stroke.workflows import outputs, reports

POINT = OperatingPoint(threshold=0.5, min_volume_mm3=10)
DESCRIPTOR = Descriptor(
    name="m",
    version="1",
    title="",
    description="",
    intended_use="",
    training_data="",
    licence="",
    citation="",
    format="nnunetv2",
    folder="m",
    channels=("T1w", "FLAIR"),
    inputs=(("T1w", "FLAIR"), ("T1w",), ("FLAIR",)),
    preprocessing=Preprocessing(
        steps=("brain_extraction", "register", "n4", "zscore"), reference="FLAIR"
    ),
    operating_point=POINT,
)
STEPS_WITHOUT = Preprocessing(steps=("brain_extraction", "zscore"), reference="FLAIR")


def pair_of(*modalities: str) -> Pair:
    files = {m.lower(): Path(f"sub-01_{m}.nii.gz") for m in modalities}
    return Pair(subject="01", entities={"subject": "01"}, **files)


def reportlets(pair: Pair, descriptor: Descriptor) -> Workflow:
    return reports.init_reportlets_wf(
        pair=pair,
        reference=pair.modalities[-1],
        descriptor=descriptor,
        reason="asked for",
        operating_point=POINT,
    )


@pytest.mark.parametrize("preprocessing", [DESCRIPTOR.preprocessing, STEPS_WITHOUT])
@pytest.mark.parametrize("modalities", [("T1w", "FLAIR"), ("T1w",), ("FLAIR",)])
def test_outputs_are_those_promised(
    modalities: tuple[str, ...], preprocessing: Preprocessing
) -> None:
    pair, descriptor = pair_of(*modalities), replace(DESCRIPTOR, preprocessing=preprocessing)
    workflow = reportlets(pair, descriptor)
    edges = workflow._graph.in_edges(workflow.get_node("outputnode"), data=True)
    fed = {target for _, _, data in edges for _, target in data["connect"]}
    assert fed == {"qc", *reports.made_figures(pair, descriptor)}


@pytest.mark.parametrize(
    ("modalities", "preprocessing", "told"),
    [
        (("T1w", "FLAIR"), STEPS_WITHOUT, True),
        (("T1w", "FLAIR"), DESCRIPTOR.preprocessing, False),
        (("T1w",), STEPS_WITHOUT, False),
    ],
)
def test_a_mask_that_comes_over_by_headers_says_so(
    modalities: tuple[str, ...], preprocessing: Preprocessing, told: bool
) -> None:
    """In the sidecars of the other image's masks, and in the record that pages show."""
    pair = replace(pair_of(*modalities), reason="They match.")
    descriptor = replace(DESCRIPTOR, preprocessing=preprocessing)
    made = outputs.pair_outputs(
        pair=pair,
        descriptor=descriptor,
        operating_point=POINT,
        reference=modalities[-1],
        spaces=modalities,
        bids_dir=Path("/"),
    )
    said = {o.source for o in made if "Alignment" in o.metadata}
    kinds = ("probability", "lesion_mask", "labels", "table")
    assert said == ({f"t1w_{kind}" for kind in kinds} if told else set())
    workflow = reportlets(pair, descriptor)
    reason = workflow.get_node("record").inputs.reason
    assert reason.startswith("They match.")
    assert ("to the T1w by the headers" in reason) is told
    mapped = outputs.template_outputs(made, pair=pair, template="MNI152NLin2009aSym")
    assert not any("Alignment" in o.metadata for o in mapped[len(made) :])


def test_figures_have_names() -> None:
    names = {
        output_path({"subject": "01"}, "figure", desc=d, suffix=s, extension=reports.EXTENSION)
        for d, s in reports.FIGURES.values()
    }
    assert len(names) == len(reports.FIGURES)


def test_model_record_tells_what_it_is_and_how_it_was_run() -> None:
    record = reports.model_record(
        replace(DESCRIPTOR, synthetic=True), pair_of("T1w"), "the only one", POINT
    )
    assert record["synthetic"] is True
    assert record["used"] == ["T1w"]
    assert record["threshold"] == 0.5


@pytest.mark.parametrize("reference", ["T1w", "FLAIR"])
def test_the_other_image_comes_to_the_lesions_by_its_transform(reference: str) -> None:
    pair = pair_of("T1w", "FLAIR")
    workflow = reports.init_reportlets_wf(
        pair=pair, reference=reference, descriptor=DESCRIPTOR, reason="", operating_point=POINT
    )
    grid = reference.lower()
    other = ({"t1w", "flair"} - {grid}).pop()
    edges = workflow._graph.in_edges(workflow.get_node(f"{other}_on_{grid}"), data=True)
    assert {pair for _, _, data in edges for pair in data["connect"]} == {
        (f"{other}_conformed", "in_file"),
        (f"{grid}_conformed", "reference"),
        (f"{other}_to_{grid}_xfm", "transform"),
    }
    into = workflow._graph.in_edges(workflow.get_node("lesions"), data=True)
    assert ("out_file", other) in {pair for _, _, data in into for pair in data["connect"]}
