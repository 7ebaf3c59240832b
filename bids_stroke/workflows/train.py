"""Two graphs of the train level: the cases, by the preprocessing of every run; then the model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from bids_stroke import boilerplate
from bids_stroke.bids.training_checks import Reference
from bids_stroke.config import Config
from bids_stroke.interfaces.locate import LocateReference
from bids_stroke.interfaces.training import (
    CollectModel,
    MakeArrays,
    PlanDataset,
    PrepareCase,
    TrainFold,
)
from bids_stroke.models.dataset import Case, Places
from bids_stroke.models.recipe import OperatingPoint, Recipe
from bids_stroke.workflows.base import pair_preproc, set_crash_folder

CASES_WF = "bids_stroke_wf"
"""That of the participant level, so that one work folder serves both."""


def init_cases_wf(
    *,
    config: Config,
    references: Sequence[Reference],
    groups: Mapping[str, str],
    recipe: Recipe,
    device: str,
    log_dir: Path,
    locate: bool = False,
    name: str = CASES_WF,
) -> Workflow:
    """Preprocess all pairs as prediction will, and bring their references to the same grid.

    The sub-workflow of a pair has the name and the nodes of the participant level, so what was
    computed there with equal inputs and settings is not computed again. With ``locate`` each pair
    is registered to the template as well, to say where its lesion lies.

    **Inputs**
        none: the files are those of ``references``

    **Outputs**
        none: each pair's node ``case`` leaves ``case.json`` in its folder (``case_file``), and its
        node ``where`` leaves ``where.json`` (``where_file``)
    """
    workflow = Workflow(name=name)
    workflow.base_dir = str(config.execution.work_dir.absolute())
    for reference in references:
        group = groups[reference.pair.label]
        pair_wf = _init_case_wf(config, reference, group, recipe, device)
        if locate:
            _add_where(pair_wf, reference, config)
        set_crash_folder(pair_wf, log_dir / f"sub-{reference.pair.subject}")
        workflow.add_nodes([pair_wf])
    return workflow


def case_file(steps: Path, reference: Reference) -> Path:
    """Where the node ``case`` of a pair leaves its record; ``steps`` is the graph's base folder."""
    return steps / CASES_WF / reference.pair.workflow_name / "case" / "case.json"


def where_file(steps: Path, reference: Reference) -> Path:
    """Where the node ``where`` of a pair leaves its record; ``steps`` as in ``case_file``."""
    return steps / CASES_WF / reference.pair.workflow_name / "where" / "where.json"


def _add_where(workflow: Workflow, reference: Reference, config: Config) -> None:
    """Add the node that says where the reference of a pair lies."""
    processing, modality = config.processing, reference.pair.modalities[0].lower()
    where = pe.Node(
        LocateReference(
            atlases={key: str(path) for key, path in processing.atlases.items()},
            threshold=processing.atlas_threshold,
            affine_iterations=[20, 10, 0] if processing.sloppy else [100, 50, 20],
            seed=processing.random_seed,
        ),
        name="where",
        mem_gb=2.5,
    )
    preproc_wf = workflow.get_node("preproc_wf")
    workflow.connect(
        [
            (preproc_wf, where, [(f"outputnode.network_{modality}", "image")]),
            (preproc_wf, where, [("outputnode.network_mask", "brain")]),
            (workflow.get_node("case"), where, [("label", "label")]),
        ]
    )


def _init_case_wf(
    config: Config, reference: Reference, group: str, recipe: Recipe, device: str
) -> Workflow:
    """One pair: its preprocessing, and its case."""
    pair, space = reference.pair, reference.space.lower()
    wanted = recipe.preprocessing.reference
    network = wanted if wanted in pair.modalities else pair.modalities[0]
    workflow = Workflow(name=pair.workflow_name)
    preproc_wf = pair_preproc(
        config, pair, recipe.preprocessing, network, device, config.execution.threads
    )
    case = pe.Node(
        PrepareCase(
            truth=str(reference.file),
            space=reference.space,
            case=pair.label,
            participant=f"sub-{pair.subject}",
            session=f"ses-{pair.session}" if pair.session else "",
            group=group,
            channels=list(recipe.channels),
        ),
        name="case",
        mem_gb=1.0,
    )
    links = [("network_mask", "network_mask"), (f"{space}_conformed", "native")]
    links += [(f"{space}_mask", "native_mask")]
    links += [(f"network_{m.lower()}", f"network_{m.lower()}") for m in pair.modalities]
    if space != network.lower():
        links += [(f"{space}_to_{network.lower()}_xfm", "to_network")]
        links += [(f"{network.lower()}_to_{space}_xfm", "to_native")]
    workflow.connect([(preproc_wf, case, [(f"outputnode.{a}", b) for a, b in links])])
    return workflow


