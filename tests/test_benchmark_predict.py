"""The quick form of the benchmark of prediction: correctness only, never time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "predict.py"


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks are not installed")
def test_ours_is_nearer_to_the_exact_reference_than_stock() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--repeats", "1", "--threads", "1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["max_abs_difference"] < 1e-3
    assert result["max_abs_difference"] <= result["max_abs_difference_stock"]
    assert result["dice"] > 0.999
    assert result["dice_bf16"] > 0.98
    assert result["speedup"] > 0
    assert set(result["cases"]) == {"embedded", "seeded"}
