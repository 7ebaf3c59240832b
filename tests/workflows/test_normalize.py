"""The graph of template space: all that is promised is made, and named by BIDS."""

from dataclasses import replace
from pathlib import Path

import pytest

from bids_stroke.bids.names import output_path
from bids_stroke.core import normalization
from bids_stroke.models.templates import SHIPPED
from bids_stroke.reports import citation
from bids_stroke.workflows import normalize
from bids_stroke.workflows.normalize import init_normalize_wf
from bids_stroke.workflows.outputs import pair_outputs, template_outputs
from tests.workflows.test_reports import DESCRIPTOR, POINT, pair_of

MODALITIES = [("T1w", "FLAIR"), ("T1w",), ("FLAIR",)]


def workflow(modalities: tuple[str, ...], **changed: object) -> object:
    settings = {
        "template": SHIPPED,
        "operating_point": POINT,
        "atlases": {"territory": Path("/t.nii.gz")},
        "atlas_threshold": 0.3,
        "tract_cutoffs": (1.0, 5.0),
        "sloppy": False,
        "random_seed": 3,
    }
    return init_normalize_wf(modalities=modalities, **{**settings, **changed})  # type: ignore[arg-type]


def fed(made: object, node: str) -> set[str]:
    edges = made._graph.in_edges(made.get_node(node), data=True)  # type: ignore[attr-defined]
    return {target for _, _, data in edges for _, target in data["connect"]}


@pytest.mark.parametrize("modalities", MODALITIES)
def test_every_output_is_fed(modalities: tuple[str, ...]) -> None:
    absent = {"t1w_table", "flair_table"} - {f"{m.lower()}_table" for m in modalities}
    assert fed(workflow(modalities), "outputnode") == set(normalize.OUTPUTS) - absent


@pytest.mark.parametrize("modalities", MODALITIES)
def test_the_first_image_is_registered_around_its_lesion(modalities: tuple[str, ...]) -> None:
    made = workflow(modalities)
    edges = made._graph.get_edge_data(made.get_node("inputnode"), made.get_node("normalize"))
    source = modalities[0].lower()
    assert set(edges["connect"]) == {
        (f"{source}_preproc", "in_file"),
        (f"{source}_mask", "in_mask"),
        (f"{source}_lesion_mask", "lesion"),
    }
    assert ("transform" in fed(made, "locate")) == (len(modalities) == 2)


def test_settings_reach_their_nodes() -> None:
    made = workflow(("T1w",), operating_point=replace(POINT, threshold=0.2, inclusive=False))
    assert made.get_node("to_template").inputs.threshold == 0.2
    assert made.get_node("to_template").inputs.inclusive is False
    assert made.get_node("locate").inputs.atlases == {"territory": "/t.nii.gz"}
    assert made.get_node("locate").inputs.cutoffs_ml == [1.0, 5.0]
    assert made.get_node("normalize").inputs.seed == 3
    assert sum(workflow(("T1w",), sloppy=True).get_node("normalize").inputs.syn_iterations) < 10


def test_the_mask_of_an_ensemble_is_carried() -> None:
    assert "native_mask" not in fed(workflow(("T1w",)), "to_template")
    assert "native_mask" in fed(workflow(("T1w",), carry_mask=True), "to_template")
    text = normalize.describe_normalization("T1w", SHIPPED, POINT, carry_mask=True)
    assert "cut there at one half" in text


def test_the_methods_text_tells_the_margin_and_the_rule() -> None:
    text = normalize.describe_normalization("T1w", SHIPPED, POINT)
    assert f"{normalization.MARGIN_MM:g} mm" in text
    assert SHIPPED in text
    assert f"{POINT.threshold:g}" in text
    assert citation.cited_keys(text) == ["syn", "ants", "costfunctionmasking"]
    cited = citation.bibtex(text)
    assert "10.1016/j.media.2007.06.004" in cited
    assert "10.1006/nimg.2001.0845" in cited


@pytest.mark.parametrize("modalities", MODALITIES)
def test_names_of_outputs(modalities: tuple[str, ...]) -> None:
    pair = pair_of(*modalities)
    native = pair_outputs(
        pair=pair,
        descriptor=DESCRIPTOR,
        operating_point=POINT,
        reference=modalities[-1],
        spaces=modalities,
        bids_dir=Path("/"),
    )
    outputs = template_outputs(native, pair=pair, template=SHIPPED)
    paths = {output_path(pair.entities, o.kind, **o.extra).name for o in outputs[len(native) :]}
    source = modalities[0]
    assert paths == {
        f"sub-01_space-{SHIPPED}_desc-preproc_{source}.nii.gz",
        f"sub-01_space-{SHIPPED}_label-L_desc-stroke_probseg.nii.gz",
        f"sub-01_space-{SHIPPED}_label-L_desc-stroke_mask.nii.gz",
        f"sub-01_space-{SHIPPED}_seg-regions_dseg.tsv",
        f"sub-01_from-{source}_to-{SHIPPED}_mode-image_xfm.h5",
        f"sub-01_from-{SHIPPED}_to-{source}_mode-image_xfm.h5",
        "sub-01_desc-templatebefore_xfm.webp",
        "sub-01_desc-templateafter_xfm.webp",
    }
    made = {o.kind: o for o in outputs if o.extra.get("space") == SHIPPED}
    assert all(o.metadata["SpatialReference"].startswith("https://") for o in made.values())
    assert made["lesion_mask"].metadata["Threshold"] == POINT.threshold
    table = next(o for o in outputs if o.kind == "lesion_table")
    assert "super_region" in table.metadata
