"""What half precision changes: rounding between layers, and the whole benchmark on real scans."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from tests.programs import imported

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "half.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks are not installed")


@pytest.fixture(scope="module")
def half() -> Iterator[ModuleType]:
    with imported(SCRIPT) as module:
        yield module


def test_every_layer_takes_and_gives_numbers_of_fp16(half: ModuleType) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.LeakyReLU(), nn.Conv3d(4, 2, 1))
    window = torch.rand(1, 1, 6, 6, 6)
    exact = network(window)
    half.round_to_half(network)
    seen: list[torch.Tensor] = []
    for layer in network:
        layer.register_forward_hook(lambda _, given, made: seen.extend([*given, made]))
    found = network(window)
    assert len(seen) == 6
    assert all(torch.equal(one, one.half().float()) for one in seen)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < 0.01


@pytest.mark.slow
def test_half_precision_leaves_real_masks_as_they_are(real_data: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(real_data), "--quick"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    worst = json.loads(done.stdout.splitlines()[-1])
    assert worst["fp16"]["max_abs_difference"] < 0.01
    assert worst["fp16"]["least_dice"] > 0.995
    if "bf16" in worst:
        assert worst["bf16"]["least_dice"] > 0.97
