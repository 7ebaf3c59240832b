"""Batches that other processes load and augment, through pipes: they take no shared memory."""

import multiprocessing
import queue
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch

from bids_stroke.core.processes import die_with_parent
from bids_stroke.errors import TryAgain

READY = 2
"""Batches that lie ready in the training process; each worker holds one more."""


class Background:
    """The batches of an endless loader of nnU-Net, as ``workers`` forked processes make them.

    Whose batch comes next is left to chance. nnU-Net's own class for this waits for ever for a
    worker that was killed, and its tensors take shared memory, of which containers have little.
    """

    def __init__(self, loader: Any, workers: int) -> None:
        self._batches: queue.Queue[Any] = queue.Queue(READY)
        self._collector = threading.Thread(target=self._collect, daemon=True)
        self._workers, self._readers = zip(*[_start(loader) for _ in range(workers)], strict=True)

    def __next__(self) -> dict[str, Any]:
        """The next batch; raises TryAgain where a worker was killed, or what a worker raised."""
        if not self._collector.ident:  # not before all workers are forked
            self._collector.start()
        batch = self._batches.get()
        if isinstance(batch, Exception):
            raise batch
        return dict(batch)

    def close(self) -> None:
        """End the workers, and forget what they made."""
        for worker in self._workers:
            worker.kill()
            worker.join()
        while self._collector.is_alive():
            with suppress(queue.Empty):
                self._batches.get(timeout=0.1)

    def _collect(self) -> None:
        """Take batches from the workers, as many as there is room for."""
        while True:
            ready = wait(self._readers)
            for reader in (one for one in self._readers if one in ready):
                try:
                    batch = reader.recv()
                except (EOFError, OSError):
                    batch = TryAgain(
                        "A process that loads patches was killed, most likely because memory ran "
                        "out: give more memory, or lower --nprocs."
                    )
                self._batches.put(batch)
                if isinstance(batch, Exception):
                    return


def _start(loader: Any) -> tuple[Any, Connection]:
    """Fork a worker; returns it, and where its batches can be read."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    seed = int(np.random.randint(2**31))  # noqa: NPY002 - as the trainer seeded it
    worker = context.Process(target=_work, args=(loader, writer, seed), daemon=True)
    worker.start()
    writer.close()  # so that the end of the worker is the end of the pipe
    return worker, reader


def _work(loader: Any, writer: Connection, seed: int) -> None:
    """Send batches until the training ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)  # threads of a forked process would wait for ever
    torch.manual_seed(seed)
    np.random.seed(seed)
    try:
        while True:
            writer.send(_as_arrays(**next(loader)))
    except BrokenPipeError:
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, the training has to know
        writer.send(error)


def _as_arrays(data: torch.Tensor, target: Any, **_: Any) -> dict[str, Any]:
    """Image and label, or labels of several sizes, as arrays, which need no shared memory."""
    arrays = [one.numpy() for one in target] if isinstance(target, list) else target.numpy()
    return {"data": data.numpy(), "target": arrays}
