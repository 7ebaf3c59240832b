"""One graph for all pairs: preprocessing, segmentation, reportlets and sinks."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from nipype.interfaces.base import Undefined
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from bids_stroke.bids.pairs import Pair
from bids_stroke.config import TEMPLATES, Config
from bids_stroke.config import Model as ModelOptions
from bids_stroke.models.descriptor import Descriptor, OperatingPoint, Preprocessing, brain_weights
from bids_stroke.models.ensemble import Ensemble, models_of, preprocessings
from bids_stroke.models.members import members_of
from bids_stroke.workflows.normalize import init_normalize_wf
from bids_stroke.workflows.outputs import (
    Output,
    init_outputs_wf,
    pair_outputs,
    template_outputs,
)
from bids_stroke.workflows.preproc import init_preproc_wf
from bids_stroke.workflows.reports import EXTENSION, init_reportlets_wf, made_figures
from bids_stroke.workflows.segment import NETWORK, init_segment_wf


def init_bids_stroke_wf(
    *,
    config: Config,
    pairs: Sequence[Pair],
    descriptors: Mapping[str, tuple[Descriptor, str]],
    device: str,
    log_dir: Path,
    name: str = "bids_stroke_wf",
) -> Workflow:
    """Graph of a run at participant level: one sub-workflow a pair.

    ``descriptors`` gives, for the label of each pair, the model and why it was chosen. Crash files
    go to ``log_dir/sub-<label>``.
    """
    workflow = Workflow(name=name)
    workflow.base_dir = str(config.execution.work_dir.absolute())
    for pair in pairs:
        descriptor, reason = descriptors[pair.label]
        pair_wf = init_pair_wf(
            config=config,
            pair=pair,
            descriptor=descriptor,
            reason=reason,
            device=device,
            pairs=len(pairs),
        )
        set_crash_folder(pair_wf, log_dir / f"sub-{pair.subject}")
        workflow.add_nodes([pair_wf])
    return workflow


def set_crash_folder(workflow: Workflow, folder: Path) -> None:
    """Send the crash files of a sub-workflow to a folder."""
    workflow.config["execution"]["crashdump_dir"] = str(folder)
    for node in workflow._get_all_nodes():
        node.config = deepcopy(workflow.config)


def operating_point(descriptor: Descriptor, options: ModelOptions) -> OperatingPoint:
    """The model's own operating point, with what the user overrides."""
    given: dict[str, Any] = {
        "threshold": options.threshold,
        "min_volume_mm3": options.min_lesion_volume,
    }
    return replace(descriptor.operating_point, **{k: v for k, v in given.items() if v is not None})


def reference_of(descriptor: Descriptor, pair: Pair) -> str:
    """Modality whose grid the network sees: the model's, or the only one that there is."""
    wanted = descriptor.preprocessing.reference
    return wanted if wanted in pair.modalities else pair.modalities[0]


def init_pair_wf(
    *,
    config: Config,
    pair: Pair,
    descriptor: Descriptor,
    reason: str,
    device: str,
    pairs: int,
) -> Workflow:
    """Everything for one pair of so many: preprocess, segment, draw, write.

    **Inputs**
        none: the files are those of ``pair``

    **Outputs**
        none: sinks write to the output folder
    """
    workflow = Workflow(name=pair.workflow_name)
    reference, point = reference_of(descriptor, pair), operating_point(descriptor, config.model)
    threads = config.execution.threads_of(pairs, at_once=1)
    preproc_wf = pair_preproc(config, pair, descriptor.preprocessing, reference, device, threads)
    segment_wf = init_segment_wf(
        descriptor=descriptor,
        modalities=pair.modalities,
        reference=reference,
        operating_point=point,
        folds=tuple(map(str, config.model.folds)),
        tta=config.model.tta,
        precision=config.model.precision,
        device=device,
        use_gpu=device != "cpu",
        omp_nthreads=config.execution.threads_of(pairs, at_once=len(models_of(descriptor))),
        random_seed=config.processing.random_seed,
        threshold=config.model.threshold,
    )
    template = next((s for s in config.processing.output_spaces if s in TEMPLATES), None)
    normalize_wf = _normalize(config, pair, template, point, descriptor) if template else None
    reportlets_wf = init_reportlets_wf(
        pair=pair,
        reference=reference,
        descriptor=descriptor,
        reason=reason,
        operating_point=point,
        normalized=template is not None,
    )
    outputs = pair_outputs(
        pair=pair,
        descriptor=descriptor,
        operating_point=point,
        reference=reference,
        spaces=config.processing.output_spaces,
        bids_dir=config.dataset.bids_dir,
        precision=config.model.precision,
        members=members_of(descriptor, tuple(map(str, config.model.folds)), config.model.tta),
        threshold=config.model.threshold,
    )
    outputs += _report_outputs(pair, descriptor)
    if template:
        outputs = template_outputs(outputs, pair=pair, template=template)
    outputs_wf = init_outputs_wf(pair=pair, outputs=outputs, out_dir=config.dataset.output_dir)
    stages = [preproc_wf, segment_wf, normalize_wf, reportlets_wf]
    _connect(workflow, [stage for stage in stages if stage], outputs_wf, outputs)
    _add_preproc_of_others(workflow, config, pair, descriptor, device, threads)
    return workflow


