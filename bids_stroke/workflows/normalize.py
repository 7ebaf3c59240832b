"""From native grids to a template: registration around the lesion, maps there, and where it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from bids_stroke.core.normalization import MARGIN_MM
from bids_stroke.interfaces.locate import LocateLesions
from bids_stroke.interfaces.normalize import LesionsToTemplate, NormalizeToTemplate
from bids_stroke.interfaces.reportlets import RegistrationFigure
from bids_stroke.models.descriptor import OperatingPoint

OUTPUTS = (
    *("to_template_xfm", "from_template_xfm", "template_preproc"),
    *("template_probability", "template_lesion_mask", "normalization_qc"),
    *("template_before", "template_after", "regions", "location", "t1w_table", "flair_table"),
)


def init_normalize_wf(
    *,
    modalities: Sequence[str],
    template: str,
    operating_point: OperatingPoint,
    atlases: Mapping[str, Path],
    atlas_threshold: float,
    tract_cutoffs: Sequence[float],
    sloppy: bool,
    random_seed: int,
    carry_mask: bool = False,
    name: str = "normalize_wf",
) -> Workflow:
    """Register the T1w, or the FLAIR where there is none, to a template; tell where lesions are.

    The probability is brought to the template's grid by its log odds; there, threshold,
    connectivity and minimum volume are those of the native grids, in millimetres of the template.
    With ``carry_mask`` the mask is the native one, interpolated and cut at one half.

    **Inputs**
        <m>_preproc, <m>_mask, <m>_lesion_mask, <m>_probability, <m>_labels, <m>_table : of the
            native grid of each modality
        t1w_to_flair_xfm : with two modalities

    **Outputs**
        to_template_xfm, from_template_xfm : ITK composites
        template_preproc, template_probability, template_lesion_mask : in template space
        template_before, template_after : figures
        normalization_qc, location : JSON
        regions : TSV
        t1w_table, flair_table : lesion tables with columns of where
    """
    workflow = Workflow(name=name)
    source, names = modalities[0].lower(), [m.lower() for m in modalities]
    workflow.__desc__ = describe_normalization(
        modalities[0], template, operating_point, carry_mask=carry_mask
    )
    fields = [f"{source}_{f}" for f in ("preproc", "mask", "lesion_mask", "probability")]
    fields += [f"{n}_{f}" for n in names for f in ("labels", "table")]
    fields += ["t1w_to_flair_xfm"] if len(names) == 2 else []
    inputnode = pe.Node(niu.IdentityInterface(fields=fields), name="inputnode")
    outputnode = pe.Node(niu.IdentityInterface(fields=list(OUTPUTS)), name="outputnode")
    normalize = pe.Node(
        NormalizeToTemplate(
            template=template,
            affine_iterations=[20, 10, 0] if sloppy else [500, 250, 100],
            syn_iterations=[5, 0, 0] if sloppy else [40, 20, 10],
            seed=random_seed,
        ),
        name="normalize",
        mem_gb=4.0,
    )
    to_template = pe.Node(
        LesionsToTemplate(
            template=template,
            threshold=operating_point.threshold,
            min_volume_mm3=operating_point.min_volume_mm3,
            connectivity=operating_point.connectivity,
            inclusive=operating_point.inclusive,
        ),
        name="to_template",
        mem_gb=1.0,
    )
    locate = pe.Node(
        LocateLesions(
            template=template,
            source=source,
            atlases={key: str(path) for key, path in atlases.items()},
            threshold=atlas_threshold,
            cutoffs_ml=list(tract_cutoffs),
        ),
        name="locate",
        mem_gb=2.0,
    )
    figure = pe.Node(RegistrationFigure(), name="figure", mem_gb=0.5)
    workflow.connect(
        [
            (
                inputnode,
                normalize,
                [(f"{source}_preproc", "in_file"), (f"{source}_mask", "in_mask")],
            ),
            (inputnode, normalize, [(f"{source}_lesion_mask", "lesion")]),
            (inputnode, to_template, [(f"{source}_probability", "probability")]),
            (normalize, to_template, [("forward", "transform")]),
            (
                inputnode,
                locate,
                [(f"{n}_{f}", f"{n}_{f}") for n in names for f in ("labels", "table")],
            ),
            (normalize, locate, [("inverse", "inverse")]),
            (to_template, locate, [("mask", "mask")]),
            (normalize, figure, [("template_image", "fixed"), ("before", "moving_before")]),
            (normalize, figure, [("after", "moving_after")]),
            (figure, outputnode, [("before", "template_before"), ("after", "template_after")]),
            (
                normalize,
                outputnode,
                [("forward", "to_template_xfm"), ("after", "template_preproc")],
            ),
            (normalize, outputnode, [("inverse", "from_template_xfm"), ("qc", "normalization_qc")]),
            (to_template, outputnode, [("probability", "template_probability")]),
            (to_template, outputnode, [("mask", "template_lesion_mask")]),
            (locate, outputnode, [(f, f) for f in ("regions", "location")]),
            (locate, outputnode, [(f"{n}_table", f"{n}_table") for n in names]),
        ]
    )
    if carry_mask:
        workflow.connect(inputnode, f"{source}_lesion_mask", to_template, "native_mask")
    if len(names) == 2:
        workflow.connect(inputnode, "t1w_to_flair_xfm", locate, "transform")
    return workflow


def describe_normalization(
    modality: str, template: str, point: OperatingPoint, *, carry_mask: bool = False
) -> str:
    """Methods text of the normalisation."""
    cut = f"and cut there at {point.threshold:g}"
    if carry_mask:
        cut = "and the lesion mask by that of the mask, cut there at one half"
    return (
        f"The skull-stripped {modality} was registered to the template {template} by an affine "
        "and a SyN transform [@syn] of ANTs [@ants] (Mattes mutual information on a grid of 2 mm); "
        f"the lesion, grown by {MARGIN_MM:g} mm, was left out of the cost function "
        "[@costfunctionmasking]. The probability map was brought to the template's grid by linear "
        f"interpolation of its log odds {cut}, without components under "
        f"{point.min_volume_mm3:g} mm³ of template space. "
    )
