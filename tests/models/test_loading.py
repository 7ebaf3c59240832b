"""Batches of other processes: what they are, that workers differ, and how their end is told."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch

from bids_stroke.errors import TryAgain
from bids_stroke.models.loading import Background


def batches() -> Iterator[dict[str, Any]]:
    """Endless noise, with the process that made it."""
    while True:
        data = torch.from_numpy(np.random.normal(size=(2, 1, 4, 4, 4)))  # noqa: NPY002
        target = [torch.full((2, 1), os.getpid()), torch.rand(2, 1)]
        yield {"data": data, "target": target, "keys": ["a", "b"]}


def test_batches_are_arrays_of_other_processes_and_all_differ():
    np.random.seed(1)  # noqa: NPY002 - what the loaders of nnU-Net draw from
    with closing(Background(batches(), 2)) as loader:
        found = [next(loader) for _ in range(12)]
    assert all(set(one) == {"data", "target"} for one in found)
    assert all(isinstance(one["data"], np.ndarray) for one in found)
    assert len({one["data"].tobytes() for one in found}) == 12
    assert len({one["target"][1].tobytes() for one in found}) == 12
    assert os.getpid() not in {int(one["target"][0][0, 0]) for one in found}


def test_one_worker_makes_the_same_batches_again():
    runs = []
    for _ in range(2):
        np.random.seed(1)  # noqa: NPY002
        with closing(Background(batches(), 1)) as loader:
            runs.append([next(loader)["data"].tobytes() for _ in range(4)])
    assert runs[0] == runs[1]


def test_a_worker_that_is_killed_is_told_and_not_waited_for():
    with closing(Background(batches(), 2)) as loader:
        worker = int(next(loader)["target"][0][0, 0])
        time.sleep(0.5)  # it is in the middle of its next batch, which waits for room
        os.kill(worker, signal.SIGKILL)
        until = time.monotonic() + 60  # its memory is given back first, then its pipe ends
        with pytest.raises(TryAgain, match="was killed"):
            while time.monotonic() < until:
                next(loader)


@pytest.mark.parametrize("before", [0, 1])
def test_closed_workers_are_gone(before):
    loader = Background(batches(), 2)
    for _ in range(before):
        next(loader)
    loader.close()
    assert not any(worker.is_alive() for worker in loader._workers)
    assert not loader._collector.is_alive()


def test_what_a_worker_raises_is_raised_here():
    def broken() -> Iterator[dict[str, Any]]:
        yield from []
        raise ValueError("an array is broken")

    with (
        closing(Background(broken(), 1)) as loader,
        pytest.raises(ValueError, match="an array is broken"),
    ):
        next(loader)
