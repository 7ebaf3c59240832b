"""Times are kept, steps are named, and both displays show them."""

import io
from types import SimpleNamespace

import pytest

from bids_stroke.cli.progress import (
    NodeTime,
    PlainDisplay,
    RichDisplay,
    Tracker,
    add_timing,
    choose_display,
    step_of,
    timing_lines,
)

LABELS = {"sub_01_wf": "sub-01", "sub_02_ses_a_wf": "sub-02_ses-a"}
FULL = "bids_stroke_wf.{}.preproc_wf.{}"
NODES = [FULL.format(wf, node) for wf in LABELS for node in ("conform_t1w", "n4_t1w", "n4_flair")]


@pytest.mark.parametrize(
    ("node", "step"),
    [
        ("sub_01_wf.preproc_wf.t1w_conform", "conform"),
        ("sub_brain_wf.preproc_wf.t1w_conform", "conform"),
        ("sub_01_wf.preproc_wf.brain", "brain extraction"),
        ("sub_01_wf.preproc_wf.flair_n4", "N4"),
        ("sub_01_wf.preproc_wf.register", "registration"),
        ("sub_01_wf.preproc_wf.t1w_mask_to_flair", "registration"),
        ("sub_01_wf.preproc_wf.native_t1w_n4_before", "native grids"),
        ("sub_01_wf.segment_wf.t1w_to_native", "native grids"),
        ("sub_01_wf.segment_wf.predict", "segmentation"),
        ("sub_01_wf.segment_wf.t1w_segment", "native grids"),
        ("sub_01_wf.reportlets_wf.n4_t1w", "figures"),
        ("sub_01_wf.outputs_wf.ds_t1w_mask", "writing"),
        ("sub_01_wf.preproc_wf.t1w_zscore", "preparation"),
    ],
)
def test_steps(node: str, step: str) -> None:
    assert step_of(node) == step


class Clock:
    """Time that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def tracked(stream: io.StringIO) -> tuple[Tracker, Clock]:
    clock = Clock()
    return Tracker(LABELS, NODES, PlainDisplay(stream), clock), clock


def tell(tracker: Tracker, node: str, status: str) -> None:
    tracker(SimpleNamespace(fullname=node), status)


def test_a_step_is_over_with_its_last_node() -> None:
    stream = io.StringIO()
    tracker, clock = tracked(stream)
    for node in NODES[:3]:
        tell(tracker, node, "start")
        clock.now += 2
        tell(tracker, node, "end")
    assert stream.getvalue().splitlines() == [
        "sub-01: conform done in 2.0 s",
        "sub-01: N4 done in 4.0 s",
    ]
    assert (tracker.left("sub-01"), tracker.left("sub-02_ses-a")) == (0, 3)
    assert {t.participant for t in tracker.times} == {"sub-01"}


def test_results_that_are_there_take_no_time_and_no_line() -> None:
    stream = io.StringIO()
    tracker, _ = tracked(stream)
    for node in NODES:
        tell(tracker, node, "end")
    assert stream.getvalue() == ""
    assert tracker.times == []
    assert tracker.left("sub-01") == 0


def test_a_failure_leaves_the_label_incomplete() -> None:
    stream = io.StringIO()
    tracker, clock = tracked(stream)
    tell(tracker, NODES[0], "start")
    clock.now += 3
    tell(tracker, NODES[0], "exception")
    tell(tracker, NODES[1], "end")
    assert tracker.failed == {"sub-01": "conform"}
    assert tracker.left("sub-01") == 3
    assert stream.getvalue() == "sub-01: conform failed\n"
    assert tracker.times[0].seconds == 3


def test_timing_lines_and_table(tmp_path) -> None:  # type: ignore[no-untyped-def]
    times = [
        NodeTime("sub-01", "sub-01", "N4", "b", 12.0, 3.0),
        NodeTime("sub-01", "sub-01", "conform", "a", 10.0, 1.0),
        NodeTime("sub-01", "sub-01", "N4", "c", 13.0, 4.0),
    ]
    assert timing_lines(times) == ["sub-01: 7.0 s (conform 1.0, N4 7.0)"]
    for part in (times[:2], times[2:]):
        add_timing(part, tmp_path / "timing.tsv")
    rows = (tmp_path / "timing.tsv").read_text().splitlines()
    assert rows[0] == "participant\tlabel\tstep\tnode\tstart\tseconds"
    assert rows[1] == "sub-01\tsub-01\tconform\ta\t10.000\t1.000"
    assert len(rows) == 4, "one header, and a row for each node"


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(choose_display([], io.StringIO()), PlainDisplay)
    display = choose_display(list(LABELS.values()), Terminal())
    assert isinstance(display, RichDisplay)
    with display:
        tracker = Tracker(LABELS, NODES, display)
        for node in NODES[:3]:
            tell(tracker, node, "start")
            tell(tracker, node, "end")
        tell(tracker, NODES[3], "start")
        run, first, second = display._progress.tasks
        assert (run.completed, run.total) == (1, 2)
        assert (first.description, first.visible) == ("sub-01", False)
        assert second.fields["step"] == "conform"
        tell(tracker, NODES[3], "exception")
        assert run.completed == 2
