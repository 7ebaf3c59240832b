"""The participant level: a plan, its parts one after the other, and what became of them.

A part is one graph. So the memory and the time that planning takes do not grow with the dataset,
and the pages of a part are there while the next one runs.
"""

import json
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bids_stroke.cli import environment, finished, outcome, progress, run
from bids_stroke.cli.outcome import Failure
from bids_stroke.cli.plan import Plan, plan_text
from bids_stroke.cli.progress import NodeTime
from bids_stroke.config import TEMPLATES, Config, from_table, read_table
from bids_stroke.core.files import read_json, write_text
from bids_stroke.errors import (
    BidsStrokeError,
    InputMissing,
    NothingSelected,
    TryAgain,
    UnusableData,
    is_full,
)
from bids_stroke.models.templates import require_template

if TYPE_CHECKING:
    from bids_stroke.bids.pairs import Pair, Selection
    from bids_stroke.models.descriptor import Descriptor

NOT_REACHED = "The run was stopped before it was complete."


def run_participants(config: Config) -> int:
    """Run the participant level and return the exit code."""
    if config.execution.reports_only:
        return write_reports_only(config)
    if config.execution.dry_run:
        print(plan_text(config, make_plan(config)), end="")
        return 0
    with run.used_environment(config), run.quiet(config):
        steps = environment.steps_folder(config.execution.work_dir, config.dataset.bids_dir)
        if _runs_here(config) and not finished.any_recorded(steps):
            environment.start_fork_server()  # its imports take as long as planning does
        return _run_plan(config, make_plan(config), steps)


def _runs_here(config: Config) -> bool:
    """Will there be workers of this process?"""
    return config.execution.plugin_file is None and not config.execution.boilerplate_only


def _run_plan(config: Config, plan: Plan, steps: Path) -> int:
    """Run what is left to do, part by part, and tell of all."""
    log_dir = run.start_logs(config)
    done = finished.participants(config, plan, steps)
    left = plan.of(set(plan.participants) - done)
    failed: list[Failure] = []
    if done:
        print(f"{len(done)} of {len(plan.participants)} participants were complete already.")
    if left.selection.pairs or config.execution.write_graph or config.execution.boilerplate_only:
        with run.logged_engine(config, log_dir):
            _describe(config, plan.examples(), log_dir)
            if config.execution.boilerplate_only:
                print(f"The methods text is in {config.dataset.output_dir / 'logs'}")
                return 0
            failed = _run_parts(config, left, log_dir, steps) if left.selection.pairs else []
    for line in outcome.summary_lines(plan.participants, failed, config.dataset.output_dir):
        print(line)
    print(f"Settings, messages and times are in {log_dir}")
    return outcome.exit_code(failed)


def _run_parts(config: Config, plan: Plan, log_dir: Path, steps: Path) -> list[Failure]:
    """Run a plan part by part; returns what failed."""
    from bids_stroke.cli import engine

    display = progress.choose_display([pair.label for pair in plan.pairs])
    failed: list[Failure] = []
    with engine.started(config.execution, log_dir) as plugin, display, _pages_ahead():
        for part in plan.parts(config.execution.nprocs):
            if failed and config.execution.stop_on_first_crash:
                failed += [Failure(f"sub-{p.subject}", p.label, NOT_REACHED) for p in part.pairs]
                continue
            asked = finished.requests(config, part)
            bad = _run_part(config, part, plugin, display, log_dir)
            complete = set(part.participants) - {one.participant for one in bad}
            with suppress(OSError):  # without a record nipype looks at each step
                finished.record(config, part.of(complete), asked, steps)
            failed += bad
    return failed


def _run_part(
    config: Config, part: Plan, plugin: Any, display: progress.Display, log_dir: Path
) -> list[Failure]:
    """Run the graph of a part and write its pages; returns what failed."""
    with _claimed(config, part) as mine:
        for pair in mine.selection.pairs:
            if pair.label in mine.refused:
                outcome.write_refusal(log_dir, pair, mine.refused[pair.label])
        pages = _Pages(config, mine, plugin, log_dir)
        tracker = _execute(config, mine, plugin, display, pages)
        labels = run.workflow_labels(mine.selection.pairs)
        failed = outcome.failures(log_dir, mine.participants, labels)
        failed += _unexplained(mine, tracker, {one.label for one in failed})
        failed += _write_reports(config, dict.fromkeys(mine.participants, log_dir), pages.early)
    for line in progress.timing_lines(tracker.times):
        print(line)
    return failed


