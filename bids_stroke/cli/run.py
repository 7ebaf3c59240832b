"""The BIDS App: ``main(argv)`` checks, plans, runs, reports, and returns the exit code."""

import atexit
import gc
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from bids_stroke.cli.parser import parse
from bids_stroke.config import Config, dumps, from_table, read_table
from bids_stroke.errors import (
    BidsStrokeError,
    CannotCreate,
    InputMissing,
    InputOutputError,
    NothingSelected,
    TryAgain,
    UnusableData,
    UsageError,
    is_full,
)

if TYPE_CHECKING:
    from bids_stroke.bids.pairs import Pair, Selection
    from bids_stroke.cli.outcome import Failure
    from bids_stroke.cli.progress import Tracker
    from bids_stroke.models.descriptor import Descriptor

INTERRUPTED = 130
GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
GROUP_SETTINGS = Path("logs", "group.toml")
"""In the output folder: by it ``--reports-only`` writes the cohort's page anew."""


@dataclass(frozen=True)
class Plan:
    """What a run will do: pairs that have a model, and pairs that are refused, with the error."""

    selection: "Selection"
    models: "Mapping[str, tuple[Descriptor, str]]"
    refused: "Mapping[str, BidsStrokeError]"

    @property
    def pairs(self) -> "list[Pair]":
        """Pairs that will be processed."""
        return [pair for pair in self.selection.pairs if pair.label in self.models]

    @property
    def participants(self) -> list[str]:
        """All participants of the plan, with ``sub-``, sorted."""
        return sorted({f"sub-{pair.subject}" for pair in self.selection.pairs})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; an expected error becomes one line on stderr and its exit code."""
    atexit.register(gc.freeze)  # else Python looks through all that is loaded before it ends
    try:
        return run(parse(argv))
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    except BidsStrokeError as error:
        return _say_error(error)
    except KeyboardInterrupt:
        print("bids_stroke: interrupted; a run with the same -w goes on.", file=sys.stderr)
        return INTERRUPTED
    except MemoryError:
        return _say_error(TryAgain("Memory ran out: give more, or lower --nprocs."))
    except OSError as error:
        return _say_error(
            TryAgain(f"{error}: free some disk.") if is_full(error) else InputOutputError(error)
        )


def _say_error(error: BidsStrokeError) -> int:
    print(f"bids_stroke: {error}", file=sys.stderr)
    return error.exit_code


def run(config: Config) -> int:
    """Run an analysis level and return the exit code; raises the errors that end a run."""
    from bids_stroke.bids import checks

    dataset = config.dataset
    check_places(config)
    if dataset.skip_validation:
        checks.check_folder(dataset.bids_dir)
    else:
        checks.check_dataset(dataset.bids_dir)
    for name, path in dataset.derivatives.items():
        if not path.is_dir():
            raise InputMissing(f"There is no folder {path}: check -d {name}=.")
    weights = config.processing.hdbet_weights
    if weights is not None and not weights.is_dir():
        raise InputMissing(f"There is no folder {weights}: check --hd-bet-weights.")
    if dataset.level == "group":
        return run_group(config)
    if dataset.level == "train":
        from bids_stroke.cli.train import run_train

        return run_train(config)
    return run_participants(config)


def check_places(config: Config) -> None:
    """Refuse folders that would change the input dataset; raises UsageError."""
    bids_dir = config.dataset.bids_dir.resolve()
    output_dir = config.dataset.output_dir.resolve()
    if output_dir == bids_dir:
        raise UsageError("OUTPUT_DIR can't be BIDS_DIR: use BIDS_DIR/derivatives/bids_stroke.")
    if _is_in_subject(output_dir, bids_dir):
        raise UsageError("OUTPUT_DIR can't be in a participant's folder of BIDS_DIR.")
    work_dir = config.execution.work_dir.resolve()
    if work_dir.is_relative_to(bids_dir):
        raise UsageError(f"The work folder {work_dir} can't be inside BIDS_DIR: choose one by -w.")


def _is_in_subject(path: Path, bids_dir: Path) -> bool:
    return path.is_relative_to(bids_dir) and path.relative_to(bids_dir).parts[0].startswith("sub-")


def run_group(config: Config) -> int:
    """Tables and page of the whole cohort, from the files in the output folder."""
    from bids_stroke.reports.group import agreement_lines, write_group

    dataset = config.dataset
    _require_output(dataset.output_dir)
    page = write_group(
        dataset.bids_dir,
        dataset.output_dir,
        find_reference_roots(config),
        options=config.group,
        nprocs=config.execution.nprocs,
        seed=config.processing.random_seed,
    )
    for line in agreement_lines(dataset.output_dir):
        print(line)
    _remember(config)
    print(f"The cohort's page is {page}")
    return 0


def _remember(config: Config) -> None:
    """Keep the settings of the group level for ``--reports-only``."""
    from bids_stroke.core.files import write_text

    path = config.dataset.output_dir / GROUP_SETTINGS
    path.parent.mkdir(exist_ok=True)
    write_text(path, dumps(config))


def _group_anew(config: Config) -> None:
    """The cohort's page by the settings of its last run, where there was one."""
    dataset, path = config.dataset, config.dataset.output_dir / GROUP_SETTINGS
    if path.is_file() and not dataset.participants:
        last = from_table(read_table(path))
        here = replace(last.dataset, bids_dir=dataset.bids_dir, output_dir=dataset.output_dir)
        run_group(replace(last, dataset=here))


