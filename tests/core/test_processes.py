"""A process that asked for it does not outlive the one that forked it."""

import subprocess
import sys
import time

import pytest

PARENT = """
import os, signal, time
from bids_stroke.core.processes import die_with_parent
ready, told = os.pipe()
child = os.fork()
if not child:
    die_with_parent()
    os.write(told, b"1")
    time.sleep(60)
    os._exit(0)
os.read(ready, 1)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def is_running(process: int) -> bool:
    """Is it there, and no zombie that nobody has waited for?"""
    try:
        with open(f"/proc/{process}/stat") as stream:  # noqa: PTH123 # it may vanish any time
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux offers it")
def test_a_child_goes_with_its_parent() -> None:
    command = [sys.executable, "-c", PARENT]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=50)
    child, until = int(done.stdout), time.monotonic() + 20
    while is_running(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(child)
