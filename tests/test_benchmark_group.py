"""The benchmark of the group level, in its smallest form: what it writes is what it reads."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from tests.programs import imported

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "group.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks are not installed")


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with imported(SCRIPT) as module:
        yield module


def test_the_group_level_reads_what_it_writes(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.write_outputs(tmp_path, sessions=6, references=2)
    figures = benchmark.run_once(tmp_path)
    assert set(figures) == {"seconds", "peak_mb", "imports_mb", "page_mb"}
    sessions = pd.read_csv(tmp_path / "out" / "group_sessions.tsv", sep="\t")
    agreement = pd.read_csv(tmp_path / "out" / "group_metrics.tsv", sep="\t")
    assert (len(sessions), len(agreement)) == (6, 2)
    assert (tmp_path / "out" / "group_overlap.nii.gz").is_file()