def find_reference_roots(config: Config) -> list[Path]:
    """Folders to look in for reference masks; raises InputMissing for an unknown --reference."""
    from bids_stroke.bids.masks import reference_roots

    dataset = config.dataset
    roots = reference_roots(
        dataset.bids_dir,
        derivatives=dataset.derivatives,
        output_dir=dataset.output_dir,
        reference=dataset.reference,
    )
    if dataset.reference and not roots:
        raise InputMissing(
            f"There is no '{dataset.reference}' among -d or in {dataset.bids_dir / 'derivatives'}: "
            "check --reference."
        )
    return roots


def _require_output(output_dir: Path) -> None:
    if not any(output_dir.glob("sub-*")):
        raise InputMissing(
            f"{output_dir} holds no results: run the participant level first, with this OUTPUT_DIR."
        )


def run_participants(config: Config) -> int:
    """The participant level."""
    if config.execution.reports_only:
        return write_reports_only(config)
    if config.execution.dry_run:
        _print_plan(config, make_plan(config))
        return 0
    with _environment(config), _quiet(config), _claimed(config, make_plan(config)) as plan:
        return _run_plan(config, plan, start_logs(config))


def _run_plan(config: Config, plan: Plan, log_dir: Path) -> int:
    """Build the graph of a plan, run it and tell of it."""
    for pair in plan.selection.pairs:
        if pair.label in plan.refused:
            _outcome().write_refusal(log_dir, pair, plan.refused[pair.label])
    with _engine(config, plan, log_dir):
        workflow = build_workflow(config, plan, log_dir)
        _write_methods(workflow, config, log_dir)
        if config.execution.boilerplate_only:
            print(f"The methods text is in {config.dataset.output_dir / 'logs'}")
            return 0
        _say_shortage(config, workflow)
        tracker = execute(config, plan, workflow, log_dir)
        return finish(config, plan, tracker, log_dir)


def make_plan(config: Config) -> Plan:
    """Find pairs and choose a model for each.

    Raises NothingSelected when there is no pair, and the error of a model when no pair has one.
    """
    selection = select_pairs(config)
    if not selection.pairs:
        raise NothingSelected(
            f"No T1w or FLAIR image of {config.dataset.bids_dir} passes: check the labels and the "
            "filter file."
        )
    models, refused = choose_models(config, selection.pairs)
    if not models:
        raise next(iter(refused.values()))
    return Plan(selection, models, refused)


def select_pairs(config: Config) -> "Selection":
    """Pairs of the input dataset that the labels and filters of a run let through."""
    from bids_stroke.bids.checks import check_participants
    from bids_stroke.bids.layout import build_layout
    from bids_stroke.bids.pairs import select

    dataset = config.dataset
    check_participants(dataset.bids_dir, dataset.participants)
    layout = build_layout(
        dataset.bids_dir, participants=dataset.participants, database_dir=dataset.database_dir
    )
    return select(
        layout,
        participants=dataset.participants,
        sessions=dataset.sessions,
        filters=dataset.filters,
        derivatives=dataset.derivatives,
    )