class _Pages:
    """Pages that workers write as soon as their participants are complete, while others are not."""

    def __init__(self, config: Config, part: Plan, plugin: Any, log_dir: Path) -> None:
        self._config, self._plugin, self.log_dir = config, plugin, log_dir
        self._open: dict[str, set[str]] = defaultdict(set)
        for pair in part.selection.pairs:
            self._open[f"sub-{pair.subject}"].add(pair.label)
        self.early: dict[str, Future[Any]] = {}

    def complete(self, label: str, times: Sequence[NodeTime]) -> None:
        """Take note of a session, and begin with the page of a participant who has no other."""
        participant = label.partition("_")[0]
        self._open[participant].discard(label)
        if self._open[participant]:
            return
        del self._open[participant]
        if self._open and hasattr(self._plugin, "spare"):
            self.keep_times([t for t in times if t.participant == participant])
            write = _page_call(self._config, participant, self.log_dir)
            self.early[participant] = self._plugin.spare(write)

    def keep_times(self, times: Sequence[NodeTime]) -> None:
        """Add times to the logs, but those of a participant whose page has them already."""
        late = [t for t in times if t.participant not in self.early]
        progress.add_timing(late, self.log_dir / "timing.tsv")


def _page_call(config: Config, participant: str, log_dir: Path | None) -> Callable[[], Path]:
    """What writes the page of a participant."""
    from bids_stroke.reports.participant import write_participant_report

    linked = config.execution.report_images == "linked"
    subject = participant.removeprefix("sub-")
    output_dir = config.dataset.output_dir
    return partial(write_participant_report, output_dir, subject, log_dir, linked=linked)


def _describe(config: Config, examples: Plan, log_dir: Path) -> None:
    """Write the methods and, if wanted, the graph of a pair of each kind; tell of memory."""
    workflow = build_workflow(config, examples, log_dir)
    _write_methods(workflow, config, log_dir)
    if not config.execution.boilerplate_only:
        _say_shortage(config, workflow)


def _execute(
    config: Config, part: Plan, plugin: Any, display: progress.Display, pages: _Pages
) -> progress.Tracker:
    """Run the graph of a part and keep times; failed nodes leave crash files in the logs."""
    from bids_stroke.cli import engine

    log_dir = pages.log_dir
    workflow = build_workflow(config, part, log_dir)
    tracker = progress.Tracker(
        run.workflow_labels(part.pairs),
        run.node_names(workflow),
        display,
        complete=lambda label: pages.complete(label, tracker.times),
    )
    try:
        error = engine.run_workflow(workflow, plugin, tracker) if part.pairs else None
    finally:
        pages.keep_times(tracker.times)
    if error and not tracker.failed:
        (log_dir / "error.txt").write_text("".join(traceback.format_exception(error)))
        raise BidsStrokeError(f"The run broke off: {error} (see {log_dir / 'error.txt'}).")
    if config.execution.resource_monitor:
        _add_resources(Path(workflow.base_dir) / workflow.name, log_dir)
    return tracker


def _add_resources(folder: Path, log_dir: Path) -> None:
    """Add nipype's record of a part to that of the run."""
    record, whole = folder / "resource_monitor.json", log_dir / "resource_monitor.json"
    if record.is_file():
        before = read_json(whole) if whole.is_file() else {}
        columns = read_json(record).items()
        write_text(whole, json.dumps({name: before.get(name, []) + rows for name, rows in columns}))


def _unexplained(part: Plan, tracker: progress.Tracker, explained: set[str]) -> Iterator[Failure]:
    """Pairs that are not complete, but that no crash file tells of."""
    for pair in part.pairs:
        if tracker.left(pair.label) and pair.label not in explained:
            step = tracker.failed.get(pair.label)
            message = f"The step {step} failed before it was complete." if step else NOT_REACHED
            yield Failure(f"sub-{pair.subject}", pair.label, message)