def init_train_wf(
    *,
    config: Config,
    places: Places,
    recipe: Recipe,
    cases: Sequence[Path],
    setup: Path,
    jobs: Mapping[int, Path],
    device: str,
    log_dir: Path,
    name: str = "train_wf",
) -> Workflow:
    """Plan, make arrays, time a few iterations, train the folds, and put the model together.

    ``cases`` are the JSON records of the cases, ``jobs`` those of the folds; ``setup`` says what
    the model is. Each fold is a GPU node, and a process of its own, or several.

    **Inputs**
        none: they are files that the command line wrote below ``places``

    **Outputs**
        none: everything lies below ``places``
    """
    workflow = Workflow(name=name)
    workflow.base_dir = str(config.execution.work_dir.absolute())
    on_gpu, threads = device != "cpu", config.execution.threads
    plan = pe.Node(
        PlanDataset(setup=str(setup), cases=str(places.root / "cases.json")), name="plan", mem_gb=2
    )
    arrays = pe.MapNode(
        MakeArrays(
            channels=list(recipe.channels),
            configuration=recipe.plan.configuration,
            folder=str(places.preprocessed / f"arrays_{recipe.plan.configuration}"),
        ),
        iterfield=["case"],
        name="arrays",
        mem_gb=2.0,
    )
    arrays.inputs.case = [str(path) for path in cases]
    first = min(jobs)
    common = {"device": device, "use_gpu": on_gpu, "num_threads": threads}
    ranks = config.execution.gpus_per_fold
    resources = {"n_procs": 1 if on_gpu else threads * ranks, "mem_gb": 4.0 * ranks}
    estimate = pe.Node(
        TrainFold(job=str(jobs[first]), only_estimate=True, **common),
        name="estimate",
        n_procs=1 if on_gpu else threads,
        mem_gb=4.0,
    )
    ready = pe.Node(niu.Merge(len(jobs)), name="ready")
    collect = pe.Node(CollectModel(setup=str(setup), folds=sorted(jobs)), name="collect", mem_gb=2)
    workflow.connect(
        [
            (plan, arrays, [("plans", "plans")]),
            (arrays, estimate, [("arrays", "after")]),
            (ready, collect, [("out", "after")]),
        ]
    )
    for number, fold in enumerate(sorted(jobs), start=1):
        train = pe.Node(TrainFold(job=str(jobs[fold]), **common), name=f"fold_{fold}", **resources)
        workflow.connect(estimate, "done", train, "after")
        workflow.connect(train, "done", ready, f"in{number}")
    set_crash_folder(workflow, log_dir / "train")
    return workflow


def describe_training(
    recipe: Recipe, cases: Sequence[Case], folds: int, group_by: str | None
) -> str:
    """Methods text of a training, from the recipe that was run."""
    return boilerplate.text(
        "train" if recipe.method == "nnunet" else "train_lesiongnb",
        recipe=recipe.name,
        cases=len(cases),
        participants=len({case.participant for case in cases}),
        group=group_by or "participant",
        folds=folds,
        stages=" ".join(_describe_stage(recipe.of_stage(stage)) for stage in recipe.stages),
        point=_describe_point(recipe.operating_point),
    )


def _describe_point(point: OperatingPoint) -> str:
    """Where threshold and smallest volume come from."""
    if point.tune:
        return (
            "Threshold and smallest volume were those with the largest mean Dice over the "
            "validation cases; each fold was judged by the point that the other folds gave."
        )
    return (
        f"Threshold ({point.threshold:g}) and smallest volume ({point.min_volume_mm3:g} mm3) were "
        "those of the recipe."
    )


def _describe_stage(own: Recipe) -> str:
    """One stage in a sentence."""
    stage, schedule, optimiser = own.stages[0], own.schedule, own.optimiser
    starts = {
        "scratch": "from random weights",
        "pretrained": "from the weights of a pretrained model",
        "previous": "from the weights of the stage before",
    }
    return (
        f"The stage *{stage.name}* trained on {' and '.join(own.channels)} "
        f"{starts[stage.start]} for {schedule.epochs} epochs of {schedule.iterations} iterations "
        f"with {optimiser.name.upper()}, an initial learning rate of "
        f"{optimiser.learning_rate:g} ({schedule.name}) and the loss {own.loss.name}."
    )
