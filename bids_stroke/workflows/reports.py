"""Figures and the quality record of a pair."""

from collections.abc import Mapping
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from bids_stroke.bids.pairs import Pair
from bids_stroke.interfaces.images import ToGrid
from bids_stroke.interfaces.reportlets import (
    BrainFigure,
    LesionFigure,
    N4Figure,
    QualityRecord,
    RegistrationFigure,
)
from bids_stroke.models.card import card
from bids_stroke.models.descriptor import Descriptor, OperatingPoint, accepted
from bids_stroke.workflows.outputs import BY_HEADERS, is_registered

FIGURES: Mapping[str, tuple[str, str]] = {
    "brain_t1w": ("brain", "T1w"),
    "brain_flair": ("brain", "FLAIR"),
    "registration_before": ("before", "xfm"),
    "registration_after": ("after", "xfm"),
    "n4_t1w_before": ("n4before", "T1w"),
    "n4_t1w_after": ("n4after", "T1w"),
    "n4_t1w_field": ("n4field", "T1w"),
    "n4_flair_before": ("n4before", "FLAIR"),
    "n4_flair_after": ("n4after", "FLAIR"),
    "n4_flair_field": ("n4field", "FLAIR"),
    "lesions": ("lesions", "dseg"),
    "lesions_plain": ("plain", "dseg"),
}
"""Output field of ``init_reportlets_wf`` -> (desc, suffix) of the figure's name."""

EXTENSION = ".webp"
N4_PARTS = ("before", "after", "field")


def made_figures(pair: Pair, descriptor: Descriptor) -> dict[str, tuple[str, str]]:
    """Those of FIGURES that a pair will have, by its modalities and the model's steps."""
    steps, names = descriptor.preprocessing.steps, [m.lower() for m in pair.modalities]
    made = {"lesions", "lesions_plain", *(f"brain_{name}" for name in names)}
    if "n4" in steps:
        made |= {f"n4_{name}_{part}" for name in names for part in N4_PARTS}
    if is_registered(pair, descriptor):
        made |= {"registration_before", "registration_after"}
    return {field: name for field, name in FIGURES.items() if field in made}


def choice_of_images(pair: Pair, reference: str, descriptor: Descriptor) -> str:
    """Why these images, and how the result comes to the one that was not registered."""
    if len(pair.modalities) < 2 or is_registered(pair, descriptor):
        return pair.reason
    other = next(modality for modality in pair.modalities if modality != reference)
    return f"{pair.reason} The result comes to the {other} {BY_HEADERS}.".strip()


def model_record(
    descriptor: Descriptor, pair: Pair, reason: str, point: OperatingPoint
) -> dict[str, Any]:
    """What reports and tables say of the model."""
    return {
        "name": descriptor.name,
        "version": descriptor.version,
        "title": descriptor.title,
        "card": card(descriptor),
        "synthetic": descriptor.synthetic,
        "training_data": descriptor.training_data,
        "intended_use": descriptor.intended_use,
        "licence": descriptor.licence,
        "sha256": descriptor.checksums(),
        "reason": reason,
        "used": list(accepted(descriptor, pair.modalities)),
        "threshold": point.threshold,
        "min_volume_mm3": point.min_volume_mm3,
        "connectivity": point.connectivity,
        "inclusive": point.inclusive,
    }


