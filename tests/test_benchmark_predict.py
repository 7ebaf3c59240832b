"""The benchmark of prediction: its quick form for correctness, never time; its random networks."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.programs import imported

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "predict.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks are not installed")


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with imported(SCRIPT) as module:
        yield module


class Head(torch.nn.Module):
    """Logits of 0 and of the FLAIR, with a head to shift."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = torch.nn.Module()
        self.decoder.seg_layers = torch.nn.ModuleList([torch.nn.Conv3d(2, 2, 1)])
        weights = torch.tensor([[0.0, 0.0], [0.0, 1.0]]).reshape(2, 2, 1, 1, 1)
        self.decoder.seg_layers[-1].weight = torch.nn.Parameter(weights)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return self.decoder.seg_layers[-1](data)


def test_a_network_of_random_weights_marks_the_share_that_it_is_to(benchmark) -> None:
    case, network = benchmark.QUICK["seeded"], Head()
    benchmark.mark(network, case, 0.02)
    flair = benchmark.scan(case)["FLAIR"]
    middle = tuple(slice((n - 32) // 2, (n + 32) // 2) for n in flair.shape)
    background, lesion = network.decoder.seg_layers[-1].bias.detach().numpy()
    assert np.mean(flair[middle] + lesion > background) == pytest.approx(0.02, abs=1e-3)


@pytest.mark.slow
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