def choose_models(
    config: Config, pairs: "Iterable[Pair]"
) -> "tuple[dict[str, tuple[Descriptor, str]], dict[str, BidsStrokeError]]":
    """Model of each pair by label, and the error of those that no model can process."""
    from bids_stroke.bids.checks import check_files, check_label

    pairs = list(pairs)
    choices = {one: _try_choose(config, one) for one in {pair.modalities for pair in pairs}}
    models: dict[str, tuple[Descriptor, str]] = {}
    refused: dict[str, BidsStrokeError] = {}
    for pair in pairs:
        try:
            check_label(pair.label, pair.source)
            check_files([*pair.images.values(), *pair.brain_masks.values()])
        except (UnusableData, InputMissing) as error:
            refused[pair.label] = error
            continue
        choice = choices[pair.modalities]
        if isinstance(choice, BidsStrokeError):
            refused[pair.label] = choice
        else:
            models[pair.label] = choice
    return models, refused


def _try_choose(
    config: Config, modalities: tuple[str, ...]
) -> "tuple[Descriptor, str] | BidsStrokeError":
    """What ``_choose`` gives, or the error of a model that is not there, damaged or unfit."""
    try:
        return _choose(config, modalities)
    except (UnusableData, InputMissing) as error:
        return error


def _choose(config: Config, modalities: tuple[str, ...]) -> "tuple[Descriptor, str]":
    """The model, or an ensemble of models, for a session that has ``modalities``, verified."""
    from bids_stroke.models.descriptor import choose, verify

    options = config.model
    chosen = [choose(name, modalities, options.models_dir) for name in options.names]
    for model, _ in chosen:
        verify(model)
    if len(chosen) == 1:
        return chosen[0]
    from bids_stroke.models.ensemble import Combination, ensemble

    how = Combination(
        method=options.ensemble,
        weights=options.ensemble_weights,
        window=options.agreement_window,
        share=options.agreement_share,
    )
    models = [model for model, _ in chosen]
    return ensemble(models, modalities, how), f"asked for by name; combined: {how}"


def _print_plan(config: Config, plan: Plan) -> None:
    from bids_stroke.cli.plan import plan_text

    refused = {label: str(error) for label, error in plan.refused.items()}
    print(plan_text(config, plan.selection, plan.models, refused), end="")


def start_logs(config: Config) -> Path:
    """Describe the output dataset and make the folder of this run's logs with its settings."""
    from bids_stroke.bids.description import describe_dataset
    from bids_stroke.core.files import write_text

    dataset = config.dataset
    describe_dataset(dataset.output_dir, dataset.bids_dir, derivatives=dataset.derivatives)
    name = f"{datetime.now():%Y%m%d-%H%M%S}_{uuid4()}"
    log_dir = dataset.output_dir / "logs" / name
    try:
        log_dir.mkdir(parents=True)
        write_text(log_dir / "bids_stroke.toml", dumps(config))
    except OSError as error:
        if is_full(error):
            raise
        raise CannotCreate(f"The logs can't be written to {log_dir}: {error}.") from error
    return log_dir


@contextmanager
def _environment(config: Config) -> Iterator[None]:
    """The environment of a run, and as it was afterwards."""
    from bids_stroke.cli.claims import use_work_folder
    from bids_stroke.cli.environment import prepare, remove_own_folders, start_fork_server

    work_dir, clean = config.execution.work_dir, config.execution.clean_workdir
    before = dict(os.environ)
    with use_work_folder(work_dir, alone=clean):
        if clean:
            remove_own_folders(work_dir)
        os.environ.update(prepare(config.execution))
        if config.execution.plugin_file is None and not config.execution.boilerplate_only:
            start_fork_server()
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def _claimed(config: Config, plan: Plan) -> Iterator[Plan]:
    """The plan without pairs that another run is computing in the same work folder.

    Raises TryAgain when none is left.
    """
    from bids_stroke.cli.claims import claimed

    names = [pair.workflow_name for pair in plan.pairs]
    with claimed(config.execution.work_dir, names) as taken:
        busy = {
            pair.label: TryAgain(
                f"Another run computes {pair.label} in {config.execution.work_dir}: wait for its "
                "end, or choose another folder by -w."
            )
            for pair in plan.pairs
            if pair.workflow_name in taken
        }
        models = {label: chosen for label, chosen in plan.models.items() if label not in busy}
        if not models:
            raise next(iter(busy.values()))
        yield replace(plan, models=models, refused={**plan.refused, **busy})