def make_plan(config: Config) -> Plan:
    """Find pairs and choose a model for each.

    Raises NothingSelected when there is no pair, the error of a model when no pair has one, and
    InputMissing when a template is not on this machine.
    """
    for template in set(config.processing.output_spaces).intersection(TEMPLATES):
        require_template(template)
    selection = run.select_pairs(config)
    if not selection.pairs:
        raise NothingSelected(_why_nothing(config.dataset.bids_dir, selection))
    models, refused = choose_models(config, selection.pairs)
    if not models:
        raise next(iter(refused.values()))
    return Plan(selection, models, refused)


def _why_nothing(bids_dir: Path, selection: "Selection") -> str:
    """One sentence; where images are left out, it names the first and its reason."""
    left_out = next(iter(selection.unused.items()), None)
    if left_out is None:
        return (
            f"No T1w or FLAIR image is in the folders anat of {bids_dir}, for the labels asked for."
        )
    path, reason = left_out
    return (
        f"No T1w or FLAIR image of {bids_dir} passes ({path.name}: {reason}): check the labels and "
        "the filter file, or give the raw dataset."
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


@contextmanager
def _claimed(config: Config, part: Plan) -> Iterator[Plan]:
    """The part, in which pairs are refused that another run computes in the same work folder."""
    from bids_stroke.cli.claims import claimed

    names = [pair.workflow_name for pair in part.pairs]
    with claimed(config.execution.work_dir, names) as taken:
        busy = {
            pair.label: TryAgain(
                f"Another run computes {pair.label} in {config.execution.work_dir}: wait for its "
                "end, or choose another folder by -w."
            )
            for pair in part.pairs
            if pair.workflow_name in taken
        }
        models = {label: chosen for label, chosen in part.models.items() if label not in busy}
        yield replace(part, models=models, refused={**part.refused, **busy})


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
        device=run.resolve_device(config.execution.device),
        log_dir=log_dir,
    )
    workflow.base_dir = str(steps_folder(config.execution.work_dir, config.dataset.bids_dir))
    return workflow


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


def _write_reports(
    config: Config,
    logs: Mapping[str, Path | None],
    early: Mapping[str, Future[Any]] = MappingProxyType({}),
) -> list[Failure]:
    """Pages of participants; one that can't be written is a failure of that participant.

    ``logs`` are folders with times and failures by participant, ``early`` pages with which workers
    have begun.
    """
    failed = []
    for participant, log_dir in logs.items():
        write = _page_call(config, participant, log_dir)
        try:
            _result_of(early[participant], write) if participant in early else write()
        except Exception as error:  # noqa: BLE001 - one page must not take the others with it
            if config.execution.verbose:
                traceback.print_exc()
            full = isinstance(error, OSError) and is_full(error)
            why = "the disk is full: free some space and run again." if full else error
            message = f"The report page can't be written: {why}"
            failed.append(Failure(participant, participant, message, again=full))
    return failed


def _result_of(page: Future[Any], write: Callable[[], Any]) -> None:
    """Wait for a page; where its worker was killed, write it here."""
    try:
        page.result()
    except (BrokenProcessPool, CancelledError):
        write()


def write_reports_only(config: Config) -> int:
    """Report pages anew, from what the output folder holds."""
    from bids_stroke.reports.collect import last_logs

    output_dir = config.dataset.output_dir
    run.require_output(output_dir)
    wanted = [f"sub-{label}" for label in config.dataset.participants]
    there = sorted(p.name for p in output_dir.glob("sub-*") if p.is_dir())
    participants = [one for one in there if one in wanted] if wanted else there
    if not participants:
        raise NothingSelected(f"{output_dir} has no results of {', '.join(wanted)}.")
    logs = last_logs(output_dir)
    failed = _write_reports(config, {one: logs.get(one) for one in participants})
    _group_anew(config)
    for line in outcome.summary_lines(participants, failed, output_dir, "reported anew"):
        print(line)
    return outcome.exit_code(failed)


def _group_anew(config: Config) -> None:
    """The cohort's page by the settings of its last run, where there was one."""
    dataset, path = config.dataset, config.dataset.output_dir / run.GROUP_SETTINGS
    if path.is_file() and not dataset.participants:
        last = from_table(read_table(path))
        here = replace(last.dataset, bids_dir=dataset.bids_dir, output_dir=dataset.output_dir)
        run.run_group(replace(last, dataset=here))
