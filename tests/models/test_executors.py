"""Executors against the plain network, what they do when something is missing, and no telemetry."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bids_stroke.models import executors
from bids_stroke.models.networks.slices import UNet2d

needs_openvino = pytest.mark.skipif(not executors.has_openvino(), reason="OpenVINO is an extra")


@pytest.fixture(autouse=True)
def _nothing_said() -> Iterator[None]:
    executors._say_once.cache_clear()
    yield
    executors._say_once.cache_clear()


def unet(features: tuple[int, ...] = (4, 8, 16)) -> nn.Module:
    """nnU-Net's plain network with seeded weights and norms that do something."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    torch.manual_seed(0)
    stages = len(features)
    strides = [1] + [2] * (stages - 1)
    network = PlainConvUNet(
        2, stages, list(features), nn.Conv3d, 3, strides, 1, 2, [1] * (stages - 1),
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, conv_bias=True,
    )  # fmt: skip
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


def plain(network: nn.Module, windows: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(windows)


@needs_openvino
@pytest.mark.parametrize("sides", [(32, 32, 32), (24, 40, 20), (12, 28, 36)])
def test_openvino_is_the_network(sides: tuple[int, ...]) -> None:
    network, windows = unet(), torch.randn((3, 2, *sides)) * 50 + 400
    run = executors.executor(network, windows.shape[1:])
    assert (run.name[:8], run.precision, run.batch) == ("OpenVINO", "fp32", 1)
    expected = plain(network, windows)
    difference = run.run(windows).softmax(1) - expected.softmax(1)
    assert difference.abs().max() < 1e-4
    assert expected.std() > 0.1


@needs_openvino
def test_openvino_takes_slices() -> None:
    network, windows = UNet2d(2, 2, features=[4, 8, 8, 8, 8]).eval(), torch.randn((2, 2, 64, 48))
    run = executors.executor(network, windows.shape[1:])
    assert run.name.startswith("OpenVINO")
    assert torch.allclose(run.run(windows), plain(network, windows), atol=1e-4)


@needs_openvino
def test_norms_keep_their_digits() -> None:
    """A map far from zero: one running sum over it would lose the deviations."""
    network = nn.Sequential(nn.Conv3d(1, 4, 1), nn.InstanceNorm3d(4, affine=True)).eval()
    windows = torch.rand((1, 1, 64, 64, 64)) + 1000
    run = executors.executor(network, windows.shape[1:])
    assert run.name.startswith("OpenVINO")
    exact = plain(network.double(), windows.double())
    network.float()
    assert (run.run(windows) - exact).abs().max() < 5e-3


def test_bf16_is_near() -> None:
    network, windows = unet(), torch.randn((1, 2, 32, 32, 32))
    run = executors.executor(network, windows.shape[1:], precision="bf16")
    difference = (run.run(windows).softmax(1) - plain(network, windows).softmax(1)).abs()
    assert run.precision == "bf16"
    assert difference.mean() < 0.02


def test_exact_is_torch() -> None:
    network, windows = unet(), torch.randn((1, 2, 16, 16, 16))
    run = executors.executor(network, windows.shape[1:], exact=True)
    assert run.name.startswith("torch")
    assert torch.equal(run.run(windows), plain(network, windows))


class Odd(nn.Module):
    """Gives something else in every call: a recorded graph can't be right."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return windows + torch.randn(1).item()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if "torch, not by OpenVINO" in r.message]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """nipype keeps its records to itself: let them through."""
    monkeypatch.setattr(logging.getLogger("nipype.interface"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("nipype"), "propagate", True)
    caplog.set_level(logging.WARNING)
    return caplog


def test_falls_back_to_torch_and_says_so_once(log: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        run = executors.executor(Odd(), (1, 16, 16, 16))
        assert run.name.startswith("torch")
        assert run.run(torch.zeros((1, 1, 16, 16, 16))).shape == (1, 1, 16, 16, 16)
    assert len(said(log)) == 1


def test_without_openvino(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    executors.import_openvino.cache_clear()
    monkeypatch.setattr(executors, "has_openvino", lambda: False)
    network, windows = unet(), torch.randn((1, 2, 16, 16, 16))
    runs = [executors.executor(network, windows.shape[1:]) for _ in range(2)]
    executors.import_openvino.cache_clear()
    assert torch.equal(runs[1].run(windows), plain(network, windows))
    assert len(said(log)) == 1
    assert "not installed" in said(log)[0]


def test_bf16_without_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "can_bf16", lambda: False)
    run = executors.executor(unet(), (2, 16, 16, 16), precision="bf16")
    assert (run.name[:5], run.precision) == ("torch", "bf16")


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [("auto", "cpu", "fp32"), ("auto", "cuda:1", "fp16"), ("fp32", "cuda", "fp32"),
     ("bf16", "cpu", "bf16"), ("auto", "mps", "fp32")],
)  # fmt: skip
def test_precision_by_device(asked: str, device: str, expected: str) -> None:
    assert executors.resolve_precision(asked, device) == expected


def small_memory(room: int) -> executors.Executor:
    """A device that has room for so many windows."""

    def run(windows: torch.Tensor) -> torch.Tensor:
        if len(windows) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return windows * 2

    return executors.Executor(run, "fake", "fp16", torch.device("cpu"), batch=8)


@pytest.mark.parametrize("room", [1, 2, 3, 8])
def test_a_batch_is_split_where_memory_is_short(room: int) -> None:
    windows = torch.randn((7, 1, 4, 4, 4))
    assert torch.equal(executors.run_split(small_memory(room), windows), windows * 2)


def test_one_window_too_much_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        executors.run_split(small_memory(0), torch.zeros((4, 1, 2, 2, 2)))


SILENT = """
import socket, sys
def refuse(*a, **k): raise SystemExit("network")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
from bids_stroke.models import executors
import torch
from torch import nn
network = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.InstanceNorm3d(2)).eval()
run = executors.executor(network, (1, 16, 16, 16))
assert run.name.startswith("OpenVINO"), run.name
loaded = [m for m in sys.modules if m.startswith("openvino_telemetry") and sys.modules[m]]
assert not loaded, loaded
"""


@needs_openvino
def test_openvino_sends_nothing(tmp_path: Path) -> None:
    """Left to itself it sends an event at import, and leaves a folder in the user's home."""
    environment = {"HOME": str(tmp_path), "PATH": "", "NO_ET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SILENT], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "intel").exists()


@needs_openvino
def test_a_scripted_network_is_taken_as_it_is() -> None:
    network = unet()
    windows = torch.randn(1, 2, 24, 24, 24, generator=torch.Generator().manual_seed(3))
    with executors._quiet():
        scripted = torch.jit.trace(network, windows)
    run = executors.executor(scripted, (2, 24, 24, 24))
    assert run.name.startswith("OpenVINO")
    assert float((run.run(windows) - plain(network, windows)).abs().max()) < 1e-4


def test_the_smallest_part_comes_first_and_the_whole_last() -> None:
    parts = list(executors._parts((2, 64, 80, 20)))
    assert parts[0] == (2, 16, 16, 16) and parts[-1] == (2, 64, 80, 20)
    assert list(executors._parts((1, 16, 12))) == [(1, 16, 12)]


@needs_openvino
def test_a_released_executor_runs_again() -> None:
    run = executors.executor(unet(), (2, 24, 24, 24))
    windows = torch.randn(1, 2, 24, 24, 24, generator=torch.Generator().manual_seed(4))
    first = run.run(windows)
    run.release()
    assert torch.equal(first, run.run(windows))
