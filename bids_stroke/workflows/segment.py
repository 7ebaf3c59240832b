"""From preprocessed images to lesions on the native grids."""

from collections.abc import Sequence

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from bids_stroke.interfaces.lesions import ProbabilityToNative, SegmentLesions
from bids_stroke.interfaces.nnunet import PredictLesions
from bids_stroke.models.descriptor import Descriptor, OperatingPoint, accepted

FIELDS = ("probability", "lesion_mask", "labels", "table")


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
    name: str = "segment_wf",
) -> Workflow:
    """Run a model and bring its result to the native grid of every image of the pair.

    The probability is resampled, then thresholded, then cleaned of components under a volume in
    mm3, on each native grid by itself (Meddahi et al. 2024).

    **Inputs**
        network_t1w, network_flair, network_mask : preprocessed images on the network's grid
        t1w_conformed, flair_conformed : images that have the native grids
        t1w_mask, flair_mask : brain masks on the native grids
        t1w_to_flair_xfm, flair_to_t1w_xfm : ITK transforms, with two modalities only

    **Outputs**
        t1w_probability, t1w_lesion_mask, t1w_labels, t1w_table, and the same for flair
    """
    workflow = Workflow(name=name)
    workflow.__desc__ = describe_segmentation(descriptor, modalities, operating_point, tta)
    inputs = ["network_t1w", "network_flair", "network_mask", "t1w_to_flair_xfm"]
    inputs += ["flair_to_t1w_xfm", "t1w_conformed", "flair_conformed", "t1w_mask", "flair_mask"]
    inputnode = pe.Node(niu.IdentityInterface(fields=inputs), name="inputnode")
    outputs = [f"{m}_{field}" for m in ("t1w", "flair") for field in FIELDS]
    outputnode = pe.Node(niu.IdentityInterface(fields=outputs), name="outputnode")

    used = accepted(descriptor, modalities)
    predict = pe.Node(
        PredictLesions(
            modalities=list(used),
            descriptor=descriptor.file,
            folds=list(folds),
            tta=tta,
            precision=precision,
            checksums=descriptor.checksums(),
            device=device,
            use_gpu=use_gpu,
            num_threads=omp_nthreads,
        ),
        name="predict",
        n_procs=1 if use_gpu else omp_nthreads,
        mem_gb=4.0,
    )
    workflow.connect(inputnode, "network_mask", predict, "brain_mask")
    for modality in used:
        workflow.connect(inputnode, f"network_{modality.lower()}", predict, modality.lower())
    for modality in modalities:
        to_native, segment = _native_nodes(modality.lower(), operating_point)
        _connect_native(workflow, modality.lower(), inputnode, predict, to_native, segment)
        _connect_outputs(workflow, modality.lower(), to_native, segment, outputnode)
        if modality != reference:
            xfm = f"{reference}_to_{modality}_xfm".lower()
            workflow.connect(inputnode, xfm, to_native, "transform")
    return workflow


def _native_nodes(modality: str, point: OperatingPoint) -> tuple[pe.Node, pe.Node]:
    """Nodes that make the result on one modality's native grid."""
    to_native = pe.Node(ProbabilityToNative(), name=f"{modality}_to_native", mem_gb=1.0)
    segment = pe.Node(
        SegmentLesions(
            threshold=point.threshold,
            min_volume_mm3=point.min_volume_mm3,
            connectivity=point.connectivity,
            inclusive=point.inclusive,
        ),
        name=f"{modality}_segment",
        mem_gb=1.0,
    )
    return to_native, segment


def _connect_native(
    workflow: Workflow,
    modality: str,
    inputnode: pe.Node,
    predict: pe.Node,
    to_native: pe.Node,
    segment: pe.Node,
) -> None:
    workflow.connect(
        [
            (predict, to_native, [("probability", "probability")]),
            (inputnode, to_native, [(f"{modality}_conformed", "reference")]),
            (inputnode, segment, [(f"{modality}_mask", "brain_mask")]),
            (to_native, segment, [("probability", "probability")]),
        ]
    )


def _connect_outputs(
    workflow: Workflow, modality: str, to_native: pe.Node, segment: pe.Node, outputnode: pe.Node
) -> None:
    fields = [
        ("mask", f"{modality}_lesion_mask"),
        ("labels", f"{modality}_labels"),
        ("table", f"{modality}_table"),
    ]
    workflow.connect(to_native, "probability", outputnode, f"{modality}_probability")
    workflow.connect([(segment, outputnode, fields)])


def describe_segmentation(
    descriptor: Descriptor, modalities: Sequence[str], point: OperatingPoint, tta: bool | None
) -> str:
    """Methods text of the segmentation, from what is really run."""
    used = " and ".join(accepted(descriptor, modalities))
    mirrored = tta if tta is not None else bool(descriptor.inference.mirror_axes)
    return (
        f"Lesions were segmented on {used} by the nnU-Net [@nnunet] model *{descriptor.name}* "
        f"(version {descriptor.version}; {descriptor.training_data.rstrip('.')}), "
        f"{'with' if mirrored else 'without'} test-time mirroring. The probability map was "
        "interpolated linearly to the native grids of the images; there, voxels with a probability "
        f"of at least {point.threshold:g} were grouped by {point.connectivity}-connectivity and "
        f"components under {point.min_volume_mm3:g} mm³ were dropped. "
    )
