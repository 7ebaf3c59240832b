"""Preprocessing of the images of one pair, in the order that a model's descriptor states."""

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from bids_stroke.errors import UnusableData
from bids_stroke.interfaces.ants import N4BiasFieldCorrection, RigidRegistration
from bids_stroke.interfaces.brain import ExtractBrain
from bids_stroke.interfaces.images import ConformImage, CropToMask, Reorient, ToGrid, ZScore

OUTPUTS = (
    *(
        f"{modality}_{field}"
        for modality in ("t1w", "flair")
        for field in ("conformed", "mask", "preproc", "n4_before", "n4_after")
    ),
    *("moving_preproc", "moving_before", "registration_qc"),
    *("t1w_to_flair_xfm", "flair_to_t1w_xfm"),
    *("conform_qc_t1w", "conform_qc_flair", "brain_qc_t1w", "brain_qc_flair"),
    *("network_t1w", "network_flair", "network_mask"),
)

Port = tuple[pe.Node, str]
"""An output of a node: the node and the name of the field."""


@dataclass(frozen=True)
class Channel:
    """One modality on its way through the steps: where its files come from at this point.

    ``image`` and ``mask`` are on the present grid, ``conformed`` is on the native one. ``plain`` is
    the image before z-scoring, ``native`` the one before it was resampled to the reference, and
    ``head`` the one with its skull, as a network may want it.
    """

    name: str
    conformed: Port
    image: Port
    plain: Port
    mask: Port | None = None
    native: Port | None = None
    head: Port | None = None


