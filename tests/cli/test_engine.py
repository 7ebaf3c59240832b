"""Errors of nodes reach the main process, whenever they happen."""

import gc
import importlib
import logging
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nipype import MapNode, Node, Workflow
from nipype.interfaces.utility import Function, IdentityInterface
from nipype.utils.filemanip import loadpkl
from scipy.sparse import lil_matrix

from bids_stroke.cli import engine, preloaded
from bids_stroke.cli.engine import (
    configure,
    log_to,
    run_step,
    run_workflow,
    started,
    stop_logging,
    turns,
)
from bids_stroke.config import Execution
from bids_stroke.interfaces.bids import DerivativeSink


def test_an_error_before_the_interface_starts(tmp_path: Path) -> None:
    node = Node(DerivativeSink(kind="qc"), name="sink", base_dir=str(tmp_path))
    result = run_step(node, False, 7)
    assert result["taskid"] == 7
    assert "requires a value for input" in result["traceback"][-1]
    assert "result_sink.pklz" not in "".join(result["traceback"])


def test_a_full_disk_cuts_the_log_short_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    log_to(Path("/dev/full"), keep_terminal=False)
    try:
        logging.getLogger("nipype.workflow").error("no room")
    finally:
        stop_logging()
    assert capfd.readouterr().err == ""


def _step(name: str) -> Node:
    return Node(IdentityInterface(fields=["a"]), name=name)


def test_what_most_steps_wait_for_goes_first_and_sessions_stay_together() -> None:
    whole = Workflow(name="whole")
    for number in (1, 2):
        session = Workflow(name=f"session_{number}")
        brain, figure, register, predict = map(_step, ("brain", "a_figure", "register", "predict"))
        for earlier, later in ((brain, figure), (brain, register), (register, predict)):
            session.connect(earlier, "a", later, "a")
        whole.add_nodes([session])
    graph = whole._create_flat_graph()
    order = [node.fullname for node in sorted(graph, key=turns(graph).__getitem__)]
    names = [name.split(".", 1)[1] for name in order]
    assert {name.split(".")[0] for name in names[:4]} in ({"session_1"}, {"session_2"})
    for part in (names[:4], names[4:]):
        assert [name.split(".")[1] for name in part][:2] == ["brain", "register"]


def _numbers(x: int):  # type: ignore[no-untyped-def] # nipype writes it anew, without imports
    return [x, 2 * x, 3 * x]


def _one_more(x: int):  # type: ignore[no-untyped-def]
    return x + 1


def _total(x):  # type: ignore[no-untyped-def]
    return sum(x)


def test_a_step_of_several_inputs_is_waited_for(tmp_path: Path) -> None:
    """It becomes several steps when its turn comes, while nothing runs and nothing has ended."""
    workflow = Workflow("several", base_dir=str(tmp_path))
    first = Node(Function(["x"], ["y"], _numbers), "first")
    each = MapNode(Function(["x"], ["y"], _one_more), ["x"], "each")
    last = Node(Function(["x"], ["y"], _total), "last")
    first.inputs.x = 1
    workflow.connect([(first, each, [("y", "x")]), (each, last, [("y", "x")])])
    execution = Execution(nprocs=1, work_dir=tmp_path)
    configure(execution, tmp_path)
    try:
        with started(execution, tmp_path) as plugin:
            assert run_workflow(workflow, plugin, lambda *_: None) is None
    finally:
        stop_logging()
    assert loadpkl(next(tmp_path.glob("several/last/result_last.pklz"))).outputs.y == 9


def _chains(name: str, folder: Path, count: int = 3, length: int = 8) -> Workflow:
    """Chains of steps side by side."""
    workflow = Workflow(name, base_dir=str(folder))
    for chain in range(count):
        steps = [Node(Function(["x"], ["y"], _one_more), f"s{chain}_{n}") for n in range(length)]
        steps[0].inputs.x = chain
        for earlier, later in pairwise(steps):
            workflow.connect(earlier, "y", later, "x")
    return workflow


