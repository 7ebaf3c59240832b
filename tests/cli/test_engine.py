"""Errors of nodes reach the main process, whenever they happen."""

import logging
from pathlib import Path

import pytest
from nipype import Node

from bids_stroke.cli.engine import log_to, run_step, stop_logging
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
