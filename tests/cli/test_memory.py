"""The peak of memory of a step, as the kernel tells it."""

from pathlib import Path

import numpy as np
import pytest

from bids_stroke.cli import memory

linux = pytest.mark.skipif(not memory.forget_peak(), reason="the kernel does not count peaks here")


@linux
def test_the_peak_is_that_of_the_step_alone(tmp_path: Path) -> None:
    table = memory.new_table(tmp_path / memory.TABLE)
    with memory.recorded("large", table):
        held = np.ones(25_000_000)
        del held
    with memory.recorded("small", table):
        pass
    rows = [line.split("\t") for line in table.read_text().splitlines()]
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
