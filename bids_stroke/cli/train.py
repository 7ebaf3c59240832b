"""The train level: check the data, preprocess, split, train, validate, and leave a model."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_stroke import errors
from bids_stroke.cli.train_plan import Plan, groups_of, make_plan
from bids_stroke.config import Config, Execution
from bids_stroke.core.words import counted
from bids_stroke.errors import (
    BidsStrokeError,
    InputMissing,
    TryAgain,
    UnusableData,
    UsageError,
)

if TYPE_CHECKING:
    from bids_stroke.bids.training_checks import Finding
    from bids_stroke.core.splits import Split
    from bids_stroke.models.dataset import Case, Places
    from bids_stroke.models.recipe import Recipe

MOST_WORKERS = 12
ONE_GROUP = "One group can't be split: training needs two participants at least."


def run_train(config: Config) -> int:
    """The train level; returns the exit code."""
    from bids_stroke.cli import run
    from bids_stroke.models.fit import RUN_LOCK, hold

    plan = make_plan(config)
    pairs = [one.pair for one in plan.references]
    groups = groups_of(pairs, plan.columns, config.training.group_by)
    findings = _check_raw(plan)
    _say_plan(config, plan, findings)
    if len(set(groups.values())) < 2:
        raise UsageError(ONE_GROUP)
    check_ranks(config, plan)
    if config.execution.dry_run:
        return UnusableData.exit_code if _errors(findings) else 0
    log_dir = run.start_logs(config)
    _write_findings(findings, log_dir)
    plan = _without_errors(config, plan, findings)
    with (
        run.used_environment(config),
        run.quiet(config),
        run.logged_engine(config, log_dir),
    ):
        cases = prepare_cases(config, plan, log_dir)
        cases = _check_places(config, cases, log_dir)
        places = _places(config, plan.recipe)
        with hold(places.root / RUN_LOCK):
            return _train(config, plan, cases, places, log_dir)


def _places(config: Config, recipe: "Recipe") -> "Places":
    """Folders of the new model."""
    from bids_stroke.models.dataset import Places

    name = config.training.name or recipe.name
    return Places(config.dataset.output_dir.absolute() / "sourcedata" / "nnunet" / name, name)


# Checks


def check_ranks(config: Config, plan: Plan) -> None:
    """Can a fold be trained by ``--gpus-per-fold``? Raises UsageError, before anything is computed.

    A batch that nnU-Net has to plan first is looked at after that.
    """
    from bids_stroke.cli import run
    from bids_stroke.models.planning import check_division, known_batch

    ranks = config.execution.gpus_per_fold
    if ranks == 1:
        return
    if plan.recipe.method != "nnunet":
        raise UsageError(f"'{plan.recipe.name}' trains no network: leave --gpus-per-fold out.")
    for stage in plan.recipe.stages:
        if batch := known_batch(plan.recipe, stage, plan.pretrained):
            check_division(batch, ranks, stage.name)
    device = run.resolve_device(config.execution.device)
    if device not in ("cpu", "cuda"):
        raise UsageError(f"'{device}' is one device: leave --device or --gpus-per-fold out.")
    if device == "cuda" and (there := _gpu_count()) < ranks:
        raise UsageError(f"There is {counted(there, 'GPU')}, not {ranks}: lower --gpus-per-fold.")


def _gpu_count() -> int:
    import torch

    return int(torch.cuda.device_count())


def _check_raw(plan: Plan) -> "list[Finding]":
    from bids_stroke.bids.training_checks import check_references

    return check_references(plan.references)


def _errors(findings: "Sequence[Finding]") -> set[str]:
    """Labels of the sessions that have an error."""
    return {f.label for f in findings if f.severity == "error"}


def _say_plan(config: Config, plan: Plan, findings: "Sequence[Finding]") -> None:
    from bids_stroke.bids.training_checks import lines

    start = f", from the model '{plan.pretrained.name}'" if plan.pretrained else ""
    print(f"Recipe '{plan.recipe.name}'{start}: {plan.recipe.title}")
    for stage in plan.recipe.stages if plan.recipe.method == "nnunet" else ():
        own = plan.recipe.of_stage(stage)
        print(
            f"  stage '{stage.name}' on {' + '.join(own.channels)}: {own.schedule.epochs} epochs "
            f"of {own.schedule.iterations} iterations"
        )
    sessions = len(plan.references)
    participants = counted(len(plan.participants), "participant")
    print(f"Of {participants}, {counted(sessions, 'session')} can be trained on.")
    for label, reason in sorted(plan.left_out.items()):
        print(f"  {label} is left out: {reason}")
    for line in lines(findings, sessions):
        print(line, flush=True)


def _write_findings(findings: "Sequence[Finding]", log_dir: Path) -> None:
    from bids_stroke.bids.training_checks import table
    from bids_stroke.core.files import write_text

    write_text(log_dir / "training_checks.tsv", table(findings))


def _without_errors(config: Config, plan: Plan, findings: "Sequence[Finding]") -> Plan:
    """The plan without sessions that have an error; without --allow-findings one ends the run."""
    bad = _errors(findings)
    _refuse(config, bad)
    kept = [one for one in plan.references if one.pair.label not in bad]
    if not kept:
        raise UnusableData("No session is left to train on: correct what the check found.")
    return replace(plan, references=kept)


def _refuse(config: Config, bad: set[str]) -> None:
    if bad and not config.training.allow_findings:
        raise UnusableData(
            f"{counted(len(bad), 'session')} can't be trained on: correct what the check found, or "
            "leave them out by --allow-findings."
        )


def _check_places(config: Config, cases: "Sequence[Case]", log_dir: Path) -> "list[Case]":
    """Check the masks on the preprocessed images, and leave out what has an error."""
    from bids_stroke.bids.training_checks import check_place, lines
    from bids_stroke.core.files import write_text

    findings = [f for case in cases for f in check_place(case.case, case.outside, case.contrast)]
    if findings:
        print("On the preprocessed images:")
        for line in lines(findings, len(cases)):
            print(line, flush=True)
        checks = log_dir / "training_checks.tsv"
        rows = [f"{f.label}\t{f.severity}\t{f.code}\t{f.message}\n" for f in findings]
        write_text(checks, checks.read_text(encoding="utf-8") + "".join(rows))
    bad = _errors(findings)
    _refuse(config, bad)
    return [case for case in cases if case.case not in bad]


# Running graphs


def prepare_cases(config: Config, plan: Plan, log_dir: Path) -> "list[Case]":
    """Preprocess all sessions; raises BidsStrokeError, after all ran, when one failed."""
    from bids_stroke.cli import outcome, run
    from bids_stroke.cli.claims import claimed
    from bids_stroke.core.files import read_json
    from bids_stroke.models.dataset import Case
    from bids_stroke.workflows.train import case_file, init_cases_wf, where_file

    pairs = [one.pair for one in plan.references]
    groups = groups_of(pairs, plan.columns, config.training.group_by)
    workflow = init_cases_wf(
        config=config,
        references=plan.references,
        groups=groups,
        recipe=plan.recipe,
        device=run.resolve_device(config.execution.device),
        log_dir=log_dir,
        locate=plan.locate,
    )
    labels = run.workflow_labels(pairs)
    steps = _steps(config)
    workflow.base_dir = str(steps)
    with claimed(config.execution.work_dir, labels) as taken:
        if taken:
            raise TryAgain(f"Another run computes {labels[min(taken)]}: wait for its end.")
        _execute(config, workflow, labels, log_dir)
    participants = sorted({f"sub-{pair.subject}" for pair in pairs})
    failed = outcome.failures(log_dir, participants, labels)
    for one in failed:
        print(f"  {one.label}: FAILED: {one.message}")
    if failed and not config.training.allow_findings:
        raise BidsStrokeError(
            f"{counted(len(failed), 'session')} could not be preprocessed: see above, or leave "
            "them out by --allow-findings."
        )
    bad = {one.label for one in failed}
    done = [one for one in plan.references if one.pair.label not in bad]
    cases = [Case(**read_json(case_file(steps, one))) for one in done]
    if not plan.locate:
        return cases
    where = [read_json(where_file(steps, one)) for one in done]
    return [replace(case, where=found) for case, found in zip(cases, where, strict=True)]


def _steps(config: Config) -> Path:
    """Folder of the steps of this dataset, which the participant level uses as well."""
    from bids_stroke.cli.environment import steps_folder

    return steps_folder(config.execution.work_dir, config.dataset.bids_dir)


def _execute(config: Config, workflow: Any, labels: Mapping[str, str], log_dir: Path) -> None:
    """Run a graph and show progress; what failed has left crash files."""
    from bids_stroke.cli import engine, progress, run

    display = progress.choose_display(list(labels.values()))
    tracker = progress.Tracker(labels, run.node_names(workflow), display)
    with engine.started(config.execution, log_dir) as plugin, display:
        error = engine.run_workflow(workflow, plugin, tracker)
    progress.add_timing(tracker.times, log_dir / f"timing-{workflow.name}.tsv")
    if error and not tracker.failed:
        raise BidsStrokeError(f"The run broke off: {error}.")


# Training


def _train(
    config: Config, plan: Plan, cases: "Sequence[Case]", places: "Places", log_dir: Path
) -> int:
    """Split, write what the processes need, run the second graph, and report."""
    from bids_stroke.cli import run
    from bids_stroke.cli.train_watch import Watch
    from bids_stroke.models.dataset import write_cases, write_splits
    from bids_stroke.reports.training import write_results, write_training_page

    output_dir = config.dataset.output_dir.absolute()
    splits = make_splits(config, plan, cases, places)
    _check_settings(places, plan, cases, splits)
    write_cases(cases, places.root / "cases.json")
    places.preprocessed.mkdir(parents=True, exist_ok=True)
    write_splits(places, splits, cases)
    folds = chosen_folds(config, plan.recipe, len(splits))
    workflow = _graph_of(plan.recipe)(
        config=config,
        places=places,
        recipe=plan.recipe,
        cases=_write_records(places, cases),
        setup=_write_setup(config, plan, cases, places, splits),
        jobs=_write_jobs(config, plan, cases, places, splits, folds),
        device=run.resolve_device(config.execution.device),
        log_dir=log_dir,
    )
    workflow.base_dir = str(_steps(config))
    with Watch(places, output_dir, folds):
        _execute(config, workflow, {workflow.name: places.name}, log_dir)
    if failed := _training_failures(log_dir):
        write_training_page(places.root, output_dir)
        raise failed
    for line in write_results(places.root, output_dir):
        print(line)
    page = write_training_page(places.root, output_dir)
    print(f"The model is {places.model}; run it with: participant --model {places.model}")
    print(f"The report is {page}")
    return 0


def _graph_of(recipe: "Recipe") -> Callable[..., Any]:
    """Factory of the second graph: that of a network, or of LesionGnb."""
    if recipe.method == "lesiongnb":
        from bids_stroke.workflows.train_lesiongnb import init_lesiongnb_wf

        return init_lesiongnb_wf
    from bids_stroke.workflows.train import init_train_wf

    return init_train_wf


def make_splits(
    config: Config, plan: Plan, cases: "Sequence[Case]", places: "Places"
) -> "list[Split]":
    """Splits of an earlier run of this model, else of the user's file, else balanced ones.

    Raises UsageError where those of an earlier run hold other cases.
    """
    from bids_stroke.core import splits
    from bids_stroke.models.dataset import read_splits

    items = [case.item() for case in cases]
    there = places.root / "splits.json"
    if config.training.split_file:
        return splits.from_table(_read_split_file(config.training.split_file), items)
    if there.is_file():
        earlier = read_splits(there)
        if {c for s in earlier for c in s.val + s.train} == {item.case for item in items}:
            return earlier
        raise UsageError(
            f"{there.parent} was made of other sessions: give the new model another --name."
        )
    groups = len({item.group for item in items})
    count = min(plan.recipe.folds.count, groups)
    if count < 2:
        raise UsageError(ONE_GROUP)
    if count < plan.recipe.folds.count:
        print(f"{counted(groups, 'group')} can make {count} folds, not {plan.recipe.folds.count}.")
    return splits.make_splits(items, count, plan.recipe.seed)


def _read_split_file(path: Path) -> list[dict[str, list[str]]]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputMissing(f"The splits {path} can't be read: {error}.") from error
    except ValueError as error:
        raise UsageError(f"The splits {path} are not valid JSON: {error}.") from error
    if not isinstance(table, list) or not all(isinstance(fold, dict) for fold in table):
        raise UsageError(f"The splits {path} must be a list of objects with train and val.")
    return table


def chosen_folds(config: Config, recipe: "Recipe", count: int) -> list[int]:
    """Folds to train: those of ``--folds``, else of the recipe, else all; raises UsageError."""
    asked = [fold for fold in config.model.folds if fold != "all"] or list(recipe.folds.train)
    folds = sorted({int(fold) for fold in asked}) or list(range(count))
    if wrong := [fold for fold in folds if fold >= count]:
        raise UsageError(f"There is no fold {wrong[0]}: there are {count}, from 0 on.")
    return folds


def _check_settings(
    places: "Places", plan: Plan, cases: "Sequence[Case]", splits: "Sequence[Split]"
) -> None:
    """Refuse to go on with a model that was begun with other settings; raises UsageError."""
    from bids_stroke.core.files import read_json
    from bids_stroke.models.packing import write_settings
    from bids_stroke.models.recipe import plain

    recipe = {key: value for key, value in plain(plan.recipe).items() if key != "folds"}
    settings = {
        "recipe": recipe,
        "pretrained": plan.pretrained.name if plan.pretrained else "",
        "splits": [[list(s.train), list(s.val)] for s in splits],
    }
    path = places.root / "settings.json"
    if path.is_file() and (before := read_json(path)) != settings:
        parts = [key for key in settings if before.get(key) != settings[key]]
        if parts == ["recipe"]:
            old = before["recipe"]
            parts = [f"recipe: {k}" for k in recipe if recipe[k] != old.get(k)]
        raise UsageError(
            f"{places.root} was begun with other settings ({', '.join(parts)}): give the new model "
            "another --name, or remove that folder."
        )
    write_settings(places.root, settings)


def _write_records(places: "Places", cases: "Sequence[Case]") -> list[Path]:
    """One JSON a case, left alone where it is the same, so that its arrays are kept."""
    from bids_stroke.core.files import write_text

    folder = places.root / "cases"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for case in cases:
        path, text = folder / f"{case.case}.json", json.dumps(asdict(case), indent=2)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        paths.append(path)
    return paths


def _write_setup(
    config: Config,
    plan: Plan,
    cases: "Sequence[Case]",
    places: "Places",
    splits: "Sequence[Split]",
) -> Path:
    """What the planning and the collecting step know of the model."""
    from bids_stroke.core.files import write_json
    from bids_stroke.models.recipe import plain
    from bids_stroke.workflows.train import describe_training

    dataset, synthetic = _dataset(config.dataset.bids_dir)
    people = len({case.participant for case in cases})
    synthetic = synthetic or bool(plan.pretrained and plan.pretrained.synthetic)
    return write_json(
        places.root / "setup.json",
        {
            "root": str(places.root),
            "name": places.name,
            "ranks": config.execution.gpus_per_fold,
            "recipe": plain(plan.recipe),
            "pretrained": str(plan.pretrained.file) if plan.pretrained else "",
            "pretrained_name": plan.pretrained.name if plan.pretrained else "",
            "training_data": f"{len(cases)} sessions of {people} participants of {dataset}",
            "synthetic": synthetic,
            "group_by": config.training.group_by or "participant",
            "methods": describe_training(plan.recipe, cases, len(splits), config.training.group_by),
        },
    )


def _dataset(bids_dir: Path) -> tuple[str, bool]:
    """Name of the dataset, and whether it is our demonstration."""
    from bids_stroke.bids.demo import GENERATOR

    try:
        table = json.loads((bids_dir / "dataset_description.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return bids_dir.name, False
    made_by = [str(one.get("Name")) for one in table.get("GeneratedBy") or []]
    return str(table.get("Name", bids_dir.name)), GENERATOR in made_by


def _write_jobs(
    config: Config,
    plan: Plan,
    cases: "Sequence[Case]",
    places: "Places",
    splits: "Sequence[Split]",
    folds: Sequence[int],
) -> dict[int, Path]:
    """One job a fold, with the cases that each stage trains on."""
    from bids_stroke.cli import run
    from bids_stroke.models.dataset import select_cases
    from bids_stroke.models.fit import Job, write_job
    from bids_stroke.models.recipe import plain

    device = run.resolve_device(config.execution.device)
    written = {}
    for fold in folds:
        own = [case for case in cases if case.case in splits[fold].train]
        train_on = {
            stage.name: tuple(
                case.case
                for case in select_cases(
                    plan.recipe.of_stage(stage).cases, own, plan.columns, plan.recipe.seed
                )
            )
            for stage in plan.recipe.stages
        }
        job = Job(
            root=str(places.root),
            name=places.name,
            recipe=plain(plan.recipe),
            fold=fold,
            train_on=train_on,
            pretrained=str(plan.pretrained.file) if plan.pretrained else "",
            device="cuda" if device.startswith("cuda") else device,
            threads=config.execution.threads,
            ranks=config.execution.gpus_per_fold,
            workers=loading_workers(config.execution, device, len(folds)),
        )
        written[fold] = write_job(job, places.root / f"fold_{fold}.json")
    return written


def loading_workers(execution: Execution, device: str, folds: int) -> int:
    """Processes that load and augment for each rank of a fold.

    None without a GPU: they would take the cores from the network, and leave the order of batches
    to chance. With a GPU all cores, shared by the folds at once; nnU-Net starts 12 as well.
    """
    if not device.startswith("cuda"):
        return 0
    at_once = min(folds, execution.gpu_slots) * execution.gpus_per_fold
    return min(max(execution.nprocs // at_once - 1, 1), MOST_WORKERS)


def _training_failures(log_dir: Path) -> BidsStrokeError | None:
    """What the crash files of the second graph say, as one error."""
    from bids_stroke.cli import outcome
    from bids_stroke.core.crashes import read_crash

    crashes = [
        (read_crash(path.read_text(encoding="utf-8", errors="replace")), path)
        for path in sorted((log_dir / "train").glob("crash-*.txt"))
    ]
    if not crashes:
        return None
    sentences = dict.fromkeys(outcome.sentence(crash, path) for crash, path in crashes)
    kinds = {TryAgain if crash.again else _kind(crash.kind) for crash, _ in crashes}
    kind = kinds.pop() if len(kinds) == 1 else BidsStrokeError
    return kind(" ".join(sentences))


def _kind(name: str) -> type[BidsStrokeError]:
    """The error of ours with this name, which has the exit code; any other is no more than one."""
    found = getattr(errors, name, BidsStrokeError)
    return found if issubclass(found, BidsStrokeError) else BidsStrokeError
