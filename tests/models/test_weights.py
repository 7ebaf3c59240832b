"""Weights: read as tensors, never as code."""

import codecs
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from bids_stroke.errors import InputMissing, UnusableData
from bids_stroke.models.weights import (
    canonical,
    canonical_state,
    load_checkpoint,
    load_plain_pickle,
    save_checkpoint,
    with_aliases,
)
from tests.tiny_model import write_model

TENSORS = {"a": torch.arange(3.0)}


def test_reads_a_checkpoint_of_nnunet(tmp_path: Path) -> None:
    log = {"mean": [np.float64(0.5)], "best": np.float32(1), "epoch": np.int64(3)}
    torch.save({"network_weights": TENSORS, "logging": log}, tmp_path / "c.pth")
    read = load_checkpoint(tmp_path / "c.pth")
    assert torch.equal(read["network_weights"]["a"], TENSORS["a"])
    assert read["logging"]["best"] == 1


def test_equal_checkpoints_are_equal_files_and_are_read_again(tmp_path: Path) -> None:
    content = {"network_weights": TENSORS, "trainer_name": "nnUNetTrainer"}
    one, other = (save_checkpoint(tmp_path / f / "c.pth", content) for f in ("fold_0", "fold_1"))
    assert one.read_bytes() == other.read_bytes()
    assert torch.equal(load_checkpoint(other)["network_weights"]["a"], TENSORS["a"])
    assert {path.name for path in tmp_path.rglob("*.*")} == {"c.pth"}


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile-was-here",)


def test_refuses_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"network_weights": TENSORS, "x": Hostile()}, tmp_path / "c.pth")
    with pytest.raises(UnusableData, match="more than tensors"):
        load_checkpoint(tmp_path / "c.pth")
    assert not (tmp_path / "hostile-was-here").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_in_place_of_weights_is_refused_in_one_sentence(
    tmp_path: Path, protocol: int
) -> None:
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Hostile(), protocol=protocol))
    with pytest.raises(UnusableData, match="hold more than tensors|are damaged"):
        load_checkpoint(tmp_path / "c.pth")


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


def plain() -> dict:
    return {
        "modalities": OrderedDict([(0, "flair"), (1, "t1")]),
        "matrix": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "number": np.float64(3.5),
        "flag": np.bool_(True),
        "words": np.array(["ab", "c"]),
        "mixed": np.array([1, "a", None], dtype=object),
        "set": {1, 2},
        "bytes": b"\xff\x00",
        "nothing": b"",
        "complex": 1 + 2j,
        "nested": [(1, [np.int64(3)])],
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_are_read_whole(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "plans.pkl"
    path.write_bytes(pickle.dumps(plain(), protocol=protocol))
    read = load_plain_pickle(path)
    expected = plain()
    assert list(read) == list(expected)
    for key, value in expected.items():
        assert type(read[key]) is type(value)
        if isinstance(value, np.ndarray):
            assert read[key].dtype == value.dtype
            assert np.array_equal(read[key], value)
        else:
            assert read[key] == value


def test_pickles_of_numpy_1_are_read(tmp_path: Path) -> None:
    content = pickle.dumps(plain(), protocol=3)
    assert content.count(b"numpy._core.") > 0
    (tmp_path / "old.pkl").write_bytes(content.replace(b"numpy._core.", b"numpy.core."))
    assert np.array_equal(load_plain_pickle(tmp_path / "old.pkl")["matrix"], plain()["matrix"])


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "hostile",
    [
        Calls(os.system, "touch hostile-was-here"),
        Calls(eval, "open('hostile-was-here', 'w')"),
        Calls(getattr, "x", "upper"),
        Calls(np.fromfile, "/etc/hostname"),
        Calls(bytes, 10**10),
        Calls(bytearray, 10**10),
        Calls(codecs.encode, "abc", "rot13"),
        Calls(np.ndarray, (10**9,)),
        Calls(np.dtype, [("a", "f8"), ("b", "O")]),
        Calls(np.dtype, "V8"),
        Path("x"),
        torch.zeros(2),
    ],
    ids=lambda h: getattr(h, "call", (type(h),))[0].__name__,
)
def test_pickles_that_call_something_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: object
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "plans.pkl"
    path.write_bytes(pickle.dumps({"plans": [hostile]}))
    with pytest.raises(UnusableData, match=r"plans\.pkl"):
        load_plain_pickle(path)
    assert not (tmp_path / "hostile-was-here").exists()


def test_a_state_of_a_type_can_not_be_smuggled_in(tmp_path: Path) -> None:
    content = pickle.dumps(np.array([1.0]), protocol=2)
    assert content.count(b"NNNJ\xff\xff\xff\xff") == 1
    fields = pickle.dumps(("a",), protocol=2)[2:-1]  # names where there were none
    path = tmp_path / "plans.pkl"
    path.write_bytes(
        content.replace(b"NNNJ\xff\xff\xff\xff", b"N" + fields + b"NJ\xff\xff\xff\xff")
    )
    with pytest.raises(UnusableData, match="a state of"):
        load_plain_pickle(path)


def test_a_state_is_only_for_arrays(tmp_path: Path) -> None:
    path = tmp_path / "plans.pkl"
    path.write_bytes(b"\x80\x02ccollections\nOrderedDict\n)R}U\x05__x__K\x01sb.")
    with pytest.raises(UnusableData, match="a state of OrderedDict"):
        load_plain_pickle(path)


def test_damaged_and_absent_pickles(tmp_path: Path) -> None:
    path = tmp_path / "plans.pkl"
    with pytest.raises(InputMissing, match=r"plans\.pkl"):
        load_plain_pickle(path)
    whole = pickle.dumps(plain())
    for content in (b"", b"no pickle", whole[: len(whole) // 2], b"\x80\x02P0\n.", b"0.", b"]" * 9):
        path.write_bytes(content)
        with pytest.raises(UnusableData, match=r"plans\.pkl"):
            load_plain_pickle(path)


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "plans.pkl"
    with path.open("wb") as stream:
        stream.truncate(300_000_000)  # a sparse file
    with pytest.raises(UnusableData, match="too large"):
        load_plain_pickle(path)


def test_weights_of_v1_are_looked_for_by_their_key(tmp_path: Path) -> None:
    torch.save({"state_dict": TENSORS, "epoch": 3}, tmp_path / "c.model")
    assert torch.equal(
        load_checkpoint(tmp_path / "c.model", "state_dict")["state_dict"]["a"], TENSORS["a"]
    )
    with pytest.raises(UnusableData, match="network_weights"):
        load_checkpoint(tmp_path / "c.model")
    torch.save({"state_dict": {"a": "no tensor"}}, tmp_path / "c.model")
    with pytest.raises(UnusableData, match="state_dict"):
        load_checkpoint(tmp_path / "c.model", "state_dict")


def test_every_alias_of_nnunet_has_one_canonical_name(tmp_path: Path) -> None:
    path = write_model(tmp_path).parent / "tiny" / "fold_0" / "checkpoint_final.pth"
    state = load_checkpoint(path)["network_weights"]
    names = {name: canonical(name) for name in state}
    by_place = {t.data_ptr(): names[n] for n, t in state.items()}
    assert len(by_place) == len(set(names.values())) < len(state)
    assert all(by_place[t.data_ptr()] == names[n] for n, t in state.items())
    again = with_aliases(canonical_state(state), state)
    assert list(again) == list(state)
    assert all(torch.equal(again[n], t) for n, t in state.items())
