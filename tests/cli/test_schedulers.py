"""Plugins of schedulers: what is refused, how a lost job is told (on Slurm: test_slurm.py)."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nipype.pipeline import plugins

from bids_stroke.cli import schedulers
from bids_stroke.cli.environment import prepare
from bids_stroke.config import Execution
from bids_stroke.errors import UsageError

NO_RESULT = "Job id (7) finished or terminated, but results file does not exist after (5) seconds."


@pytest.mark.parametrize("name", ["SLURMGraph", "SGEGraph"])
def test_plugins_that_do_not_wait_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"does not wait.*'{name.removesuffix('Graph')}'"):
        schedulers.check_scheduler(name, getattr(plugins, f"{name}Plugin"), tmp_path)


@pytest.mark.parametrize("name", ["a b", "a;b", "$(a)", "a'b", "a\nb"])
def test_work_folders_that_a_shell_would_read_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose one by -w"):
        schedulers.check_scheduler("SLURM", plugins.SLURMPlugin, tmp_path / name)
    schedulers.check_scheduler("Linear", plugins.LinearPlugin, tmp_path / name)


def test_plain_work_folders_pass(tmp_path: Path) -> None:
    schedulers.check_scheduler("SLURM", plugins.SLURMPlugin, tmp_path / "a-b_c.d")


def test_other_plugins_stay_as_they_are() -> None:
    assert schedulers.patient(plugins.LinearPlugin) is plugins.LinearPlugin


class Fake(plugins.SGEPlugin):
    """A scheduler without a cluster."""

    answer: dict[str, Any] | None = None

    def __init__(self) -> None:
        self._pending = {7: "node"}

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        return 7

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        return self.answer


@pytest.fixture
def plugin() -> Any:
    return schedulers.patient(Fake)()


@pytest.mark.parametrize("answer", [None, {"traceback": None}, {"traceback": ["KeyError: 'a'"]}])
def test_results_of_jobs_pass(plugin: Any, answer: Any) -> None:
    plugin.answer = answer
    assert plugin._get_result(7) == answer


def test_a_lost_job_is_told_in_a_sentence(plugin: Any, tmp_path: Path) -> None:
    node = SimpleNamespace(
        base_dir=str(tmp_path), fullname="wf.sub.node", output_dir=lambda: str(tmp_path / "node")
    )
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "result_node.pklz").touch()
    assert plugin._submit_job(node) == 7
    assert list((tmp_path / "node").iterdir()) == []
    plugin.answer = {"result": None, "traceback": NO_RESULT}
    (told,) = plugin._get_result(7)["traceback"]
    assert told.startswith("bids_stroke.errors.TryAgain: The scheduler's job 7 ended without")
    assert f"{tmp_path}/wf/batch/" in told


def test_sigterm_is_an_interruption(plugin: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        plugin.run(None, {"execution": {}})
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("environ", "name"), [({"LOGNAME": "ada"}, "ada"), ({}, "bids_stroke")])
def test_jobs_have_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], name: str
) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert prepare(Execution(work_dir=tmp_path), environ)["LOGNAME"] == name