@dataclass(frozen=True)
class State:
    """All channels by name; once ``registered``, both lie on the grid of the reference."""

    channels: Mapping[str, Channel]
    reference: str
    registered: bool = False

    @property
    def fixed(self) -> Channel:
        """The reference modality."""
        return self.channels[self.reference]

    @property
    def moving(self) -> Channel | None:
        """The other modality, if there is one."""
        return next((c for c in self.channels.values() if c.name != self.reference), None)

    def updated(self, *channels: Channel, registered: bool | None = None) -> "State":
        """The state with some channels replaced."""
        new = {**self.channels, **{channel.name: channel for channel in channels}}
        return replace(
            self,
            channels=new,
            registered=self.registered if registered is None else registered,
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the steps need to know beside the images."""

    brain_extraction: str
    hdbet_weights: Path | None
    n4_shrink: int
    n4_levels: int
    omp_nthreads: int
    use_gpu: bool
    device: str
    sloppy: bool
    random_seed: int
    precomputed: Set[str]
    whole_head: bool


def init_preproc_wf(
    *,
    modalities: Sequence[str],
    steps: Sequence[str],
    reference: str,
    brain_extraction: str,
    hdbet_weights: Path | None,
    n4_shrink: int,
    n4_levels: int,
    omp_nthreads: int,
    use_gpu: bool,
    device: str,
    sloppy: bool,
    random_seed: int,
    precomputed: Collection[str] = frozenset(),
    whole_head: bool = False,
    name: str = "preproc_wf",
) -> Workflow:
    """Bring the images of a pair to what a network wants, and keep what a reader wants to see.

    ``steps`` is any order of the keys of ``STEPS`` in which brain extraction precedes what needs a
    mask; the input check always comes first. ``reference`` is the modality whose grid the network
    sees, and ``whole_head`` says that it sees images with their skull. ``precomputed`` names the
    modalities that come with a brain mask. Raises UnusableData for an order that can't be run.

    **Inputs**
        t1w, flair : files of the dataset
        t1w_mask, flair_mask : brain masks, for the modalities in ``precomputed``

    **Outputs** (of absent modalities and steps: undefined)
        t1w_conformed, flair_conformed : checked images on their native grids, with skull
        t1w_mask, flair_mask : brain masks on the native grids
        t1w_preproc, flair_preproc : brains on the native grids, before resampling and z-scoring
        moving_preproc, moving_before : the other modality on the native grid of the reference,
            registered, and with the identity instead
        t1w_n4_before, t1w_n4_after, flair_n4_before, flair_n4_after : around bias correction
        t1w_to_flair_xfm, flair_to_t1w_xfm : ITK transforms
        conform_qc_t1w, conform_qc_flair, brain_qc_t1w, brain_qc_flair, registration_qc : JSON
        network_t1w, network_flair, network_mask : what the network sees
    """
    check_steps(steps)
    settings = Settings(
        brain_extraction=brain_extraction,
        hdbet_weights=hdbet_weights,
        n4_shrink=n4_shrink,
        n4_levels=n4_levels,
        omp_nthreads=omp_nthreads,
        use_gpu=use_gpu,
        device=device,
        sloppy=sloppy,
        random_seed=random_seed,
        precomputed={modality.lower() for modality in precomputed},
        whole_head=whole_head,
    )
    workflow = Workflow(name=name)
    reference = reference if reference in modalities else modalities[0]
    workflow.__desc__ = describe_preprocessing(
        modalities=modalities, steps=steps, reference=reference, settings=settings
    )
    inputs = ["t1w", "flair", "t1w_mask", "flair_mask"]
    inputnode = pe.Node(niu.IdentityInterface(fields=inputs), name="inputnode")
    outputnode = pe.Node(niu.IdentityInterface(fields=list(OUTPUTS)), name="outputnode")
    workflow.add_nodes([inputnode, outputnode])
    channels = [_conform(workflow, modality.lower()) for modality in modalities]
    state = State({channel.name: channel for channel in channels}, reference.lower())
    for step in steps:
        state = STEPS[step](workflow, state, settings)
    _connect_outputs(workflow, state, settings)
    return workflow


def check_steps(steps: Sequence[str]) -> None:
    """Raise UnusableData for steps that are unknown, repeated, or need a mask too early."""
    if unknown := sorted(set(steps) - set(STEPS)):
        raise UnusableData(f"The model asks for the unknown preprocessing step '{unknown[0]}'.")
    if len(set(steps)) < len(steps):
        raise UnusableData("The model asks for one preprocessing step twice: correct its steps.")
    if "brain_extraction" not in steps:
        raise UnusableData(
            "The model's preprocessing has no brain_extraction: add it to its steps."
        )
    early = steps[: list(steps).index("brain_extraction")]
    if wrong := [step for step in early if step != "reorient"]:
        raise UnusableData(f"The model's preprocessing has {wrong[0]} before brain_extraction.")


def _output(workflow: Workflow, port: Port, field: str) -> None:
    workflow.connect(*port, workflow.get_node("outputnode"), field)


def _conform(workflow: Workflow, name: str) -> Channel:
    """The input check, which starts the way of a channel."""
    node = pe.Node(ConformImage(), name=f"{name}_conform", mem_gb=1.0)
    workflow.connect(workflow.get_node("inputnode"), name, node, "in_file")
    port = (node, "out_file")
    _output(workflow, port, f"{name}_conformed")
    _output(workflow, (node, "qc"), f"conform_qc_{name}")
    return Channel(name, conformed=port, image=port, plain=port)


def _to_native(workflow: Workflow, port: Port, grid: Port, field: str, *, order: int = 1) -> None:
    """Copy a file to a native grid and give it out under a field's name."""
    node = pe.Node(ToGrid(order=order, kept=True), name=f"native_{field}", mem_gb=0.5)
    workflow.connect(*port, node, "in_file")
    workflow.connect(*grid, node, "reference")
    _output(workflow, (node, "out_file"), field)


def _reorient(workflow: Workflow, state: State, settings: Settings) -> State:
    return state.updated(*(_reorient_one(workflow, c) for c in state.channels.values()))


def _reorient_one(workflow: Workflow, channel: Channel) -> Channel:
    node = pe.Node(Reorient(), name=f"{channel.name}_reorient", mem_gb=0.5)
    return _through(workflow, channel, node, masked=channel.mask is not None)


def _through(workflow: Workflow, channel: Channel, node: pe.Node, *, masked: bool) -> Channel:
    """Send a channel's image, and its mask, through a node that gives both on a new grid."""
    workflow.connect(*channel.image, node, "in_file")
    image = (node, "out_file")
    plain = image if channel.plain == channel.image else channel.plain
    if not masked:
        return replace(channel, image=image, plain=plain)
    assert channel.mask is not None  # nosec B101 # narrows the type
    workflow.connect(*channel.mask, node, "in_mask")
    return replace(channel, image=image, plain=plain, mask=(node, "out_mask"))


def _extract_brain(workflow: Workflow, state: State, settings: Settings) -> State:
    given = settings.precomputed & set(state.channels)
    by_network = given != set(state.channels) and settings.brain_extraction != "skip"
    on_gpu = settings.use_gpu and by_network
    node = pe.Node(
        ExtractBrain(
            method=settings.brain_extraction,
            folds=1 if settings.sloppy else 5,
            device=settings.device,
            use_gpu=on_gpu,
            num_threads=settings.omp_nthreads,
        ),
        name="brain",
        n_procs=1 if on_gpu else settings.omp_nthreads,
        mem_gb=3.5,
    )
    if settings.hdbet_weights is not None:
        node.inputs.weights = str(settings.hdbet_weights)
    for name in sorted(given):
        workflow.connect(workflow.get_node("inputnode"), f"{name}_mask", node, f"{name}_mask")
    channels = state.channels.values()
    return state.updated(*(_bare(workflow, channel, node) for channel in channels))


def _bare(workflow: Workflow, channel: Channel, node: pe.Node) -> Channel:
    """A channel after the node that takes its skull away."""
    workflow.connect(*channel.image, node, channel.name)
    image, mask = (node, channel.name), (node, f"{channel.name}_mask")
    _output(workflow, (node, f"{channel.name}_qc"), f"brain_qc_{channel.name}")
    _to_native(workflow, mask, channel.conformed, f"{channel.name}_mask", order=0)
    return replace(channel, image=image, plain=image, mask=mask, head=channel.image)


def _n4(workflow: Workflow, state: State, settings: Settings) -> State:
    return state.updated(
        *(_n4_one(workflow, channel, settings) for channel in state.channels.values())
    )


def _n4_one(workflow: Workflow, channel: Channel, settings: Settings) -> Channel:
    node = pe.Node(
        N4BiasFieldCorrection(
            shrink=settings.n4_shrink,
            levels=settings.n4_levels,
            iterations=5 if settings.sloppy else 50,
        ),
        name=f"{channel.name}_n4",
        mem_gb=1.5,
    )
    _output(workflow, channel.image, f"{channel.name}_n4_before")
    _output(workflow, (node, "out_file"), f"{channel.name}_n4_after")
    workflow.connect(*_mask(channel), node, "in_mask")
    return _through(workflow, channel, node, masked=False)


def _register(workflow: Workflow, state: State, settings: Settings) -> State:
    fixed, moving = state.fixed, state.moving
    if moving is None:
        return state
    register = _registration(workflow, fixed, moving, settings)
    image = pe.Node(ToGrid(order=3), name=f"{moving.name}_to_{fixed.name}", mem_gb=1.5)
    mask = pe.Node(ToGrid(order=0), name=f"{moving.name}_mask_to_{fixed.name}", mem_gb=0.5)
    for node, source in ((mask, _mask(moving)), (image, moving.image)):
        workflow.connect(*source, node, "in_file")
        workflow.connect(*fixed.image, node, "reference")
        workflow.connect(register, "forward", node, "transform")
    workflow.connect(*_mask(fixed), mask, "in_mask")
    workflow.connect(mask, "out_file", image, "in_mask")
    _to_native(workflow, moving.image, fixed.conformed, "moving_before")
    port = (image, "out_file")
    moved = replace(moving, image=port, plain=port, mask=(mask, "out_file"), native=moving.plain)
    if settings.whole_head:
        moved = replace(moved, head=_head_to(workflow, fixed, moving, register))
    return state.updated(moved, registered=True)


def _head_to(workflow: Workflow, fixed: Channel, moving: Channel, register: pe.Node) -> Port:
    """The moving image with its skull on the grid of the reference."""
    node = pe.Node(ToGrid(order=3), name=f"{moving.name}_head_to_{fixed.name}", mem_gb=1.5)
    assert moving.head is not None, "brain extraction comes first"  # nosec B101 # check_steps
    workflow.connect(*moving.head, node, "in_file")
    workflow.connect(*fixed.image, node, "reference")
    workflow.connect(register, "forward", node, "transform")
    return node, "out_file"


def _registration(
    workflow: Workflow, fixed: Channel, moving: Channel, settings: Settings
) -> pe.Node:
    """The node that finds the transform between two channels."""
    node = pe.Node(
        RigidRegistration(
            iterations=[100, 20, 0] if settings.sloppy else [100, 20, 4],
            seed=settings.random_seed,
        ),
        name="register",
        mem_gb=1.5,
    )
    for role, channel in (("fixed", fixed), ("moving", moving)):
        workflow.connect(*channel.image, node, role)
        workflow.connect(*_mask(channel), node, f"{role}_mask")
    _output(workflow, (node, "forward"), f"{moving.name}_to_{fixed.name}_xfm")
    _output(workflow, (node, "inverse"), f"{fixed.name}_to_{moving.name}_xfm")
    _output(workflow, (node, "qc"), "registration_qc")
    return node


def _crop(workflow: Workflow, state: State, settings: Settings) -> State:
    """Cut every channel to the box of its brain; registered ones to that of the reference."""
    channels = []
    for channel in state.channels.values():
        node = pe.Node(CropToMask(), name=f"{channel.name}_crop", mem_gb=0.5)
        box = _mask(state.fixed if state.registered else channel)
        workflow.connect(*box, node, "box_mask")
        channels.append(_through(workflow, channel, node, masked=True))
    return state.updated(*channels)


def _zscore(workflow: Workflow, state: State, settings: Settings) -> State:
    channels = []
    for channel in state.channels.values():
        node = pe.Node(ZScore(), name=f"{channel.name}_zscore", mem_gb=0.5)
        workflow.connect(*channel.image, node, "in_file")
        workflow.connect(*_mask(channel), node, "in_mask")
        channels.append(replace(channel, image=(node, "out_file")))
    return state.updated(*channels)


def _mask(channel: Channel) -> Port:
    """The mask of a channel after brain extraction."""
    assert channel.mask is not None, "brain extraction comes first"  # nosec B101 # check_steps
    return channel.mask


def _connect_outputs(workflow: Workflow, state: State, settings: Settings) -> None:
    """Give out what the last step left: for the network, and on the native grids."""
    for channel in state.channels.values():
        image = channel.head if settings.whole_head else channel.image
        assert image is not None, "brain extraction comes first"  # nosec B101 # check_steps
        _output(workflow, image, f"network_{channel.name}")
        native = channel.native or channel.plain
        _to_native(workflow, native, channel.conformed, f"{channel.name}_preproc")
    _output(workflow, _mask(state.fixed), "network_mask")
    if state.registered and state.moving is not None:
        _to_native(workflow, state.moving.plain, state.fixed.conformed, "moving_preproc")


STEPS: Mapping[str, Callable[[Workflow, State, Settings], State]] = {
    "reorient": _reorient,
    "brain_extraction": _extract_brain,
    "register": _register,
    "n4": _n4,
    "crop": _crop,
    "zscore": _zscore,
}

_HEAD = "The network was given the images with their skull. "
_DEEPBET, _HDBET = "by deepbet [@deepbet]", "by HD-BET 2 [@hdbet]"
_EXTRACTION = {
    "deepbet": _DEEPBET,
    "embedded": _DEEPBET,
    "hd-bet": _HDBET,
    "hd-bet-1": "by HD-BET 1 [@hdbet]",
    "skip": "as all voxels other than 0, for the images were skull-stripped",
}


def describe_extraction(settings: Settings, modalities: Sequence[str]) -> str:
    """How the brain was found, as the end of a sentence."""
    given = [m for m in modalities if m.lower() in settings.precomputed]
    if len(given) == len(modalities):
        return "by a precomputed mask"
    automatic = _DEEPBET if settings.hdbet_weights is None else _HDBET
    automatic += " unless an image was skull-stripped already"
    text = _EXTRACTION.get(settings.brain_extraction, automatic)
    return f"{text}, and by a precomputed mask on the {given[0]}" if given else text


def describe_preprocessing(
    *, modalities: Sequence[str], steps: Sequence[str], reference: str, settings: Settings
) -> str:
    """Methods text of the preprocessing, in the order in which it is run."""
    pair = len(modalities) > 1
    moving = next((m for m in modalities if m != reference), "")
    sentences = {
        "reorient": "axes were put into RAS order without interpolation",
        "brain_extraction": f"the brain was found {describe_extraction(settings, modalities)}",
        "register": (
            f"the {moving} was registered rigidly to the {reference} with ANTs [@ants] "
            "(Mattes mutual information at 6, 4 and 2 mm) and resampled to its grid by cubic "
            "splines"
        ),
        "n4": (
            "the bias field within the brain was removed by N4 [@n4], on voxels above 0, with a "
            f"shrink factor of at most {settings.n4_shrink} and {settings.n4_levels} levels of "
            "B-splines"
        ),
        "crop": "images were cropped to the box of the brain",
        "zscore": "intensities were scaled to zero mean and unit deviation within the brain",
    }
    done = [sentences[step] for step in steps if pair or step != "register"]
    return (
        f"The {' and '.join(modalities)} image{'s' if pair else ''} of each session "
        f"{'were' if pair else 'was'} checked and converted to float32; then, in this order, "
        f"{'; '.join(done)}. {_HEAD if settings.whole_head else ''}"
    )
