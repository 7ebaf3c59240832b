"""Weights are untrusted input: they are read as plain tensors, never as code."""

import pickle  # nosec B403 # only its reader that is restricted below, and its errors
import re
import struct
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from bids_stroke.core.files import atomic_path
from bids_stroke.errors import InputMissing, UnusableData

# nnU-Net's own checkpoints hold numpy scalars in their training log.
_HARMLESS = (
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    multiarray.scalar,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
)


_LARGEST_PICKLE = 200_000_000  # bytes; plans of nnU-Net v1 are some megabytes


_DAMAGE = (
    *(EOFError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(struct.error, AssertionError, OverflowError, SyntaxError),  # of what unpicklers call
)
"""What readers of pickles raise where a file is damaged."""


def load_checkpoint(path: Path, key: str = "network_weights") -> dict[str, Any]:
    """Read a checkpoint of nnU-Net on the CPU with torch's restricted unpickler.

    ``key`` is where its weights must be: ``network_weights`` in v2, ``state_dict`` in v1. Raises
    InputMissing when the file is not there, UnusableData when it is damaged or holds anything but
    tensors and plain values.
    """
    try:
        with torch.serialization.safe_globals(list(_HARMLESS)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputMissing(f"The weights {path} are not there: install the model again.") from error
    except pickle.UnpicklingError as error:
        raise UnusableData(
            f"The weights {path} hold more than tensors and plain values, so they were not loaded: "
            "get them from a source you trust."
        ) from error
    except (*_DAMAGE, RuntimeError) as error:
        raise UnusableData(f"The weights {path} are damaged: install the model again.") from error
    weights = checkpoint.get(key) if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise UnusableData(f"{path} is no checkpoint of nnU-Net: it has no '{key}'.")
    return checkpoint


def save_checkpoint(path: Path, content: dict[str, Any]) -> Path:
    """Write a checkpoint, whole or not at all, its folder made; equal content gives equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file that torch opens by its name keeps that name inside: here a temporary one.
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)
    return path


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """What pickles of an old protocol call to make bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _empty_array(*_: Any) -> np.ndarray:
    """An array for ``__setstate__`` to fill, whatever class and shape the pickle names."""
    return np.empty(0)


def _number_type(text: str, *_: Any) -> np.dtype:
    """A type of numbers, text or plain objects; no record, which could overlay memory."""
    kind: np.dtype = np.dtype(text, copy=True)
    if kind.names or kind.subdtype or kind.kind not in "biufcSUO":
        raise pickle.UnpicklingError(f"arrays of {text}")
    return kind


def _array_scalar(kind: np.dtype, raw: bytes) -> Any:
    return np.frombuffer(raw, dtype=kind)[0]


def _from_buffer(raw: bytes, kind: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(raw, dtype=kind).reshape(shape, order="F" if order == "F" else "C")


_PLAIN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("builtins", "bytes"): _no_bytes,
    ("_codecs", "encode"): _latin1,
    ("numpy", "ndarray"): "the class of arrays, which is named and never called",
    ("numpy", "dtype"): _number_type,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): _array_scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
}
_RENAMED = {"__builtin__": "builtins"}  # by Python 3; NumPy 2 moved numpy.core


class _PlainUnpickler(pickle._Unpickler):
    """Knows plain values, arrays and ordered dictionaries; anything else ends the reading.

    The pickle machine of pure Python is used, because it lets the setting of states be checked.
    """

    def find_class(self, module: str, name: str) -> Any:
        """The harmless maker of a class that the pickle names."""
        place = _RENAMED.get(module, module.replace("numpy._core.", "numpy.core."))
        try:
            return _PLAIN[place, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        """Refuse: there is nothing outside the file."""
        raise pickle.UnpicklingError("a persistent object")

    def load_build(self) -> None:
        """Set the state of an array or of its type, where it is one of plain numbers."""
        instance, state = self.stack[-2], self.stack[-1]  # type: ignore[attr-defined]
        if not _is_plain_state(instance, state):
            raise pickle.UnpicklingError(f"a state of {type(instance).__name__}")
        super().load_build()  # type: ignore[misc]

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}  # type: ignore[dict-item]


def _is_plain_state(instance: Any, state: Any) -> bool:
    if isinstance(instance, np.dtype):
        return isinstance(state, tuple) and len(state) == 8 and state[2:5] == (None, None, None)
    if isinstance(instance, np.ndarray):
        kind = state[2] if isinstance(state, tuple) and len(state) == 5 else None
        return isinstance(kind, np.dtype) and not kind.names and not kind.subdtype
    return False


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle that holds only plain values and arrays of numbers, and runs no code.

    Raises InputMissing when the file is not there, UnusableData when it is damaged or asks for
    anything else, by name.
    """
    try:
        if path.stat().st_size > _LARGEST_PICKLE:
            raise UnusableData(f"{path} is too large for plans of nnU-Net: it was not read.")
        with path.open("rb") as stream:
            return _PlainUnpickler(stream).load()
    except FileNotFoundError as error:
        raise InputMissing(f"There is no {path}: copy the whole model folder.") from error
    except pickle.UnpicklingError as error:
        asked = str(error)[:80]  # the file's own words
        raise UnusableData(
            f"{path} asks for {asked}, which is more than plain values, so it was not read: get it "
            "from a source you trust."
        ) from error
    except (*_DAMAGE, MemoryError, RecursionError) as error:
        raise UnusableData(f"{path} is damaged: copy the model again.") from error


def canonical(name: str) -> str:
    """The one name of a layer that nnU-Net v2 keeps under several.

    ``decoder.encoder.*`` repeats the encoder, ``all_modules.0`` and ``all_modules.1`` repeat the
    convolution and the norm of a block.
    """
    name = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
    name = re.sub(r"\.all_modules\.0\.", ".conv.", name)
    return re.sub(r"\.all_modules\.\d+\.", ".norm.", name)


def canonical_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State with every layer once, under its canonical name."""
    return {canonical(name): tensor for name, tensor in state.items()}


def with_aliases(
    state: Mapping[str, torch.Tensor], names: Iterable[str]
) -> dict[str, torch.Tensor]:
    """Canonical state under all ``names``; aliases share one tensor, so a file holds it once."""
    return {name: state[canonical(name)] for name in names}
