"""What processes ask of the system: to end with another, to keep memory, to give it back."""

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

MEMORY = """
import resource
import numpy as np
from bids_stroke.core.processes import return_memory, reuse_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.full(8_000_000, 1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_mb():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize() / 1e6

usual = faults()
start = resident_mb()
reuse_memory()
np.full(8_000_000, 1.0)
kept = resident_mb() - start
again = faults()
return_memory(above_mb=resident_mb() + 100)
still = resident_mb() - start
return_memory(above_mb=resident_mb() - 10)
print(usual, again, kept, still, resident_mb() - start)
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


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc offers it")
def test_a_large_array_finds_the_memory_of_the_last_one() -> None:
    command = [sys.executable, "-c", MEMORY]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=50, check=True)
    usual, again, kept, still, left = map(float, done.stdout.split())
    assert again < usual / 10
    assert kept > 60
    assert still > 60
    assert left < 10
