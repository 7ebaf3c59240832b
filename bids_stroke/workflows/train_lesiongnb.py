"""The second graph of the train level for LesionGnb, which has no network to plan and train."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from bids_stroke.config import Config
from bids_stroke.interfaces.lesiongnb_training import DescribeCase, FitLesionGnb
from bids_stroke.interfaces.training import CollectModel
from bids_stroke.models.dataset import Places
from bids_stroke.models.recipe import Recipe
from bids_stroke.workflows.base import set_crash_folder


def init_lesiongnb_wf(
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
    """Features of each case in template space, two Gaussians for each fold, and the model.

    Takes what ``init_train_wf`` takes; ``device`` does not matter.

    **Inputs**
        none: they are files that the command line wrote below ``places``

    **Outputs**
        none: everything lies below ``places``
    """
    workflow = Workflow(name=name)
    workflow.base_dir = str(config.execution.work_dir.absolute())
    describe = pe.MapNode(
        DescribeCase(seed=recipe.seed), iterfield=["case"], name="describe", mem_gb=2.0
    )
    describe.inputs.case = [str(path) for path in cases]
    fit = pe.Node(
        FitLesionGnb(jobs=[str(jobs[fold]) for fold in sorted(jobs)]), name="fit", mem_gb=2.0
    )
    collect = pe.Node(CollectModel(setup=str(setup), folds=sorted(jobs)), name="collect", mem_gb=2)
    workflow.connect(
        [
            (describe, fit, [("described", "described")]),
            (fit, collect, [("done", "after")]),
        ]
    )
    places.results.mkdir(parents=True, exist_ok=True)
    set_crash_folder(workflow, log_dir / "train")
    return workflow
