"""Sinks: every file of a pair under its BIDS name, with a sidecar that tells where it came from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from bids_stroke.bids.names import SOURCE_DATASET
from bids_stroke.bids.pairs import Pair
from bids_stroke.core import normalization, regions
from bids_stroke.core.lesions import column_dictionary
from bids_stroke.interfaces.bids import DerivativeSink
from bids_stroke.interfaces.locate import region_dictionary
from bids_stroke.models.descriptor import Descriptor, OperatingPoint
from bids_stroke.models.ensemble import Ensemble
from bids_stroke.models.members import Members
from bids_stroke.models.templates import SHIPPED

BY_HEADERS = (
    "by the headers of the images alone, for the model's steps have no registration: look whether "
    "the images lie on each other"
)
"""How a mask comes to the other image of a pair that is not registered."""


def is_registered(pair: Pair, descriptor: Descriptor) -> bool:
    """Are there two images, and does the model have them registered?"""
    return len(pair.modalities) == 2 and "register" in descriptor.preprocessing.steps


@dataclass(frozen=True, kw_only=True)
class Output:
    """One file of a pair: the field it comes from, its kind, more entities, and its sidecar."""

    source: str
    kind: str
    extra: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def node_name(self) -> str:
        """Name of the sink's node."""
        return f"ds_{self.source}"


def source_uri(path: Path, bids_dir: Path) -> str:
    """BIDS URI of a file of the input dataset; a file from elsewhere keeps its plain path."""
    if path.is_relative_to(bids_dir):
        return f"bids:{SOURCE_DATASET}:{path.relative_to(bids_dir).as_posix()}"
    return path.as_posix()


def _space(pair: Pair, modality: str) -> dict[str, str]:
    """The space entity of an image on its own grid: the source's own grid needs none."""
    return {} if pair.images[modality] == pair.source else {"space": modality}


def _preproc_outputs(
    pair: Pair, steps: tuple[str, ...], reference: str, uris: Mapping[str, str]
) -> Iterator[Output]:
    """Preprocessed images on their own grids, and the moving one on the reference's."""
    for modality, uri in uris.items():
        about = {"SkullStripped": True, "Sources": [uri], "SpatialReference": uri}
        name = modality.lower()
        yield Output(
            source=f"{name}_preproc", kind="preproc", extra={"suffix": modality}, metadata=about
        )
        yield Output(
            source=f"{name}_mask",
            kind="brain_mask",
            extra=_space(pair, modality),
            metadata={"Type": "Brain", "Sources": [uri], "SpatialReference": uri},
        )
        if modality != reference and "register" in steps:
            yield Output(
                source="moving_preproc",
                kind="preproc",
                extra={"suffix": modality, "space": reference},
                metadata={
                    "SkullStripped": True,
                    "Sources": [uri, uris[reference]],
                    "SpatialReference": uris[reference],
                },
            )


def _transform_outputs(steps: tuple[str, ...], uris: Mapping[str, str]) -> Iterator[Output]:
    """Rigid transforms in both directions, where two images are registered."""
    if len(uris) == 2 and "register" in steps:
        for source, target in (("T1w", "FLAIR"), ("FLAIR", "T1w")):
            yield Output(
                source=f"{source}_to_{target}_xfm".lower(),
                kind="xfm",
                extra={"from_": source, "to": target, "extension": ".txt"},
                metadata={"Sources": [uris[source], uris[target]]},
            )


