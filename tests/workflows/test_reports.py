"""The workflow of figures: every wanted figure is made, none hangs in the air."""

from dataclasses import replace
from pathlib import Path

import pytest

from bids_stroke.bids.names import output_path
from bids_stroke.bids.pairs import Pair
from bids_stroke.models.descriptor import Descriptor, OperatingPoint, Preprocessing
from bids_stroke.workflows import reports

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


@pytest.mark.parametrize("preprocessing", [DESCRIPTOR.preprocessing, STEPS_WITHOUT])
@pytest.mark.parametrize("modalities", [("T1w", "FLAIR"), ("T1w",), ("FLAIR",)])
def test_outputs_are_those_promised(
    modalities: tuple[str, ...], preprocessing: Preprocessing
) -> None:
    pair, descriptor = pair_of(*modalities), replace(DESCRIPTOR, preprocessing=preprocessing)
    workflow = reports.init_reportlets_wf(
        pair=pair,
        reference=modalities[-1],
        descriptor=descriptor,
        reason="asked for",
        operating_point=POINT,
    )
    edges = workflow._graph.in_edges(workflow.get_node("outputnode"), data=True)
    fed = {target for _, _, data in edges for _, target in data["connect"]}
    assert fed == {"qc", *reports.made_figures(pair, descriptor)}


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
