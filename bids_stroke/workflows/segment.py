"""From preprocessed images to lesions on the native grids."""

from collections.abc import Sequence
from dataclasses import dataclass

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from bids_stroke.interfaces.ensembles import CombineModels, MemberAgreement
from bids_stroke.interfaces.lesiongnb import PredictLesionGnb
from bids_stroke.interfaces.lesions import ProbabilityToNative, SegmentLesions
from bids_stroke.interfaces.nnunet import PredictLesions
from bids_stroke.models.channels import MIRRORED
from bids_stroke.models.descriptor import Descriptor, OperatingPoint, accepted
from bids_stroke.models.ensemble import Ensemble, models_of, network_suffix, preprocessings
from bids_stroke.models.members import members_of

FIELDS = ("probability", "lesion_mask", "labels", "table", "uncertainty")
NETWORK = ("network_t1w", "network_flair", "network_mask")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How models are run; ``thresholds`` are one for each model of an ensemble."""

    folds: tuple[str, ...]
    tta: bool | None
    precision: str
    device: str
    use_gpu: bool
    omp_nthreads: int
    random_seed: int
    thresholds: tuple[float, ...]
    keep_members: bool


def init_segment_wf(
    *,
    descriptor: Descriptor,
    modalities: Sequence[str],
    reference: str,
    operating_point: OperatingPoint,
    folds: Sequence[str],
    tta: bool | None,
    precision: str,
    device: str,
    use_gpu: bool,
    omp_nthreads: int,
    random_seed: int = 1,
    threshold: float | None = None,
    name: str = "segment_wf",
) -> Workflow:
    """Run a model, or each of an ensemble, and bring the result to the pair's native grids.

    The probability is resampled, then thresholded, then cleaned of components under a volume in
    mm3, on each native grid by itself (Meddahi et al. 2024). Models of an ensemble are combined on
    the native grids, each at its own threshold or at ``threshold``.

    **Inputs**
        network_t1w, network_flair, network_mask : preprocessed images on the network's grid; with
            ``_2``, ``_3`` at the end for models of an ensemble that want other preprocessing
        t1w_conformed, flair_conformed : images that have the native grids
        t1w_mask, flair_mask : brain masks on the native grids
        t1w_to_flair_xfm, flair_to_t1w_xfm : ITK transforms, with two modalities only

    **Outputs**
        t1w_probability, t1w_lesion_mask, t1w_labels, t1w_table, and the same for flair;
        t1w_uncertainty, flair_uncertainty where the prediction has several members
    """
    workflow, models = Workflow(name=name), models_of(descriptor)
    members = members_of(descriptor, folds, tta)
    workflow.__desc__ = describe_segmentation(descriptor, modalities, operating_point, tta)
    if members.several:
        workflow.__desc__ += describe_members(str(members))
    own = [threshold or model.operating_point.threshold for model in models]
    settings = Settings(
        folds=tuple(folds),
        tta=tta,
        precision=precision,
        device=device,
        use_gpu=use_gpu,
        omp_nthreads=omp_nthreads,
        random_seed=random_seed,
        thresholds=tuple(own) if len(models) > 1 else (operating_point.threshold,),
        keep_members=members.several and len(models) == 1,
    )
    inputs = [f"{f}{end}" for end in _suffixes(models) for f in NETWORK]
    inputs += ["t1w_to_flair_xfm", "flair_to_t1w_xfm"]
    inputs += ["t1w_conformed", "flair_conformed", "t1w_mask", "flair_mask"]
    inputnode = pe.Node(niu.IdentityInterface(fields=inputs), name="inputnode")
    outputs = [f"{m}_{field}" for m in ("t1w", "flair") for field in FIELDS]
    outputnode = pe.Node(niu.IdentityInterface(fields=outputs), name="outputnode")
    workflow.add_nodes([inputnode, outputnode])

    predict = [_predict(workflow, models, i, modalities, settings) for i in range(len(models))]
    for modality in modalities:
        native = [
            _to_native(workflow, predict[i], _reference(model, modalities), modality, _end(i))
            for i, model in enumerate(models)
        ]
        segment = _segment(workflow, modality.lower(), operating_point)
        probability = _combined(workflow, descriptor, native, segment, modality.lower(), settings)
        workflow.connect(*probability, segment, "probability")
        workflow.connect(*probability, outputnode, f"{modality.lower()}_probability")
        if members.several:
            agreement = _agreement(workflow, segment, modality.lower(), operating_point, settings)
            _connect_members(workflow, agreement, predict, native, reference, modality)
        else:
            workflow.connect(segment, "table", outputnode, f"{modality.lower()}_table")
    return workflow


def _end(index: int) -> str:
    """End of the names of the nodes of one model of an ensemble."""
    return "" if index == 0 else f"_{index + 1}"


def _suffixes(models: Sequence[Descriptor]) -> list[str]:
    return [_end(i) for i in range(len(preprocessings(models)))]


def _reference(model: Descriptor, modalities: Sequence[str]) -> str:
    """Modality whose grid a model sees."""
    wanted = model.preprocessing.reference
    return wanted if wanted in modalities else modalities[0]


def _predict(
    workflow: Workflow,
    models: Sequence[Descriptor],
    index: int,
    modalities: Sequence[str],
    settings: Settings,
) -> pe.Node:
    """The node that runs one model."""
    model = models[index]
    node, fields = (
        _network_node(model, modalities, settings, f"predict{_end(index)}")
        if model.format == "nnunetv2"
        else _gnb_node(model, settings, f"predict{_end(index)}")
    )
    inputnode, end = workflow.get_node("inputnode"), network_suffix(model, models)
    workflow.connect(inputnode, f"network_mask{end}", node, "brain_mask")
    for field in fields:
        workflow.connect(inputnode, f"network_{field}{end}", node, field)
    return node


def _network_node(
    model: Descriptor, modalities: Sequence[str], settings: Settings, name: str
) -> tuple[pe.Node, list[str]]:
    """A node for an nnU-Net, and the images that it wants."""
    used = accepted(model, modalities)
    node = pe.Node(
        PredictLesions(
            modalities=list(used),
            descriptor=model.file,
            folds=list(settings.folds),
            tta=settings.tta,
            precision=settings.precision,
            checksums=model.checksums(),
            device=settings.device,
            use_gpu=settings.use_gpu,
            num_threads=settings.omp_nthreads,
            keep_members=settings.keep_members,
        ),
        name=name,
        n_procs=1 if settings.use_gpu else settings.omp_nthreads,
        mem_gb=4.0,
    )
    return node, [modality.lower() for modality in used]


def _gnb_node(model: Descriptor, settings: Settings, name: str) -> tuple[pe.Node, list[str]]:
    """A node for LesionGnb, which wants the T1w."""
    node = pe.Node(
        PredictLesionGnb(
            folder=str(model.model_folder),
            checksums=model.checksums(),
            seed=settings.random_seed,
        ),
        name=name,
        mem_gb=2.0,
    )
    return node, ["t1w"]


def _to_native(
    workflow: Workflow, predict: pe.Node, reference: str, modality: str, end: str
) -> pe.Node:
    """The node that brings a model's map to one modality's native grid."""
    inputnode, field = workflow.get_node("inputnode"), modality.lower()
    node = pe.Node(ProbabilityToNative(), name=f"{field}_to_native{end}", mem_gb=1.0)
    workflow.connect(predict, "probability", node, "probability")
    workflow.connect(inputnode, f"{field}_conformed", node, "reference")
    if modality != reference:
        workflow.connect(inputnode, f"{reference}_to_{modality}_xfm".lower(), node, "transform")
    return node


def _segment(workflow: Workflow, modality: str, point: OperatingPoint) -> pe.Node:
    """The node that makes mask, labels and table on one modality's native grid."""
    node = pe.Node(
        SegmentLesions(
            threshold=point.threshold,
            min_volume_mm3=point.min_volume_mm3,
            connectivity=point.connectivity,
            inclusive=point.inclusive,
        ),
        name=f"{modality}_segment",
        mem_gb=1.0,
    )
    outputnode = workflow.get_node("outputnode")
    workflow.connect(workflow.get_node("inputnode"), f"{modality}_mask", node, "brain_mask")
    workflow.connect(node, "mask", outputnode, f"{modality}_lesion_mask")
    workflow.connect(node, "labels", outputnode, f"{modality}_labels")
    return node