def _lesion_outputs(
    descriptor: Descriptor,
    point: OperatingPoint,
    spaces: Sequence[str],
    uris: Mapping[str, str],
    precision: str,
    threshold: float | None,
    unregistered: str = "",
) -> Iterator[Output]:
    """Probability, mask, labels and table on the native grids that are asked for.

    ``unregistered`` is the modality that is not the network's and was not registered, if any.
    """
    model = _model_metadata(descriptor, precision, threshold)
    columns = column_dictionary()
    for modality in spaces:
        uri, name, space = uris[modality], modality.lower(), {"space": modality}
        made = {
            "Sources": list(uris.values()),
            "SpatialReference": uri,
            "Manual": False,
            "Model": model,
            **({"Alignment": BY_HEADERS} if modality == unregistered else {}),
        }
        cut = {
            "Threshold": point.threshold,
            "MinimumVolume": point.min_volume_mm3,
            "MinimumVolumeUnits": "mm3",
            "Connectivity": point.connectivity,
        }
        yield Output(
            source=f"{name}_probability", kind="lesion_probseg", extra=space, metadata=made
        )
        yield Output(
            source=f"{name}_lesion_mask",
            kind="lesion_mask",
            extra=space,
            metadata={"Type": "Lesion", **made, **cut},
        )
        # Image and table share one sidecar: each writes all of it, in whatever order they come.
        shared = {**made, **cut, **columns}
        yield Output(source=f"{name}_labels", kind="lesion_dseg", extra=space, metadata=shared)
        yield Output(source=f"{name}_table", kind="lesion_table", extra=space, metadata=shared)


def pair_outputs(
    *,
    pair: Pair,
    descriptor: Descriptor,
    operating_point: OperatingPoint,
    reference: str,
    spaces: Sequence[str],
    bids_dir: Path,
    precision: str = "auto",
    members: Members = Members("model", 1),  # noqa: B008 - frozen
    threshold: float | None = None,
) -> list[Output]:
    """Every image, transform and table that a pair leaves, in the order of the pipeline.

    Lesions are written in those of ``spaces`` that the pair has, or in all where it has none.
    ``threshold`` is the user's, for the models of an ensemble.
    """
    uris = {m: source_uri(path, bids_dir) for m, path in pair.images.items()}
    steps = descriptor.preprocessing.steps
    others = () if is_registered(pair, descriptor) else (m for m in uris if m != reference)
    unregistered = next(iter(others), "")
    lesion_spaces = [m for m in pair.modalities if m in spaces] or pair.modalities
    return [
        *_preproc_outputs(pair, steps, reference, uris),
        *_transform_outputs(steps, uris),
        *_lesion_outputs(
            descriptor, operating_point, lesion_spaces, uris, precision, threshold, unregistered
        ),
        *_uncertainty_outputs(members, lesion_spaces, uris),
    ]


def _uncertainty_outputs(
    members: Members, spaces: Sequence[str], uris: Mapping[str, str]
) -> Iterator[Output]:
    """Maps of disagreement, where a prediction has several members."""
    if not members.several:
        return
    for modality in spaces:
        yield Output(
            source=f"{modality.lower()}_uncertainty",
            kind="lesion_uncertainty",
            extra={"space": modality},
            metadata={
                "Sources": list(uris.values()),
                "SpatialReference": uris[modality],
                "Manual": False,
                "Member": members.kind,
                "NumberOfMembers": members.count,
                "Measure": "standard deviation over the members, divided by their number",
            },
        )


def _model_metadata(
    descriptor: Descriptor, precision: str, threshold: float | None
) -> dict[str, Any]:
    """Provenance of the model, or of an ensemble and each of its models."""
    about: dict[str, Any] = {
        "Name": descriptor.name,
        "Version": descriptor.version,
        "TrainingData": descriptor.training_data,
        "IntendedUse": descriptor.intended_use,
        "SHA256": descriptor.checksums(),
        "Precision": precision,
    }
    if isinstance(descriptor, Ensemble):
        about["Ensemble"] = asdict(descriptor.combination)
        about["Models"] = [
            {
                "Name": model.name,
                "Version": model.version,
                "TrainingData": model.training_data,
                "Threshold": threshold or model.operating_point.threshold,
            }
            for model in descriptor.models
        ]
    return about


def template_uri(template: str) -> str:
    """Where a template was published."""
    if template == SHIPPED:
        return "https://nist.mni.mcgill.ca/icbm-152-nonlinear-atlases-2009/"
    return f"https://github.com/templateflow/tpl-{template}"


