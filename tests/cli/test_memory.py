"""The peak of memory of a step, as the kernel tells it."""

import subprocess
import sys
from pathlib import Path

import pytest

from bids_stroke.cli import memory

linux = pytest.mark.skipif(not memory.forget_peak(), reason="the kernel does not count peaks here")

# In a process of its own, for this one may keep what it frees (core/processes.py).
STEPS = """
import sys
from pathlib import Path
import numpy as np
from bids_stroke.cli import memory

table = memory.new_table(Path(sys.argv[1]) / memory.TABLE)
with memory.recorded("large", table):
    held = np.ones(25_000_000)
    del held
with memory.recorded("small", table):
    pass
"""


@linux
def test_the_peak_is_that_of_the_step_alone(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", STEPS, str(tmp_path)], check=True, timeout=100)
    rows = [line.split("\t") for line in (tmp_path / memory.TABLE).read_text().splitlines()]
    assert rows[0] == ["node", "peak_mb"]
    assert [row[0] for row in rows[1:]] == ["large", "small"]
    assert float(rows[1][1]) - float(rows[2][1]) > 150, "200 MB were held and given back"


@linux
def test_a_failed_step_is_recorded_too(tmp_path: Path) -> None:
    table = memory.new_table(tmp_path / memory.TABLE)
    with pytest.raises(ZeroDivisionError), memory.recorded("a", table):
        _ = 1 / 0
    assert table.read_text().splitlines()[1].startswith("a\t")


def test_without_a_table_nothing_is_written(tmp_path: Path) -> None:
    with memory.recorded("a", None):
        pass
    assert list(tmp_path.iterdir()) == []
