"""Ways in which a model is wrong: what is done to a good one, and what has to be said about it.

``CHANGED`` models differ from their checksums, which is seen before anything is computed.
``UNPINNED`` ones have no checksums, so that only who reads them can find out.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Change = Callable[[Path], object]
"""Spoils a folder that has ``tiny.toml`` and the model's folder ``tiny``."""

WEIGHTS = "tiny/fold_0/checkpoint_final.pth"


class Hostile:
    """A pickle of it would make a file when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch hostile-was-here",)


def content(name: str, change: Callable[[bytes], bytes]) -> Change:
    """Change the bytes of a file."""
    return lambda root: (root / name).write_bytes(change((root / name).read_bytes()))


def plans(change: Callable[[Any], object]) -> Change:
    """Change the plans in place; what is returned and not None takes their place."""

    def spoil(root: Path) -> None:
        path = root / "tiny" / "plans.json"
        table = json.loads(path.read_text())
        changed = change(table)
        path.write_text(json.dumps(table if changed is None else changed))

    return spoil


def architecture(key: str, value: object) -> Change:
    """Change one argument of the network."""
    return plans(
        lambda p: p["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(
            {key: value}
        )
    )


def checkpoint(change: Callable[[Any], object]) -> Change:
    """Change the checkpoint in place; what is returned and not None takes its place."""

    def spoil(root: Path) -> None:
        read = torch.load(root / WEIGHTS, weights_only=True)
        changed = change(read)
        torch.save(read if changed is None else changed, root / WEIGHTS)

    return spoil


def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Change every tensor."""
    return checkpoint(
        lambda c: c.update(network_weights={k: change(v) for k, v in c["network_weights"].items()})
    )


def flip(raw: bytes) -> bytes:
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]


def remove_folder(root: Path) -> None:
    (root / "tiny").rename(root / "elsewhere")


CHANGED: dict[str, tuple[Change, int, str]] = {
    "weights are cut": (content(WEIGHTS, lambda b: b[:-9]), 65, "bytes long"),
    "one bit differs": (content(WEIGHTS, flip), 65, "differs from its SHA-256"),
    "weights are missing": (lambda r: (r / WEIGHTS).unlink(), 66, "lacks its file"),
    "plans were edited": (content("tiny/plans.json", lambda b: b + b" "), 65, "bytes long"),
    "folder is missing": (remove_folder, 66, "lacks its folder"),
}
"""What was done -> change, exit code, words of the sentence."""

UNPINNED: dict[str, tuple[Change, str]] = {
    "weights are empty": (content(WEIGHTS, lambda b: b""), "are damaged"),
    "weights are cut": (content(WEIGHTS, lambda b: b[: len(b) // 2]), "are damaged"),
    "weights are text": (content(WEIGHTS, lambda b: b"weights"), "weights"),
    "weights call something": (
        checkpoint(lambda c: c.update(x=Hostile())),
        "more than tensors and plain values",
    ),
    "weights are a list": (checkpoint(lambda c: [1]), "is no checkpoint of nnU-Net"),
    "weights are words": (
        checkpoint(lambda c: c.update(network_weights={"a": "b"})),
        "is no checkpoint of nnU-Net",
    ),
    "weights of another shape": (weights(lambda w: w[..., None]), "don't fit the network"),
    "weights are NaN": (weights(lambda w: w * torch.nan), "give NaN"),
    "another configuration": (
        checkpoint(lambda c: c.update(init_args={"configuration": "4d"})),
        "4d",
    ),
    "no configuration": (checkpoint(lambda c: c.pop("init_args") and None), "init_args"),
    "no plans": (lambda r: (r / "tiny/plans.json").unlink(), "is no nnU-Net v2 model"),
    "plans are no JSON": (content("tiny/plans.json", lambda b: b[:-5]), "is no nnU-Net v2 model"),
    "plans are a list": (plans(lambda p: [p]), "plans.json"),
    "plans lack the network": (
        plans(lambda p: p["configurations"]["3d_fullres"].pop("architecture") and None),
        "plans.json",
    ),
    "plans lack an argument": (
        plans(
            lambda p: (
                p["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].pop("strides")
                and None
            )
        ),
        "strides",
    ),
    "plans call something": (architecture("nonlin", "os.system"), "which is no network: refused"),
    "plans of other channels": (architecture("features_per_stage", [8, 8, 8]), "don't fit"),
    "another preprocessor": (
        plans(lambda p: p["configurations"]["3d_fullres"].update(preprocessor_name="Mine")),
        "asks for the preprocessor Mine",
    ),
    "no dataset.json": (lambda r: (r / "tiny/dataset.json").unlink(), "is no nnU-Net v2 model"),
    "dataset of one channel": (
        content("tiny/dataset.json", lambda b: b.replace(b'"1": "FLAIR"', b'"0": "T1w"', 1)),
        "don't fit the network",
    ),
    "dataset without channels": (
        content("tiny/dataset.json", lambda b: b.replace(b"channel_names", b"colours")),
        "channel_names",
    ),
}
"""What was done to a model without checksums -> change, words of the sentence."""


def unpin(descriptor: Path) -> None:
    """Take the checksums out of a descriptor."""
    text = descriptor.read_text()
    descriptor.write_text(text[: text.index("[[files]]")])