def _add_preproc_of_others(
    workflow: Workflow,
    config: Config,
    pair: Pair,
    descriptor: Descriptor,
    device: str,
    threads: int,
) -> None:
    """What models of an ensemble want that is not as the first wants it, in the same brain."""
    models = models_of(descriptor)
    preproc_wf, segment_wf = workflow.get_node("preproc_wf"), workflow.get_node("segment_wf")
    masks = [f"{modality.lower()}_mask" for modality in pair.modalities]
    for number, wanted in enumerate(preprocessings(models)[1:], start=2):
        model = next(m for m in models if m.preprocessing == wanted)
        other = pair_preproc(
            config,
            replace(pair, brain_masks=pair.images),
            wanted,
            reference_of(model, pair),
            device,
            threads,
            name=f"preproc_{number}_wf",
        )
        for mask in masks:
            setattr(other.inputs.inputnode, mask, Undefined)
        other.__desc__ = f"For the model *{model.name}*, in the same brain: {other.__desc__}"
        workflow.connect(
            [(preproc_wf, other, [(f"outputnode.{m}", f"inputnode.{m}") for m in masks])]
        )
        fields = [f for f in NETWORK if f in _made(other)]
        links = [(f"outputnode.{f}", f"inputnode.{f}_{number}") for f in fields]
        workflow.connect([(other, segment_wf, links)])


def _normalize(
    config: Config, pair: Pair, template: str, operating_point: OperatingPoint, model: Descriptor
) -> Workflow:
    """Normalisation workflow of a pair."""
    processing = config.processing
    combined = isinstance(model, Ensemble) and model.combination.method != "mean"
    return init_normalize_wf(
        modalities=pair.modalities,
        template=template,
        operating_point=operating_point,
        atlases=processing.atlases,
        atlas_threshold=processing.atlas_threshold,
        tract_cutoffs=processing.tract_cutoffs,
        sloppy=processing.sloppy,
        random_seed=processing.random_seed,
        carry_mask=combined,
    )


def _report_outputs(pair: Pair, descriptor: Descriptor) -> list[Output]:
    """Figures of the report and the record of quality."""
    figures = made_figures(pair, descriptor).items()
    names = {f: {"desc": d, "suffix": s, "extension": EXTENSION} for f, (d, s) in figures}
    drawn = [Output(source=field, kind="figure", extra=extra) for field, extra in names.items()]
    return [*drawn, Output(source="qc", kind="qc")]


def pair_preproc(
    config: Config,
    pair: Pair,
    preprocessing: Preprocessing,
    reference: str,
    device: str,
    threads: int,
    name: str = "preproc_wf",
) -> Workflow:
    """Preprocessing workflow of a pair, with its files set; ``threads`` are those of a network."""
    preproc_wf = init_preproc_wf(
        modalities=pair.modalities,
        steps=preprocessing.steps,
        reference=reference,
        brain_extraction=config.processing.brain_extraction,
        hdbet_weights=config.processing.hdbet_weights or brain_weights(config.model.models_dir),
        n4_shrink=preprocessing.n4_shrink,
        n4_levels=preprocessing.n4_levels,
        omp_nthreads=threads,
        use_gpu=device != "cpu",
        device=device,
        sloppy=config.processing.sloppy,
        random_seed=config.processing.random_seed,
        precomputed=frozenset(pair.brain_masks),
        whole_head=preprocessing.whole_head,
        name=name,
    )
    inputnode = preproc_wf.inputs.inputnode
    for modality, path in pair.images.items():
        setattr(inputnode, modality.lower(), str(path))
    for modality, path in pair.brain_masks.items():
        setattr(inputnode, f"{modality.lower()}_mask", str(path))
    return preproc_wf


def _fields(workflow: Workflow, node: str) -> set[str]:
    """Names of the fields of an identity node."""
    return set(workflow.get_node(node).interface._fields)


def _connect(
    workflow: Workflow, stages: Sequence[Workflow], outputs_wf: Workflow, outputs: Sequence[Output]
) -> None:
    """Connect by name: a field goes to later stages from the last one before them that makes it."""
    for later, consumer in enumerate([*stages, outputs_wf]):
        wanted = (
            {o.source for o in outputs}
            if consumer is outputs_wf
            else _fields(consumer, "inputnode")
        )
        for producer in reversed(stages[:later]):
            shared = sorted(wanted & _made(producer))
            wanted = wanted - set(shared)
            links = [(f"outputnode.{f}", f"inputnode.{f}") for f in shared]
            if links:
                workflow.connect([(producer, consumer, links)])


def _made(workflow: Workflow) -> set[str]:
    """Fields of a workflow's output node that something feeds."""
    outputnode = workflow.get_node("outputnode")
    edges = workflow._graph.in_edges(outputnode, data=True)
    return {target for _, _, data in edges for _, target in data["connect"]}
