"""Processes that train one fold together, as nnU-Net's DDP does: each rank on a GPU of its own."""

import os
import signal
import subprocess  # nosec B404 # our own module, as a list of words
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

STOPPED = 3
"""Exit code of a training that a signal stopped, with a checkpoint."""
LOOK_EVERY_S, GRACE_S = 0.2, 5.0
LONGEST_WAIT = timedelta(days=1)
"""How long a rank waits for the others, of which the first may predict in between: whoever started
them ends them where one has failed."""

Process = subprocess.Popen[bytes]


@contextmanager
def member(rank: int, ranks: int, device: str, store: Path) -> Iterator[None]:
    """Be one of the ranks that train together; they meet at the file ``store``.

    Tensors on the CPU are exchanged by gloo, within the machine, and those on GPUs by NCCL.
    """
    import torch
    from torch import distributed

    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(rank)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        init_method=store.as_uri(),
        rank=rank,
        world_size=ranks,
        timeout=LONGEST_WAIT,
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def train_together(
    command: Sequence[str], ranks: int, wanted: Callable[[], bool], keep: Sequence[int] = ()
) -> None:
    """Run a command once for each rank, with ``--rank N --store FILE``, until all have ended.

    Where one fails the others are ended, and where it is not ``wanted`` any more, or on SIGTERM,
    all are asked to stop. Raises SystemExit where a rank failed or stopped: with its exit code (128
    and the signal where one was killed), after its messages. The ranks inherit the descriptors
    ``keep``, so that locks are held until the last of them has ended.
    """
    with TemporaryDirectory() as name:
        messages = [Path(name) / f"rank-{rank}.txt" for rank in range(ranks)]
        asked = [[*command, "--rank", str(r), "--store", f"{name}/store"] for r in range(ranks)]
        processes = [_start(*one, keep) for one in zip(asked, messages, strict=True)]
        with _signals_passed_on(processes):
            codes = _wait(processes, wanted)
        if (worst := _culprit(codes)) is None:
            return
        code = codes[worst]
        sys.stderr.write(messages[worst].read_text(encoding="utf-8", errors="replace"))
        raise SystemExit(code if code >= 0 else 128 - code)


def _start(command: Sequence[str], messages: Path, keep: Sequence[int]) -> Process:
    with messages.open("wb") as stream:
        return subprocess.Popen(  # noqa: S603 # nosec B603 # our own module
            command, stderr=stream, pass_fds=keep
        )


@contextmanager
def _signals_passed_on(processes: Sequence[Process]) -> Iterator[None]:
    """SIGTERM goes to the ranks, which agree on the iteration after which they stop."""
    before = signal.signal(signal.SIGTERM, lambda *_: _ask_to_stop(processes))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in processes:
            process.kill()
            process.wait()


def _ask_to_stop(processes: Sequence[Process]) -> None:
    for process in processes:
        process.terminate()


def _wait(processes: Sequence[Process], wanted: Callable[[], bool]) -> list[int]:
    """Exit codes of the ranks; one that waits for a rank which has failed gets 0."""
    asked, until = False, float("inf")
    while None in (codes := [process.poll() for process in processes]) and time.monotonic() < until:
        if _culprit([code or 0 for code in codes], but=STOPPED) is not None:
            until = min(until, time.monotonic() + GRACE_S)
        if not asked and not wanted():
            asked = True
            _ask_to_stop(processes)
        time.sleep(LOOK_EVERY_S)
    return [process.poll() or 0 for process in processes]


def _culprit(codes: Sequence[int], but: int = 0) -> int | None:
    """The rank that is to blame, if any: one that was killed, else one that says why it failed.

    An unexpected error (1) comes last: it is what a rank has whose partner is gone.
    """
    failed = [rank for rank, code in enumerate(codes) if code not in (0, but)]
    return min(failed, key=lambda rank: (codes[rank] >= 0, codes[rank] == 1, rank), default=None)
