"""How a network is run on windows: by OpenVINO on a CPU, else by torch.

OpenVINO computes what torch computes, at the limit of the processor. Its mean over a whole feature
map loses digits, so that the norms are written as cascades of average pools, which keep them.
"""

import copy
import importlib.util
import logging
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any

import torch
from torch import nn

LOGGER = logging.getLogger("nipype.interface.bids_stroke")

PRECISIONS = ("auto", "fp32", "bf16")
"""``auto`` is fp32 on a CPU, and on a GPU fp16 as nnU-Net itself has it there."""

_BATCH_ON_GPU = 8  # windows and mirrored copies of them that are run at once
_TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}  # of the self-check, in units of the largest output
_TELEMETRY = "openvino_telemetry"


@dataclass(frozen=True)
class Executor:
    """A network that is ready to run.

    ``run`` takes float32 windows [n, channel, ...] on ``device`` and gives float32 outputs
    [n, class, ...] there; ``batch`` is how many at once are best; ``release`` gives back the memory
    that a run keeps for the next.
    """

    run: Callable[[torch.Tensor], torch.Tensor]
    name: str
    precision: str
    device: torch.device
    batch: int = 1
    release: Callable[[], object] = lambda: None


class CannotConvert(Exception):
    """OpenVINO is not there, or does not take the network; the message says why."""


def resolve_precision(asked: str, device: str | torch.device) -> str:
    """What ``auto`` means on a device: ``fp32``, or ``fp16`` on a CUDA GPU."""
    if asked != "auto":
        return asked
    return "fp16" if torch.device(device).type == "cuda" else "fp32"


def executor(
    network: nn.Module,
    shape: Sequence[int],
    *,
    device: str | torch.device = "cpu",
    precision: str = "auto",
    threads: int = 1,
    exact: bool = False,
) -> Executor:
    """The best executor there is for windows of ``shape`` [channel, ...].

    On a CPU that is OpenVINO, and torch where OpenVINO is missing or can't take the network, which
    is said in the log; ``exact`` asks for torch at once. The network is on the CPU and stays there.
    """
    device, precision = torch.device(device), resolve_precision(precision, device)
    if device.type == "cpu" and not exact:
        try:
            return _openvino(network, tuple(shape), precision, threads)
        except CannotConvert as error:
            _say_once(f"The network is run by torch, not by OpenVINO: {error}.")
    return _torch(network, device, precision)


@lru_cache(maxsize=64)
def _say_once(message: str) -> None:
    LOGGER.warning(message)


