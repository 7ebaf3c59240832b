"""The nipype engine: its settings, and a process pool that outlives a worker's death."""

import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import connection
from pathlib import Path
from traceback import format_exception
from typing import Any

import networkx
import nipype
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node
from scipy.sparse import lil_matrix

from bids_stroke.cli import memory
from bids_stroke.cli.environment import start_fork_server
from bids_stroke.cli.limits import limit_gb
from bids_stroke.cli.schedulers import check_scheduler, patient
from bids_stroke.config import Execution
from bids_stroke.core.processes import die_with_parent, return_memory, reuse_memory
from bids_stroke.errors import InputMissing, TryAgain, UsageError

KEPT_SHARE = 0.25
"""Part of its share of the memory that a worker may take between its steps: to fill memory that the
kernel has taken back and zeroes anew is a quarter of the processor time of a session."""
LONGEST_WAIT = 1.0
"""Seconds after which the engine looks at its workers although none has ended a step."""
KILLED = (
    "A worker process was killed while it ran this step, most likely because memory ran out: "
    "give more memory, or lower --nprocs or --mem."
)


def start_worker(folder: str, log: str, environ: dict[str, str], monitor: bool) -> None:
    """Prepare a worker: its folder and environment, and a log for whatever tools print."""
    _end_with_the_run()
    reuse_memory()
    os.chdir(folder)
    os.environ.update(environ)
    nipype.config.resource_monitor = monitor
    if log:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)


def _end_with_the_run() -> None:
    """Have this worker killed when the main process is: nothing else would tell it.

    A worker that outlives its run would go on to write where the next run works.
    """
    die_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def run_step(
    node: Any, updatehash: bool, task: int, table: Path | None = None, kept_mb: float = 0
) -> dict[str, Any]:
    """Run a node in a worker; also an error before its interface starts becomes a traceback.

    nipype looks for the result of a node that failed, and fails itself where there is none. The
    peak of memory is added to ``table``; a worker of more than ``kept_mb`` gives back what is free.
    """
    try:
        with memory.recorded(node.fullname, table):
            return run_node(node, updatehash, task)
    except Exception as error:  # noqa: BLE001 - whatever it is, the main process has to know
        first = error.__context__ or error
        return {"result": None, "traceback": format_exception(first), "taskid": task}
    finally:
        return_memory(above_mb=kept_mb)