def init_reportlets_wf(
    *,
    pair: Pair,
    reference: str,
    descriptor: Descriptor,
    reason: str,
    operating_point: OperatingPoint,
    normalized: bool = False,
    name: str = "reportlets_wf",
) -> Workflow:
    """Draw each step of a pair, and write down what a reader must know.

    **Inputs**
        fields of the output nodes of ``init_preproc_wf`` and ``init_segment_wf``, by their names;
            where ``normalized``, of ``init_normalize_wf`` too

    **Outputs**
        the figures of ``made_figures`` : WebP images
        qc : JSON record of ``core.quality.qc_record``
    """
    workflow = Workflow(name=name)
    per_modality = ("conformed", "mask", "n4_before", "n4_after", "labels", "probability", "table")
    fields = [f"{m.lower()}_{field}" for m in pair.modalities for field in per_modality]
    fields += [f"{kind}_qc_{m.lower()}" for m in pair.modalities for kind in ("conform", "brain")]
    fields += ["t1w_to_flair_xfm", "flair_to_t1w_xfm", "registration_qc"]
    fields += ["moving_before", "moving_preproc", f"{reference.lower()}_preproc"]
    fields += ["normalization_qc", "location"] if normalized else []
    inputnode = pe.Node(niu.IdentityInterface(fields=fields), name="inputnode")
    outputnode = pe.Node(niu.IdentityInterface(fields=[*FIGURES, "qc"]), name="outputnode")

    for modality in pair.modalities:
        _add_modality(workflow, inputnode, outputnode, modality.lower(), descriptor)
    if is_registered(pair, descriptor):
        _add_registration(workflow, inputnode, outputnode, reference.lower())
    _add_lesions(workflow, inputnode, outputnode, pair, reference)
    record = pe.Node(
        QualityRecord(
            label=pair.label,
            entities=dict(pair.entities),
            files={modality: path.name for modality, path in pair.images.items()},
            reason=choice_of_images(pair, reference, descriptor),
            reference=reference,
            model=model_record(descriptor, pair, reason, operating_point),
        ),
        name="record",
        mem_gb=1.0,
    )
    _add_record(workflow, inputnode, outputnode, record, pair, is_registered(pair, descriptor))
    if normalized:
        both = ("normalization_qc", "location")
        workflow.connect([(inputnode, record, [(field, field) for field in both])])
    return workflow


def _add_modality(
    workflow: Workflow, inputnode: pe.Node, outputnode: pe.Node, name: str, descriptor: Descriptor
) -> None:
    """Brain mask and N4 of one modality."""
    brain = pe.Node(BrainFigure(), name=f"brain_{name}", mem_gb=0.5)
    links = [(f"{name}_conformed", "image"), (f"{name}_mask", "mask")]
    workflow.connect([(inputnode, brain, links)])
    workflow.connect(brain, "figure", outputnode, f"brain_{name}")
    if "n4" in descriptor.preprocessing.steps:
        n4 = pe.Node(N4Figure(), name=f"n4_views_{name}", mem_gb=0.5)
        links = [(f"{name}_n4_before", "before"), (f"{name}_n4_after", "after")]
        workflow.connect([(inputnode, n4, links)])
        workflow.connect([(n4, outputnode, [(part, f"n4_{name}_{part}") for part in N4_PARTS])])


def _add_registration(
    workflow: Workflow, inputnode: pe.Node, outputnode: pe.Node, reference: str
) -> None:
    registration = pe.Node(RegistrationFigure(), name="registration", mem_gb=0.5)
    links = [
        (f"{reference}_preproc", "fixed"),
        ("moving_before", "moving_before"),
        ("moving_preproc", "moving_after"),
    ]
    workflow.connect([(inputnode, registration, links)])
    made = [("before", "registration_before"), ("after", "registration_after")]
    workflow.connect([(registration, outputnode, made)])


def _add_lesions(
    workflow: Workflow, inputnode: pe.Node, outputnode: pe.Node, pair: Pair, reference: str
) -> None:
    """Slices through lesions; the other image is brought to the grid while others compute."""
    lesions = pe.Node(LesionFigure(), name="lesions", mem_gb=1.0)
    grid = reference.lower()
    links = [(f"{grid}_{field}", field) for field in ("labels", "probability")]
    links += [(f"{grid}_mask", "brain_mask"), (f"{grid}_conformed", grid)]
    workflow.connect([(inputnode, lesions, links)])
    for other in (m.lower() for m in pair.modalities if m != reference):
        moved = pe.Node(ToGrid(), name=f"{other}_on_{grid}", mem_gb=0.5)
        links = [(f"{other}_conformed", "in_file"), (f"{grid}_conformed", "reference")]
        links.append((f"{other}_to_{grid}_xfm", "transform"))
        workflow.connect([(inputnode, moved, links)])
        workflow.connect(moved, "out_file", lesions, other)
    made = [("outlined", "lesions"), ("plain", "lesions_plain")]
    workflow.connect([(lesions, outputnode, made)])


def _add_record(
    workflow: Workflow,
    inputnode: pe.Node,
    outputnode: pe.Node,
    record: pe.Node,
    pair: Pair,
    registered: bool,
) -> None:
    fields = [
        f"{m.lower()}_{field}" for m in pair.modalities for field in ("labels", "mask", "table")
    ]
    fields += [f"{kind}_qc_{m.lower()}" for m in pair.modalities for kind in ("conform", "brain")]
    fields += ["registration_qc"] if registered else []
    workflow.connect([(inputnode, record, [(field, field) for field in fields])])
    workflow.connect(record, "qc", outputnode, "qc")