def _combined(
    workflow: Workflow,
    descriptor: Descriptor,
    native: Sequence[pe.Node],
    segment: pe.Node,
    modality: str,
    settings: Settings,
) -> tuple[pe.Node, str]:
    """Port of the probability: that of the one model, or of an ensemble's combination."""
    if not isinstance(descriptor, Ensemble):
        return native[0], "probability"
    how = descriptor.combination
    merge = pe.Node(niu.Merge(len(native)), name=f"{modality}_models")
    combine = pe.Node(
        CombineModels(
            method=how.method,
            weights=list(how.weights),
            thresholds=list(settings.thresholds),
            inclusive=descriptor.operating_point.inclusive,
            window=how.window,
            share=how.share,
        ),
        name=f"{modality}_combine",
        mem_gb=2.0,
    )
    for number, node in enumerate(native, start=1):
        workflow.connect(node, "probability", merge, f"in{number}")
    workflow.connect(merge, "out", combine, "probabilities")
    if how.method != "mean":
        workflow.connect(combine, "candidates", segment, "candidates")
    return combine, "probability"


def _agreement(
    workflow: Workflow,
    segment: pe.Node,
    modality: str,
    point: OperatingPoint,
    settings: Settings,
) -> pe.Node:
    """The node that tells where members disagree."""
    node = pe.Node(
        MemberAgreement(thresholds=list(settings.thresholds), inclusive=point.inclusive),
        name=f"{modality}_agreement",
        mem_gb=2.0,
    )
    outputnode = workflow.get_node("outputnode")
    links = [("labels", "labels"), ("table", "table")]
    workflow.connect([(segment, node, links)])
    workflow.connect(node, "table", outputnode, f"{modality}_table")
    workflow.connect(node, "uncertainty", outputnode, f"{modality}_uncertainty")
    return node