class PatientMultiProcPlugin(MultiProcPlugin):
    """nipype's MultiProc that waits for nothing but its workers, and never for a dead one.

    It goes on as soon as a step ends, where nipype sleeps between two looks, and passes over all
    steps whose results are there at once, where nipype takes as many at a look as it has workers.
    When a worker dies, all running steps are lost: they are run again, one at a time, in a new
    pool; a step that is lost a second time fails, and the others go on. One pool serves any number
    of graphs, until ``close``.
    """

    def __init__(
        self,
        plugin_args: dict[str, Any],
        worker_log: Path | None = None,
        memory_table: Path | None = None,
    ) -> None:
        self.pool: ProcessPoolExecutor
        self._memory_table = memory_table
        self._log = str(worker_log or "")
        self._nodes: dict[int, Any] = {}
        self._turns: dict[Any, int] = {}
        self._ended = threading.Event()
        self._sent_again: dict[int, Future[Any]] = {}
        super().__init__(plugin_args=plugin_args)
        self.pool.shutdown()
        start_fork_server()
        self.pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            max_workers=self.processors,
            initializer=start_worker,
            initargs=(self._cwd, self._log, dict(os.environ), nipype.config.resource_monitor),
            mp_context=multiprocessing.get_context("forkserver"),
        )

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run a flat graph; raises what nipype raises where steps failed, after all have run."""
        waiting = {**config, "execution": {**config["execution"], "poll_sleep_duration": 0}}
        try:
            super().run(graph, waiting, updatehash)
        finally:
            gc.unfreeze()

    def _generate_dependency_list(self, graph: Any) -> None:
        super()._generate_dependency_list(graph)
        self.depidx: lil_matrix = _Counted(self.depidx)
        self.refidx = lil_matrix((0, len(self.procs)))  # whose folder may go: none
        self._turns = turns(graph)
        gc.collect()
        gc.freeze()  # nipype collects garbage around every node: spare it the whole graph

    def _postrun_check(self) -> None:
        """Keep the pool for the next graph."""

    def _sort_jobs(self, jobids: Iterable[int], scheduler: str = "tsort") -> list[int]:
        return sorted(jobids, key=lambda job: self._turns.get(self.procs[job], len(self._turns)))

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        """Send what is ready until nothing more becomes ready, then wait for a worker."""
        before = None
        while before != (state := self._progress()):
            super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
            before = state
        if self.pending_tasks:
            self._ended.wait(LONGEST_WAIT)
            self._ended.clear()

    def _progress(self) -> tuple[int, int, int]:
        """What changes when a step is sent or passed over, or becomes several for its inputs."""
        return int(self.proc_done.sum()), int(self.proc_pending.sum()), len(self.procs)

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self._taskid += 1
        task = self._taskid
        self._nodes[task] = node
        self._task_obj[task] = self._send(node, updatehash, task)
        return task

    def _send(self, node: Any, updatehash: bool, task: int) -> "Future[Any]":
        kept_mb = self.memory_gb * 1024 / self.processors * KEPT_SHARE
        step = partial(run_step, node, updatehash, task, self._memory_table, kept_mb)
        try:
            future = self.pool.submit(step)
        except BrokenProcessPool:
            self._replace_pool()
            future = self.pool.submit(step)
        future.add_done_callback(partial(self._take_result, task))
        return future

    def _take_result(self, task: int, future: "Future[Any]") -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._taskresult[task] = future.result()
        else:
            self._taskresult[task] = {"error": error}
        self._ended.set()

    def _get_result(self, taskid: int) -> Any:
        """Result of a task; one that was lost is sent again, or has a traceback of ours."""
        result = self._taskresult.get(taskid)
        if result is None or "error" not in result:
            return result
        error = result["error"]
        if not isinstance(error, BrokenProcessPool) or taskid in self._sent_again:
            return {"result": None, "traceback": [_sentence(error)], "taskid": taskid}
        if all(future.done() for future in self._sent_again.values()):
            del self._taskresult[taskid]
            self._replace_pool()
            self._sent_again[taskid] = self._send(self._nodes[taskid], False, taskid)
        return None

    def _clear_task(self, taskid: int) -> None:
        """Forget a step that has ended, of which nipype keeps the result."""
        super()._clear_task(taskid)
        for kept in (self._nodes, self._taskresult, self._sent_again):
            kept.pop(taskid, None)

    def _replace_pool(self) -> None:
        """Start a pool of one worker in place of a broken one."""
        if getattr(self.pool, "_broken", False):
            self.processors = 1
            self.pool.shutdown(wait=False)
            self.pool = self._new_pool()

    def spare(self, function: Callable[[], Any]) -> "Future[Any]":
        """Have a worker that is free call a function; the future tells of a worker that died."""
        try:
            return self.pool.submit(function)
        except BrokenProcessPool as error:
            dead: Future[Any] = Future()
            dead.set_exception(error)
            return dead

    def close(self) -> None:
        """Stop all workers, also those that are still at work."""
        processes = list((getattr(self.pool, "_processes", None) or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


class _Counted(lil_matrix):
    """Which step waits for which: 1 in the row of the earlier and the column of the later one.

    nipype adds up all of it at every look, to see for how many each step waits, and only ever
    takes a row to clear it: so the sums are kept.
    """

    def __init__(self, matrix: lil_matrix) -> None:
        super().__init__(matrix)
        self._sums = matrix.sum(axis=0)

    def sum(self, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
        """Sums of the columns are at hand; all others are as ever."""
        return self._sums if axis == 0 else super().sum(axis, dtype, out)

    def getrowview(self, i: int) -> lil_matrix:
        """The row of a step that has ended, which nipype is about to clear."""
        row = super().getrowview(i)
        for column, value in zip(row.rows[0], row.data[0], strict=True):
            self._sums[0, column] -= value
        return row


def turns(graph: networkx.DiGraph) -> dict[Any, int]:
    """In which order the nodes of a graph take free workers.

    The sessions come one after the other; in each, the step first that most steps in a row wait
    for: a figure, for which nothing waits, does not hold up the registration.
    """
    waiting: dict[Any, int] = {}
    for node in reversed(list(networkx.topological_sort(graph))):
        waiting[node] = 1 + max((waiting[later] for later in graph.successors(node)), default=0)
    ordered = [
        node
        for session in networkx.weakly_connected_components(graph)
        for node in sorted(session, key=lambda node: (-waiting[node], node.fullname))
    ]
    return {node: turn for turn, node in enumerate(ordered)}


def _sentence(error: BaseException) -> str:
    """Last line of a traceback for an error of the pool itself."""
    if isinstance(error, BrokenProcessPool):
        return f"{TryAgain.__module__}.{TryAgain.__name__}: {KILLED}\n"
    return f"{type(error).__name__}: {error}\n"


def configure(execution: Execution, log_dir: Path) -> None:
    """Set nipype's own configuration of this process, and send its messages to the logs.

    Workflows copy it when they are made, so it has to be set before.
    """
    nipype.config.update_config(
        {
            "logging": {"workflow_level": "INFO", "utils_level": "INFO", "log_to_file": "false"},
            "execution": {
                "crashfile_format": "txt",
                "hash_method": "timestamp",
                "stop_on_first_crash": str(execution.stop_on_first_crash).lower(),
                "remove_unnecessary_outputs": "false",
                "create_report": "false",
                "check_version": "false",
            },
        }
    )
    nipype.config.resource_monitor = execution.resource_monitor
    nipype.logging.update_logging(nipype.config)
    log_to(log_dir / "nipype.log", keep_terminal=execution.verbose > 0)


class _LogFile(logging.FileHandler):
    """A log that a full disk cuts short: the run itself says that the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Pass over what could not be written, and tell of anything else."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file, even where its last lines find no room."""
        with suppress(OSError):
            super().close()