TEMPLATE_FIGURES = {"template_before": "templatebefore", "template_after": "templateafter"}
"""Output field of ``init_normalize_wf`` -> desc of the figure's name (suffix ``xfm``)."""


def template_outputs(outputs: Sequence[Output], *, pair: Pair, template: str) -> list[Output]:
    """The outputs of a pair with those in a template's space, and the columns that it adds.

    The sidecars of maps in template space tell what those on the native grid of the same image do.
    """
    source, space = pair.modalities[0], {"space": template}
    native = {
        o.kind: {key: value for key, value in o.metadata.items() if key != "Alignment"}
        for o in outputs
        if o.kind.startswith("lesion_")
    }
    grid = {"SpatialReference": template_uri(template)}
    about = {**native["lesion_mask"], **grid}
    sources = {"Sources": about["Sources"]}
    maps = {**native["lesion_probseg"], **grid}
    rule = {"LesionMarginInMillimeters": normalization.MARGIN_MM}
    ways = {"to_template_xfm": (source, template), "from_template_xfm": (template, source)}
    named = {name: {"Description": text} for name, text in regions.COLUMNS.items()}
    located = [
        replace(o, metadata={**o.metadata, **named})
        if o.kind in ("lesion_dseg", "lesion_table")
        else o
        for o in outputs
    ]
    return [
        *located,
        Output(
            source="template_preproc",
            kind="preproc",
            extra={"suffix": source, **space},
            metadata={"SkullStripped": True, **sources, **grid},
        ),
        Output(source="template_probability", kind="lesion_probseg", extra=space, metadata=maps),
        Output(source="template_lesion_mask", kind="lesion_mask", extra=space, metadata=about),
        *(
            Output(
                source=name,
                kind="xfm",
                extra={"from_": start, "to": end, "extension": ".h5"},
                metadata={**sources, **rule},
            )
            for name, (start, end) in ways.items()
        ),
        Output(
            source="regions",
            kind="region_table",
            extra=space,
            metadata={**sources, **grid, **region_dictionary()},
        ),
        *(
            Output(
                source=name,
                kind="figure",
                extra={"desc": desc, "suffix": "xfm", "extension": ".webp"},
            )
            for name, desc in TEMPLATE_FIGURES.items()
        ),
    ]


def init_outputs_wf(
    *, pair: Pair, outputs: list[Output], out_dir: Path, name: str = "outputs_wf"
) -> Workflow:
    """Write each output of a pair under its name; the record of quality last.

    A pair that has its record is complete, also for those who read while others still write.

    **Inputs**
        one field for each output, named by its ``source``

    **Outputs**
        none: the files lie in ``out_dir``
    """
    workflow = Workflow(name=name)
    fields = [o.source for o in outputs]
    inputnode = pe.Node(niu.IdentityInterface(fields=fields), name="inputnode")
    sinks = {}
    for output in outputs:
        sink = sinks[output.node_name] = _sink(output, pair, out_dir)
        workflow.connect(inputnode, output.source, sink, "in_file")
    records = [sinks.pop(output.node_name) for output in outputs if output.kind == "qc"]
    if records and sinks:
        written = pe.Node(niu.Merge(len(sinks)), name="written", run_without_submitting=True)
        for number, sink in enumerate(sinks.values(), start=1):
            workflow.connect(sink, "out_file", written, f"in{number}")
        for record in records:
            workflow.connect(written, "out", record, "after")
    return workflow


def _sink(output: Output, pair: Pair, out_dir: Path) -> pe.Node:
    return pe.Node(
        DerivativeSink(
            out_dir=str(out_dir),
            entities=dict(pair.entities),
            kind=output.kind,
            extra=dict(output.extra),
            metadata=dict(output.metadata),
        ),
        name=output.node_name,
        run_without_submitting=True,
        mem_gb=0.2,
    )