def test_the_engine_goes_on_when_a_step_ends_and_passes_over_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs of one run share the workers, and no step waits for the clock."""
    monkeypatch.setattr(engine, "LONGEST_WAIT", 1000.0)
    ended: list[str] = []
    configure(Execution(nprocs=2), tmp_path)
    start = time.monotonic()
    try:
        with started(Execution(nprocs=2), tmp_path) as plugin:
            waits = _counted(plugin, monkeypatch)
            for name, waited in (("first", True), ("second", True), ("first", False)):
                ended.clear()
                waits.clear()
                graph = _chains(name, tmp_path)
                callback = lambda node, status: ended.append(status)  # noqa: E731
                assert run_workflow(graph, plugin, callback) is None
                assert ended.count("end") == 24
                assert ended.count("start") == (24 if waited else 0)
                assert bool(waits) == waited
            assert not (plugin._nodes or plugin._taskresult or plugin._task_obj)
    finally:
        stop_logging()
    assert loadpkl(tmp_path / "second" / "s2_7" / "result_s2_7.pklz").outputs.y == 10
    assert time.monotonic() - start < 1000, "a wait that nobody ended"


def _counted(plugin: object, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each wait for a worker from now on."""
    waits: list[float] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return super().wait(timeout)

    monkeypatch.setattr(plugin, "_ended", Event())
    return waits


@given(data=st.data(), size=st.integers(1, 12))
def test_sums_that_are_kept_are_those_of_the_matrix(data: st.DataObject, size: int) -> None:
    pairs = data.draw(st.sets(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1))))
    plain = lil_matrix((size, size))
    for row, column in pairs:
        plain[row, column] = 1
    counted = engine._Counted(plain.copy())
    for row in data.draw(st.permutations(range(size))):
        for matrix in (plain, counted):
            view = matrix.getrowview(row)
            view[view.nonzero()] = 0
        assert (counted.sum(axis=0) == plain.sum(axis=0)).all()
        assert (counted.sum(axis=1) == plain.sum(axis=1)).all()


def test_garbage_is_not_looked_for_in_the_graph(tmp_path: Path) -> None:
    """nipype collects garbage around every step: over a graph that grows, quadratic work."""
    configure(Execution(), tmp_path)
    workflow = Workflow(name="many", base_dir=str(tmp_path))
    for number in range(20):
        step = Node(Function(function=_one_more), name=f"step_{number}")
        step.inputs.x, step.run_without_submitting = number, True
        workflow.add_nodes([step])
    looked_through: list[int] = []

    def callback(node: object, status: str) -> None:
        looked_through.append(sum(isinstance(found, Node) for found in gc.get_objects()))

    with started(Execution(), tmp_path) as plugin:
        assert run_workflow(workflow, plugin, callback) is None
    stop_logging()
    assert looked_through and max(looked_through) < 10
    assert gc.get_freeze_count() == 0


def test_a_part_that_is_missing_is_left_to_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ants", None)
    assert importlib.reload(preloaded).PARTS[-1] == "ants"


def test_what_ants_does_not_need_here_is_imported_by_its_first_use() -> None:
    program = (
        "import inspect, sys; import bids_stroke.cli.preloaded; import ants; "
        "inspect.getmodule(sys.modules['ants'].registration); "
        "heavy = {'statsmodels', 'sklearn', 'matplotlib.pyplot', 'scipy.stats'}; "
        "print(callable(ants.registration), *heavy & set(sys.modules)); "
        "print(ants.math.quantile is ants.quantile, ants.quantile.__module__); "
        "print(hasattr(ants, 'none')); "
        "from ants.plotting import plot_ortho; "
        "print(plot_ortho is ants.plot_ortho, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["True", "True ants.math.quantile", "False", "True True"]
