"""Errors of nodes reach the main process, whenever they happen."""

from pathlib import Path

from nipype import Node

from bids_stroke.cli.engine import run_step
from bids_stroke.interfaces.bids import DerivativeSink


def test_an_error_before_the_interface_starts(tmp_path: Path) -> None:
    node = Node(DerivativeSink(kind="qc"), name="sink", base_dir=str(tmp_path))
    result = run_step(node, False, 7)
    assert result["taskid"] == 7
    assert "requires a value for input" in result["traceback"][-1]
    assert "result_sink.pklz" not in "".join(result["traceback"])