def log_to(path: Path, *, keep_terminal: bool) -> None:
    """Send nipype's messages to a file, and to the terminal only where that is wanted."""
    logger = logging.getLogger("nipype")
    for handler in list(logger.handlers):
        if isinstance(handler, logging.FileHandler) or not keep_terminal:
            logger.removeHandler(handler)
            handler.close()
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False


def stop_logging() -> None:
    """Close the log file of the run."""
    logger = logging.getLogger("nipype")
    for handler in list(logger.handlers):
        if isinstance(handler, logging.FileHandler):
            logger.removeHandler(handler)
            handler.close()


@contextmanager
def started(execution: Execution, log_dir: Path) -> Iterator[Any]:
    """The plugin that runs the graphs of a run; its workers end with the block."""
    name, arguments = read_plugin(execution.plugin_file) if execution.plugin_file else ("", {})
    if name not in ("", "MultiProc"):
        kind = _plugin_class(name)
        check_scheduler(name, kind, execution.work_dir)
        yield patient(kind)(plugin_args=arguments)
        return
    log = log_dir / "workers.log" if execution.verbose < 2 else None
    table = memory.new_table(log_dir / memory.TABLE)
    plugin = PatientMultiProcPlugin({**pool_arguments(execution), **arguments}, log, table)
    try:
        yield plugin
    finally:
        plugin.close()


def run_workflow(
    workflow: Any, plugin: Any, callback: Callable[[Any, str], None]
) -> Exception | None:
    """Run a workflow to its end; returns the error that nipype raises when nodes failed."""
    plugin._status_callback = callback
    try:
        workflow.run(plugin=plugin)
    except Exception as error:  # noqa: BLE001 - nipype raises what nodes raised, after all ran
        return error
    return None


def pool_arguments(execution: Execution) -> dict[str, Any]:
    """Arguments of the pool: cores, GPU slots, and memory where there is a limit to it."""
    arguments = {
        "n_procs": execution.nprocs,
        "n_gpu_procs": execution.gpu_slots,
        "raise_insufficient": False,
        "mp_context": "forkserver",
    }
    memory = execution.memory_gb or limit_gb()
    return {**arguments, "memory_gb": memory} if memory else arguments


def _plugin_class(name: str) -> Any:
    from nipype.pipeline import plugins

    try:
        return getattr(plugins, f"{name}Plugin")
    except AttributeError as error:
        raise UsageError(f"nipype has no plugin '{name}': check --nipype-plugin-file.") from error


def read_plugin(path: Path) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a nipype plugin from a YAML or JSON file.

    Raises InputMissing when it can't be read and UsageError when it does not name a plugin.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputMissing(f"The plugin file {path} can't be read: {error}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise UsageError(f"The plugin file {path} is neither YAML nor JSON: {why}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("plugin"), str):
        raise UsageError(f"The plugin file {path} must have the key 'plugin' with a name.")
    arguments = content.get("plugin_args") or {}
    if not isinstance(arguments, dict):
        raise UsageError(f"The key 'plugin_args' of the plugin file {path} must hold a table.")
    return content["plugin"], arguments
