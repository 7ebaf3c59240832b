"""How much memory a run may have, by control groups and by what is free."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from bids_stroke.cli import limits

GB = 1024**3


def group(root: Path, place: str, name: str, value: str) -> None:
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(value)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/\n", {"memory.max": f"{10 * GB}\n"}, 9.0),
        ("0::/slurm/job_7\n", {"slurm/job_7/memory.max": f"{2 * GB}"}, 1.8),
        ("0::/slurm/job_7\n", {"slurm/memory.max": f"{GB}", "memory.max": f"{2 * GB}"}, 0.9),
        ("4:memory:/job_7\n0::/\n", {"memory/job_7/memory.limit_in_bytes": f"{4 * GB}"}, 3.6),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("nonsense", {}, None),
        (None, {}, None),
    ],
)
def test_limit(tmp_path: Path, own: str | None, files: dict, expected: float | None) -> None:
    for name, value in files.items():
        place, _, last = name.rpartition("/")
        group(tmp_path, place, last, value)
    if own is not None:
        (tmp_path / "own").write_text(own)
    assert limits.limit_gb(tmp_path, tmp_path / "own") == expected


@pytest.mark.parametrize(
    ("content", "expected"), [("MemTotal: 9 kB\nMemAvailable: 3145728 kB\n", 3.0), ("", None)]
)
def test_free_memory(tmp_path: Path, content: str, expected: float | None) -> None:
    path = tmp_path / "meminfo"
    path.write_text(content)
    assert limits.free_gb(path) == expected
    assert limits.free_gb(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("memory", "free", "said"), [(3.0, 50.0, True), (8.0, 2.0, True), (8.0, 50.0, False)]
)
def test_shortage(monkeypatch: pytest.MonkeyPatch, memory: float, free: float, said: bool) -> None:
    monkeypatch.setattr(limits, "free_gb", lambda: free)
    nodes = [SimpleNamespace(name="n4", mem_gb=1.5), SimpleNamespace(name="predict", mem_gb=4.0)]
    workflow = SimpleNamespace(_get_all_nodes=lambda: nodes)
    sentence = limits.shortage(workflow, memory)
    assert bool(sentence) == said
    if sentence:
        assert "predict" in sentence
        assert f"{min(memory, free):.1f} GB" in sentence
