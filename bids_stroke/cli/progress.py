"""What runs, what is done and how long it took: on the terminal, and as a table in the logs."""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

STEPS = (
    ("train_wf.fold", "training"),
    ("train_wf.estimate", "estimate"),
    ("train_wf.collect", "evaluation"),
    ("reportlets_wf", "figures"),
    ("outputs_wf", "writing"),
    ("conform", "conform"),
    ("predict", "segmentation"),
    ("native", "native grids"),
    ("segment_wf", "native grids"),
    ("regist", "registration"),
    ("_to_", "registration"),
    ("brain", "brain extraction"),
    ("n4", "N4"),
)
"""Part of a node's name and its workflow's, and what the step is called; the first one counts."""
OTHER = "preparation"
WORTH_A_LINE = 0.5


@dataclass(frozen=True)
class NodeTime:
    """One node that was run: start in seconds since the epoch, length in seconds."""

    participant: str
    label: str
    step: str
    node: str
    start: float
    seconds: float


class Display(Protocol):
    """What shows progress."""

    def __enter__(self) -> "Display": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def started(self, label: str, step: str) -> None:
        """A node of a step began."""

    def advanced(self, label: str, share: float) -> None:
        """A share (0 to 1) of a label's nodes is done."""

    def finished(self, label: str, step: str, seconds: float) -> None:
        """A step is over."""

    def failed(self, label: str, step: str) -> None:
        """A node of a step failed."""


@dataclass
class PlainDisplay:
    """A line for each step that took time, for logs and pipes."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def started(self, label: str, step: str) -> None:
        """Say nothing: the end of the step tells more."""

    def advanced(self, label: str, share: float) -> None:
        """Say nothing: a share has no line."""

    def finished(self, label: str, step: str, seconds: float) -> None:
        """One line, unless the step took no time (its result was there already)."""
        if seconds >= WORTH_A_LINE:
            print(f"{label}: {step} done in {seconds:.1f} s", file=self.stream, flush=True)

    def failed(self, label: str, step: str) -> None:
        """One line."""
        print(f"{label}: {step} failed", file=self.stream, flush=True)


class RichDisplay:
    """A bar for the run and one for each participant at work, on a terminal."""

    def __init__(self, labels: Sequence[str]) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[step]}"),
        )
        self._run = self._progress.add_task("all sessions", total=float(len(labels)), step="")
        self._bars: dict[str, Any] = {}
        self._shares: dict[str, float] = {}

    def __enter__(self) -> "RichDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, label: str, step: str) -> None:
        """Show the step beside the label's bar."""
        if label not in self._bars:
            self._bars[label] = self._progress.add_task(label, total=1.0, step=step)
        self._progress.update(self._bars[label], step=step)

    def advanced(self, label: str, share: float) -> None:
        """Move the bars; a full one goes away."""
        self._shares[label] = share
        self._progress.update(self._run, completed=sum(self._shares.values()))
        if label in self._bars:
            self._progress.update(self._bars[label], completed=share, visible=share < 1)

    def finished(self, label: str, step: str, seconds: float) -> None:
        """The bar tells enough."""

    def failed(self, label: str, step: str) -> None:
        """Leave a line above the bars."""
        self._progress.console.print(f"{label}: {step} failed")
        self.advanced(label, 1.0)


def choose_display(labels: Sequence[str], stream: TextIO | None = None) -> Display:
    """Bars on a terminal, else lines."""
    stream = stream or sys.stdout
    return RichDisplay(labels) if stream.isatty() else PlainDisplay(stream)


def step_of(node: str) -> str:
    """Human name of the step that a node (by its full name) belongs to."""
    inside = ".".join(node.split(".")[-2:])
    return next((step for part, step in STEPS if part in inside), OTHER)


