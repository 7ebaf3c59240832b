"""Weights are untrusted input: they are read as plain tensors, never as code."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

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


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of nnU-Net v2 on the CPU with torch's restricted unpickler.

    Raises InputMissing when the file is not there, UnusableData when it is damaged or holds
    anything but tensors and plain values.
    """
    try:
        with torch.serialization.safe_globals(list(_HARMLESS)):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputMissing(f"The weights {path} are not there: install the model again.") from error
    except pickle.UnpicklingError as error:
        raise UnusableData(
            f"The weights {path} hold more than tensors and plain values, so they were not loaded: "
            "get them from a source you trust."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise UnusableData(f"The weights {path} are damaged: install the model again.") from error
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint:
        raise UnusableData(f"{path} is no checkpoint of nnU-Net v2: it has no 'network_weights'.")
    return checkpoint
