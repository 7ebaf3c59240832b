"""Weights: read as tensors, never as code."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bids_stroke.errors import InputMissing, UnusableData
from bids_stroke.models.weights import load_checkpoint

TENSORS = {"a": torch.arange(3.0)}


def test_reads_a_checkpoint_of_nnunet(tmp_path: Path) -> None:
    log = {"mean": [np.float64(0.5)], "best": np.float32(1), "epoch": np.int64(3)}
    torch.save({"network_weights": TENSORS, "logging": log}, tmp_path / "c.pth")
    read = load_checkpoint(tmp_path / "c.pth")
    assert torch.equal(read["network_weights"]["a"], TENSORS["a"])
    assert read["logging"]["best"] == 1


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile-was-here",)


def test_refuses_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"network_weights": TENSORS, "x": Hostile()}, tmp_path / "c.pth")
    with pytest.raises(UnusableData, match="more than tensors"):
        load_checkpoint(tmp_path / "c.pth")
    assert not (tmp_path / "hostile-was-here").exists()


def test_refuses_what_is_damaged_missing_or_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"network_weights": TENSORS}, tmp_path / "c.pth")
    whole = (tmp_path / "c.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnusableData, match=r"half\.pth"):
        load_checkpoint(tmp_path / "half.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(UnusableData, match=r"empty\.pth"):
        load_checkpoint(tmp_path / "empty.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(UnusableData, match="network_weights"):
        load_checkpoint(tmp_path / "list.pth")
    with pytest.raises(InputMissing, match=r"none\.pth"):
        load_checkpoint(tmp_path / "none.pth")