def _connect_members(
    workflow: Workflow,
    agreement: pe.Node,
    predict: Sequence[pe.Node],
    native: Sequence[pe.Node],
    reference: str,
    modality: str,
) -> None:
    """Members are the models' maps on the native grid, or the one model's on the network's."""
    if len(native) > 1:
        merge = workflow.get_node(f"{modality.lower()}_models")
        workflow.connect(merge, "out", agreement, "members")
        return
    workflow.connect(predict[0], "members", agreement, "members")
    if modality != reference:
        xfm = f"{reference}_to_{modality}_xfm".lower()
        workflow.connect(workflow.get_node("inputnode"), xfm, agreement, "transform")


def describe_members(members: str) -> str:
    """Methods text of the disagreement."""
    return (
        f"Disagreement was measured as the standard deviation of the probability over {members}. "
    )


def describe_segmentation(
    descriptor: Descriptor, modalities: Sequence[str], point: OperatingPoint, tta: bool | None
) -> str:
    """Methods text of the segmentation, from what is really run."""
    models = models_of(descriptor)
    found = "".join(_describe_model(model, modalities, tta) for model in models)
    rule = (
        "The probability map was brought to the native grids of the images by linear interpolation "
        f"of its log odds; there, voxels with a probability of at least {point.threshold:g}"
    )
    if isinstance(descriptor, Ensemble):
        found += f"The models were combined on the native grids as {descriptor.combination}. "
        if descriptor.combination.method != "mean":
            rule = "Each model's mask was cut at its own threshold; the voxels that were kept"
    return (
        f"{found}{rule} were grouped by {point.connectivity}-connectivity and components under "
        f"{point.min_volume_mm3:g} mm³ were dropped. "
    )


def _describe_model(model: Descriptor, modalities: Sequence[str], tta: bool | None) -> str:
    about = f"(version {model.version}; {model.training_data.rstrip('.')})"
    if model.format != "nnunetv2":
        return (
            f"Lesions were segmented on T1w by LesionGnb [@lesiongnb] {about}: tissues by Atropos "
            "[@atropos] in the space of the MNI152 2009a template after an affine registration, "
            "two features of missing and abnormal tissue, and Gaussian naive Bayes. "
        )
    mirrored = tta if tta is not None else bool(model.inference.mirror_axes)
    images = accepted(model, modalities)
    turned = [image for name, image in MIRRORED.items() if name in model.channels]
    beside = "".join(
        f"Beside the {image} it saw its mirror image by the midsagittal plane, taken as the plane "
        "at which the brain is most like itself [@midsagittal]. "
        for image in turned
        if image in images
    )
    return (
        f"Lesions were segmented on {' and '.join(images)} by the nnU-Net "
        f"[@nnunet] model *{model.name}* {about}, {'with' if mirrored else 'without'} test-time "
        f"mirroring. {beside}"
    )
