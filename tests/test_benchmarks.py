"""The quick forms of the benchmarks: that they run and that results are equal, never time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks are not installed"),
]


def last_line(name: str, *arguments: str) -> Any:
    """The JSON object at the end of what a benchmark prints."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), "--quick", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_heavy_is_imported_to_tell_the_version() -> None:
    result = last_line("startup")
    assert result["heavy_imports_of_version"] == "[]"
    assert "--dry-run, 10 sessions" in result["starts"]


def test_every_session_is_planned_and_graphs_grow_by_pairs() -> None:
    result = last_line("scheduling")
    assert [row["planned"] for row in result["dry_run"]] == [20, 100]
    one, four = result["graph"]
    assert four["nodes"] == 4 * one["nodes"]


def test_the_fake_gpu_gets_every_session() -> None:
    result = last_line("many_subjects", "--gpu-only")
    assert result["gpu"]["predictions"] == 4
    assert 0 <= result["gpu"]["idle_share"] <= 1


def test_both_trainers_train_one_network() -> None:
    result = last_line("training")
    assert len(result["parameters"]) == 4
    assert len(set(result["parameters"].values())) == 1
    rows = result["trainers"] + result["programs"]
    assert all(row["iterations a second"] > 0 for row in rows)
    assert [row["program"] for row in result["programs"]] == ["nnUNetv2_train", "bids_stroke train"]
    assert all(0 <= float(row["waiting for data"][:-1]) <= 100 for row in result["programs"])


def test_ours_and_the_tools_in_sequence_find_the_same_lesions() -> None:
    result = last_line("one_subject")
    assert result["cases"]["one"]["dice"]["fp32"] > 0.85
    assert min(result["cases"]["one"]["voxels"].values()) > 1000
    same = result["cases"]["one"]["same_inputs"]
    assert same["dice"] > 0.999 and same["max_abs_difference"] < 5e-3


def test_our_registration_is_as_near_the_truth_as_that_of_ants() -> None:
    result = last_line("registration")
    assert result["sessions"] == 1
    assert result["mean_ours"] < 0.4 > result["mean_ANTs"]