class Tracker:
    """Callback of nipype's plugins that keeps times and tells a display.

    ``labels`` maps the name of each pair's sub-workflow to the pair's label; ``nodes`` are the full
    names of all nodes that will run; ``complete`` is told each label whose nodes have all ended.
    """

    def __init__(
        self,
        labels: Mapping[str, str],
        nodes: Iterable[str],
        display: Display,
        clock: Callable[[], float] = time.time,
        complete: Callable[[str], None] = lambda label: None,
    ) -> None:
        self._labels, self._display, self._clock = dict(labels), display, clock
        self._complete = complete
        self._left: dict[tuple[str, str], set[str]] = defaultdict(set)
        for node in nodes:
            self._left[self._place(node)].add(node)
        self._totals: dict[str, int] = defaultdict(int)
        for (label, _), names in self._left.items():
            self._totals[label] += len(names)
        self._started: dict[str, float] = {}
        self.times: list[NodeTime] = []
        self.failed: dict[str, str] = {}

    def _place(self, node: str) -> tuple[str, str]:
        """Label and step of a node."""
        parts = node.split(".")
        workflow = next((part for part in parts if part in self._labels), "")
        return self._labels.get(workflow, ""), step_of(node)

    def __call__(self, node: Any, status: str) -> None:
        """Take a message of the plugin: ``start``, ``end`` or ``exception``.

        A node whose result was there already ends without a start, and takes no time.
        """
        name = node.fullname
        label, step = self._place(name)
        if status == "start":
            self._started[name] = self._clock()
            self._display.started(label, step)
        elif status == "exception":
            self._keep_time(name, label, step)
            self.failed.setdefault(label, step)
            self._display.failed(label, step)
        elif label not in self.failed:
            self._keep_time(name, label, step)
            self._tick_off(name, label, step)

    def _keep_time(self, name: str, label: str, step: str) -> None:
        start = self._started.pop(name, None)
        if start is not None:
            participant = label.partition("_")[0]
            self.times.append(
                NodeTime(participant, label, step, name, start, self._clock() - start)
            )

    def _tick_off(self, name: str, label: str, step: str) -> None:
        left = self._left[label, step]
        if name in left:
            left.remove(name)
            open_nodes = self.left(label)
            self._display.advanced(label, 1 - open_nodes / self._totals[label])
            if not left:
                seconds = sum(t.seconds for t in self.times if (t.label, t.step) == (label, step))
                self._display.finished(label, step, seconds)
            if not open_nodes:
                self._complete(label)

    def left(self, label: str) -> int:
        """Number of a label's nodes that have not ended."""
        return sum(len(names) for (one, _), names in self._left.items() if one == label)


def add_timing(times: Sequence[NodeTime], path: Path) -> None:
    """Add the times to a TSV file, in the order in which nodes began."""
    rows = [
        [t.participant, t.label, t.step, t.node, f"{t.start:.3f}", f"{t.seconds:.3f}"]
        for t in sorted(times, key=lambda t: t.start)
    ]
    with path.open("a", encoding="utf-8") as stream:
        header = [] if stream.tell() else [[item.name for item in fields(NodeTime)]]
        stream.writelines("\t".join(row) + "\n" for row in [*header, *rows])


def timing_lines(times: Sequence[NodeTime]) -> list[str]:
    """One line a label: time from its first start to its last end, then the steps in order."""
    by_label: dict[str, list[NodeTime]] = defaultdict(list)
    for one in sorted(times, key=lambda t: t.start):
        by_label[one.label].append(one)
    return [_timing_line(label, own) for label, own in sorted(by_label.items())]


def _timing_line(label: str, times: Sequence[NodeTime]) -> str:
    steps: dict[str, float] = defaultdict(float)
    for one in times:
        steps[one.step] += one.seconds
    whole = max(t.start + t.seconds for t in times) - min(t.start for t in times)
    split = ", ".join(f"{step} {seconds:.1f}" for step, seconds in steps.items())
    return f"{label}: {whole:.1f} s ({split})"