# torch

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def _torch(network: nn.Module, device: torch.device, precision: str) -> Executor:
    """The network itself, in half precision by autocast where that is asked for."""
    half = _HALF.get(precision)
    network = network if device.type == "cpu" else copy.deepcopy(network).to(device)

    def run(windows: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(device.type, dtype=half, enabled=bool(half)):
            return network(windows).float()

    batch = 1 if device.type == "cpu" else _BATCH_ON_GPU
    return Executor(run, f"torch {torch.__version__}", precision, device, batch)


def run_split(executor: Executor, windows: torch.Tensor) -> torch.Tensor:
    """Run a batch; where memory runs out, in two halves, and so on down to single windows.

    Raises torch.OutOfMemoryError when one window is too much.
    """
    try:
        return executor.run(windows)
    except torch.OutOfMemoryError:
        if len(windows) == 1:
            raise
    _say_once(f"The memory of {executor.device} is too small for {len(windows)} windows at once.")
    halves = windows.split(-(-len(windows) // 2))
    return torch.cat([run_split(executor, half) for half in halves])


# OpenVINO


def has_openvino() -> bool:
    """Is OpenVINO installed?"""
    return importlib.util.find_spec("openvino") is not None


@lru_cache(maxsize=1)
def import_openvino() -> Any:
    """OpenVINO without its telemetry, which would send an event to its makers at every import."""
    if not has_openvino():
        raise CannotConvert("it is not installed")
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]  # import then fails, as if absent
    try:
        import openvino
    except ImportError as error:
        raise CannotConvert(f"it can't be imported ({error})") from error
    return openvino


@lru_cache(maxsize=1)
def _core() -> Any:
    return import_openvino().Core()


def can_bf16() -> bool:
    """Has this processor bf16 instructions that OpenVINO uses?"""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _openvino(network: nn.Module, shape: tuple[int, ...], precision: str, threads: int) -> Executor:
    import_openvino()
    if precision == "bf16" and not can_bf16():
        raise CannotConvert(f"it has no bf16 on this processor ({platform.machine()})")
    try:
        example, expected, model = _converted(network, shape)
        with ThreadPoolExecutor(min(threads, 2)) as pool:
            small, whole = (
                pool.submit(_compiled, model.clone(), size, precision, threads)
                for size in (example.shape, (1, *shape))
            )
            _check(small.result()[0], example, expected, precision)
            run, release = whole.result()
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise CannotConvert(
            f"it can't take {type(network).__name__} ({_first_line(error)})"
        ) from error
    name = f"OpenVINO {metadata.version('openvino')}"
    return Executor(run, name, precision, torch.device("cpu"), release=release)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _converted(
    network: nn.Module, shape: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """A small window, the network's output for it, and OpenVINO's model of the network.

    The graph is recorded on the smallest part of the window that the network takes, because
    recording runs it. OpenVINO's converter is called by its parts: as a whole it sends telemetry.
    """
    network = _frozen(network)
    generator = torch.Generator().manual_seed(0)
    for small in _parts(shape):
        example = torch.randn((1, *small), generator=generator)
        try:
            with torch.inference_mode():
                expected = network(example)
        except (RuntimeError, ValueError):
            if small == shape:
                raise
            continue
        return example, expected, _read(_recorded(network, example), example)
    raise AssertionError("the whole window is the last part")


def _frozen(network: nn.Module) -> nn.Module:
    """A copy in float32 whose weights can become constants; a ScriptModule has less methods."""
    with torch.no_grad():
        network = copy.deepcopy(network).float().eval()
    for weight in network.parameters():
        weight.requires_grad_(False)
    return network


def _recorded(network: nn.Module, example: torch.Tensor) -> Any:
    """The network as a graph of TorchScript; one that comes as such is taken as it is.

    It is recorded as a function, its weights as constants: this takes a third of the time.
    """
    with torch.no_grad(), _quiet():
        if isinstance(network, torch.jit.ScriptModule):
            return torch.jit.freeze(network)
        return torch.jit.trace(lambda window: network(window), example, check_trace=False)


def _read(graph: Any, example: torch.Tensor) -> Any:
    """OpenVINO's model of a graph of TorchScript."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    decoder = TorchScriptPythonDecoder(graph, example_input=example, skip_freeze=True)
    frontend = FrontEndManager().load_by_framework("pytorch")
    return frontend.convert(frontend.load(decoder))


def _parts(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Parts of the window [channel, ...], of at most 16, 32, ... voxels a side, then the whole."""
    channels, *sides = shape
    for most in (16, 32, 64, 128):
        if most < max(sides):
            yield channels, *(min(side, most) for side in sides)
    yield shape


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's words on its older recorder, which is the one that OpenVINO reads well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _compiled(
    model: Any, shape: Sequence[int], precision: str, threads: int
) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[], object]]:
    """The model, compiled for windows [1, channel, ...]: ``run`` and ``release`` of an executor.

    The model is changed on the way.
    """
    model.reshape({model.inputs[0]: list(shape)})
    _exact_norms(model)
    settings = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # other workers share the cores
    }
    compiled = _core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def run(windows: torch.Tensor) -> torch.Tensor:
        outputs = [
            torch.from_numpy(request.infer([window.contiguous().numpy()], share_inputs=True)[0])
            for window in windows.split(1)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    return run, compiled.release_memory


def _check(
    run: Callable[[torch.Tensor], torch.Tensor],
    example: torch.Tensor,
    expected: torch.Tensor,
    precision: str,
) -> None:
    """Raise ValueError when a compiled network gives something else than the network itself."""
    difference = float((run(example) - expected).abs().max() / expected.abs().max())
    if not difference <= _TOLERANCE[precision]:
        raise ValueError("its outputs are others")


def _exact_norms(model: Any) -> None:
    """Write every norm over a feature map as average pools of average pools, in place."""
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() != "MVN":
            continue
        source = node.input_value(0)
        centred = ops.subtract(source, _mean(source))
        variance = _mean(ops.multiply(centred, centred).output(0))
        epsilon = ops.constant([node.get_attributes()["eps"]], dtype="float32")
        scaled = ops.divide(centred, ops.sqrt(ops.add(variance, epsilon)))
        node.output(0).replace(scaled.output(0))
    model.validate_nodes_and_infer_types()


def _mean(source: Any) -> Any:
    """Mean over all spatial axes of [n, channel, ...]: every step averages a few numbers."""
    from openvino import opset13 as ops

    while max(sides := list(source.get_shape())[2:]) > 1:
        kernel = [_factor(side) for side in sides]
        none = [0] * len(kernel)
        source = ops.avg_pool(source, kernel, none, none, kernel, True).output(0)
    return source


def _factor(side: int) -> int:
    """A small divisor of a side, else the side itself."""
    return next((f for f in (8, 4, 2, 5, 3, 7) if side % f == 0), side)
