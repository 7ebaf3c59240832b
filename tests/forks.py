"""Runs of the program, forked from a process that has imported everything and started no thread.

The process of the tests itself must not be forked: other tests leave threads there that hold
locks, and a forked run would wait for them for ever.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

KILLED = -signal.SIGKILL


def start(
    words: list[str],
    log: Path,
    before: Callable[..., object] | None = None,
    arguments: Sequence[str] = (),
) -> int:
    """Start a run with a command line; gives its process id.

    What it prints is added to ``log``. ``before``, a function of a module, is called in it first.
    """
    place = f"{before.__module__}:{before.__qualname__}" if before else ""
    return int(ask(words=words, log=str(log), before=place, arguments=list(arguments)))


def wait(process: int, seconds: float = 600) -> int:
    """Exit code of a run; after ``seconds`` it is killed, which gives ``KILLED``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        code = ask(process=process)
        if code is not None:
            return int(code)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    while (code := ask(process=process)) is None:
        time.sleep(0.005)
    return int(code)


def ask(**question: Any) -> Any:
    """Answer of the warm process."""
    process = warm_process()
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(question) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


@cache
def warm_process() -> subprocess.Popen[str]:
    """The process that runs are forked from; it ends with ours, when its input is closed."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.forks"],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def warm() -> None:
    """Import what a run imports."""
    import ants  # noqa: F401
    import nnunetv2.inference.predict_from_raw_data  # noqa: F401
    import torch

    import bids_stroke.bids.layout
    import bids_stroke.models.predictor
    import bids_stroke.reports.participant
    import bids_stroke.workflows.base  # noqa: F401
    from bids_stroke.models.executors import has_openvino, import_openvino

    if has_openvino():
        import_openvino()
    torch.set_num_threads(1)


def fork(words: list[str], log: str, before: str, arguments: list[str]) -> int:
    """Process id of a run; in the new process this does not come back."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        written = open(log, "a", buffering=1)  # noqa: PTH123, SIM115 - open until the run ends
        os.dup2(written.fileno(), 1)
        os.dup2(written.fileno(), 2)
        sys.stdin.close()
        sys.stdout = sys.stderr = written
        if before:
            module, _, name = before.partition(":")
            getattr(import_module(module), name)(*arguments)
        from bids_stroke.cli.run import main as run

        code = run(words)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def code_of(process: int) -> int | None:
    """Exit code of a run, None while it goes on."""
    ended, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def answers(questions: Iterator[str]) -> Iterator[Any]:
    """What the warm process says to each line."""
    for line in questions:
        question = json.loads(line)
        yield code_of(**question) if "process" in question else fork(**question)


def main() -> None:
    """Answer on what was our output; anything that a library prints goes to the error stream."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        warm()
        for answer in answers(iter(sys.stdin)):
            print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