@contextmanager
def _quiet(config: Config) -> Iterator[None]:
    """Keep warnings of libraries off the terminal, unless asked to say more."""
    with warnings.catch_warnings():
        if not config.execution.verbose:
            warnings.simplefilter("ignore")
        yield


@contextmanager
def _engine(config: Config, plan: Plan, log_dir: Path) -> Iterator[None]:
    """nipype with the settings of the run; a workflow takes them over when it is made."""
    from bids_stroke.cli import engine

    engine.configure(config.execution, log_dir, len(plan.pairs))
    try:
        yield
    finally:
        engine.stop_logging()


def _say_shortage(config: Config, workflow: Any) -> None:
    """Tell beforehand when a step may not get the memory that it plans with."""
    from bids_stroke.cli.limits import limit_gb, shortage

    said = shortage(workflow, config.execution.memory_gb or limit_gb())
    if said:
        print(f"bids_stroke: {said}", file=sys.stderr)


def build_workflow(config: Config, plan: Plan, log_dir: Path) -> Any:
    """The graph of all pairs of a plan."""
    from bids_stroke.cli.environment import steps_folder
    from bids_stroke.workflows.base import init_bids_stroke_wf

    workflow = init_bids_stroke_wf(
        config=config,
        pairs=plan.pairs,
        descriptors=plan.models,
        device=resolve_device(config.execution.device),
        log_dir=log_dir,
    )
    workflow.base_dir = str(steps_folder(config.execution.work_dir, config.dataset.bids_dir))
    return workflow


def resolve_device(device: str) -> str:
    """Device to run on; ``auto`` is a CUDA GPU where there is one, else the processor.

    Raises UsageError when a GPU is asked for that is not there.
    """
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    number = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if int(index or 0) >= number:
        raise UsageError(f"There is no device '{device}' here: use --device auto or cpu.")
    return device


def _may_have_gpu() -> bool:
    """Is a driver's device there? On Linux without one, torch need not be imported to know."""
    return sys.platform != "linux" or any(map(os.path.exists, GPU_DEVICES))  # noqa: PTH110


def _write_methods(workflow: Any, config: Config, log_dir: Path) -> None:
    from bids_stroke.reports.citation import write_citation

    write_citation(workflow.visit_desc(), config.dataset.output_dir / "logs")
    if config.execution.write_graph:
        _write_graph(workflow, log_dir)


def _write_graph(workflow: Any, log_dir: Path) -> None:
    """Draw the graph as SVG where graphviz is installed, else leave its ``.dot`` file."""
    target = log_dir / "graph.dot"
    try:
        workflow.write_graph(dotfilename=str(target), graph2use="colored", format="svg")
    except OSError:
        print(f"graphviz is not installed: the graph is left as {target}", file=sys.stderr)


def execute(config: Config, plan: Plan, workflow: Any, log_dir: Path) -> "Tracker":
    """Run the graph, show progress and keep times; failed nodes leave crash files in the logs."""
    from bids_stroke.cli import engine, progress

    labels = workflow_labels(plan.pairs)
    display = progress.choose_display(list(labels.values()))
    tracker = progress.Tracker(labels, node_names(workflow), display)
    try:
        with display, _pages_ahead():
            error = engine.run_workflow(workflow, config.execution, tracker, log_dir)
    finally:
        progress.write_timing(tracker.times, log_dir / "timing.tsv")
    if error and not tracker.failed:
        (log_dir / "error.txt").write_text("".join(traceback.format_exception(error)))
        raise BidsStrokeError(f"The run broke off: {error} (see {log_dir / 'error.txt'}).")
    _keep_resources(config, workflow, log_dir)
    return tracker


