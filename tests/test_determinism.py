"""Equal inputs give equal bytes, whatever the number of processes and threads."""

import sys
from pathlib import Path

import pytest

from tests import faults
from tests.forks import wait

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs fork"),
    pytest.mark.filterwarnings("ignore"),
]


def numbers(root: Path, name: str) -> dict[str, str]:
    """Checksums of masks, probabilities, images and tables; pages tell times."""
    made = faults.outputs(root, name)
    return {path: value for path, value in made.items() if path.endswith((".nii.gz", ".tsv"))}


def test_processes_and_threads_do_not_change_a_byte(tmp_path: Path) -> None:
    root = faults.prepare(tmp_path, ("01", "02"))
    (root / "pool.yml").write_text("plugin: MultiProc\n")
    pool = ("--nipype-plugin-file", str(root / "pool.yml"))
    runs = {
        "first": ("--nprocs", "1", "--omp-nthreads", "1"),
        "again": ("--nprocs", "1", "--omp-nthreads", "1"),
        "threads": ("--nprocs", "1", "--omp-nthreads", "2"),
        "pool": ("--nprocs", "2", "--omp-nthreads", "1", *pool),
    }
    codes = {name: wait(faults.start(root, name, *flags)) for name, flags in runs.items()}
    assert codes == dict.fromkeys(runs, 0)
    expected = numbers(root, "first")
    assert any("probseg" in path for path in expected)
    assert any("seg-lesions" in path for path in expected)
    for name in ("again", "threads", "pool"):
        assert numbers(root, name) == expected, name
