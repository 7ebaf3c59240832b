"""nipype's plugins for the schedulers of clusters, mended where a lost job would go unseen."""

import re
import signal
import subprocess  # nosec B404 # to cancel jobs, as a list of words
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nipype.pipeline.plugins import SLURMPlugin
from nipype.pipeline.plugins.base import GraphPluginBase, SGELikeBatchManagerBase

from bids_stroke.errors import TryAgain, UsageError

LOST = (
    "The scheduler's job {job} ended without a result: it was cancelled, or ran out of time or "
    "memory, or could not start (what it printed is in {log}/); give it more, and run again."
)
POLL_SECONDS = 2.0
_NOT_FOUND = "results file does not exist"
_PLAIN = re.compile(r"[\w@%+=:,./-]*")


def check_scheduler(name: str, kind: type, work_dir: Path) -> None:
    """Raise UsageError for plugins and work folders with which runs could not come to an end.

    Plugins of graphs return at once, and nipype hands the paths of jobs to a shell.
    """
    if issubclass(kind, GraphPluginBase):
        raise UsageError(
            f"nipype's plugin '{name}' does not wait for its jobs: name "
            f"'{name.removesuffix('Graph')}' in --nipype-plugin-file."
        )
    if issubclass(kind, SGELikeBatchManagerBase) and not _PLAIN.fullmatch(str(work_dir.resolve())):
        raise UsageError(
            f"The work folder {work_dir} has characters that schedulers do not take: choose one by "
            "-w with letters, digits, - and _ only."
        )


def patient(kind: type) -> type:
    """A scheduler's plugin that tells of lost jobs in a sentence; other plugins as they are."""
    if not issubclass(kind, SGELikeBatchManagerBase):
        return kind
    return type(f"Patient{kind.__name__}", (_PatientJobs, kind), {})


class _PatientJobs:
    """What is mended in plugins that send each node as a job of its own."""

    _pending: dict[int, str]
    _batch = Path()

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run a graph; jobs that are under way are cancelled when the run is stopped."""
        config["execution"]["poll_sleep_duration"] = str(POLL_SECONDS)
        with _terminated_like_interrupted():
            try:
                super().run(graph, config, updatehash)  # type: ignore[misc]
            except BaseException:
                self._cancel()
                raise

    def _cancel(self) -> None:
        if self._pending and isinstance(self, SLURMPlugin):
            command = ["scancel", *map(str, self._pending)]
            subprocess.run(command, check=False)  # noqa: S603 # nosec B603 # numbers of jobs

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        """Send a node, without the result of an earlier run: it would be taken for that of a job
        that is cancelled before it starts."""
        for result in Path(node.output_dir()).glob("result_*.pklz"):
            result.unlink()
        self._batch = Path(node.base_dir) / node.fullname.partition(".")[0] / "batch"
        return super()._submit_job(node, updatehash)  # type: ignore[misc]

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        result: dict[str, Any] | None = super()._get_result(taskid)  # type: ignore[misc]
        if result is None or _NOT_FOUND not in "".join(result["traceback"] or ()):
            return result
        sentence = LOST.format(job=taskid, log=self._batch)
        return {**result, "traceback": [f"{TryAgain.__module__}.{TryAgain.__name__}: {sentence}\n"]}


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """A scheduler that stops the run itself sends SIGTERM some seconds before it kills."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