@contextmanager
def _pages_ahead() -> Iterator[None]:
    """Load what writes the pages in a thread: this process only waits for its workers."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        thread.submit(_load_pages)
        yield


def _load_pages() -> None:
    import bids_stroke.reports.participant  # noqa: F401 - it takes a second
    from bids_stroke.reports.pages import load_templates

    load_templates()


def workflow_labels(pairs: "Iterable[Pair]") -> dict[str, str]:
    """Labels of pairs by the names of their sub-workflows."""
    return {pair.workflow_name: pair.label for pair in pairs}


def node_names(workflow: Any) -> list[str]:
    """Full names of the nodes that run; nipype takes identity nodes out of the graph."""
    from nipype.interfaces.utility import IdentityInterface

    return [
        f"{workflow.name}.{name}"
        for name in workflow.list_node_names()
        if not isinstance(workflow.get_node(name).interface, IdentityInterface)
    ]


def _keep_resources(config: Config, workflow: Any, log_dir: Path) -> None:
    record = Path(workflow.base_dir) / workflow.name / "resource_monitor.json"
    if config.execution.resource_monitor and record.is_file():
        shutil.copyfile(record, log_dir / record.name)


def finish(config: Config, plan: Plan, tracker: "Tracker", log_dir: Path) -> int:
    """Write the report pages, print times and the summary, and return the exit code."""
    from bids_stroke.cli.progress import timing_lines

    outcome = _outcome()
    labels = workflow_labels(plan.selection.pairs)
    failed = outcome.failures(log_dir, labels)
    failed += _unexplained(plan, tracker, {one.label for one in failed})
    failed += _write_reports(config, plan.participants, log_dir)
    for line in timing_lines(tracker.times):
        print(line)
    output_dir = config.dataset.output_dir
    for line in outcome.summary_lines(plan.participants, failed, output_dir):
        print(line)
    print(f"Settings, messages and times are in {log_dir}")
    return outcome.exit_code(failed)


def _unexplained(plan: Plan, tracker: "Tracker", explained: set[str]) -> "Iterator[Failure]":
    """Pairs that are not complete, but that no crash file tells of."""
    for pair in plan.pairs:
        if tracker.left(pair.label) and pair.label not in explained:
            step = tracker.failed.get(pair.label)
            message = f"The step {step} failed" if step else "The run was stopped"
            yield _outcome().Failure(
                f"sub-{pair.subject}", pair.label, f"{message} before it was complete."
            )


def _write_reports(
    config: Config, participants: Iterable[str], log_dir: Path | None
) -> "list[Failure]":
    """Pages of participants; one that can't be written is a failure of that participant."""
    from bids_stroke.reports.participant import write_participant_report

    failed = []
    for participant in participants:
        try:
            write_participant_report(
                config.dataset.output_dir,
                participant.removeprefix("sub-"),
                log_dir,
                linked=config.execution.report_images == "linked",
            )
        except Exception as error:  # noqa: BLE001 - one page must not take the others with it
            if config.execution.verbose:
                traceback.print_exc()
            full = isinstance(error, OSError) and is_full(error)
            why = "the disk is full: free some space and run again." if full else error
            message = f"The report page can't be written: {why}"
            failed.append(_outcome().Failure(participant, participant, message, again=full))
    return failed


def write_reports_only(config: Config) -> int:
    """Report pages anew, from what the output folder holds."""
    output_dir, outcome = config.dataset.output_dir, _outcome()
    _require_output(output_dir)
    wanted = [f"sub-{label}" for label in config.dataset.participants]
    there = sorted(p.name for p in output_dir.glob("sub-*") if p.is_dir())
    participants = [one for one in there if one in wanted] if wanted else there
    if not participants:
        raise NothingSelected(f"{output_dir} has no results of {', '.join(wanted)}.")
    failed = _write_reports(config, participants, None)
    _group_anew(config)
    for line in outcome.summary_lines(participants, failed, output_dir, "reported anew"):
        print(line)
    return outcome.exit_code(failed)


def _outcome() -> Any:
    from bids_stroke.cli import outcome

    return outcome


if __name__ == "__main__":
    sys.exit(main())
