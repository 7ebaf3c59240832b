"""Write a run's averaged weights as the package's model of the recipe's name, with checksums.

``--blend`` takes the mean of them and of earlier ones (Wortsman et al. 2022, WiSE-FT):
fine-tuned weights that have grown too careful get back what they lost, and keep what they learnt.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from make import network_of

from bids_stroke import data
from bids_stroke.core.files import sha256, write_text
from bids_stroke.models.recipe import load
from bids_stroke.models.training import export, final_weights

_FILES = re.compile(r"(\[\[files\]\]\n(?:[^\[\n][^\n]*\n)+\n?)+")


def files_table(files: list[Path], root: Path) -> str:
    """``[[files]]`` tables of a descriptor."""
    return "".join(
        f'[[files]]\npath = "{file.relative_to(root).as_posix()}"\n'
        f'sha256 = "{sha256(file)}"\nsize = {file.stat().st_size}\n\n'
        for file in files
    )


def blended(
    weights: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """``share`` of the weights and the rest of the other ones; names of one tensor stay so."""
    means: dict[int, torch.Tensor] = {}
    for name, tensor in weights.items():
        means.setdefault(tensor.data_ptr(), torch.lerp(other[name].to(tensor), tensor, share))
    return {name: means[tensor.data_ptr()] for name, tensor in weights.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the training run")
    parser.add_argument("--recipe", type=Path, default=data.path("recipes", "embedded.toml"))
    parser.add_argument("--models", type=Path, default=data.path("models"))
    parser.add_argument("--blend", type=Path, help="checkpoint of an earlier run or of a model")
    parser.add_argument("--share", type=float, default=0.5, help="share of the run when blended")
    args = parser.parse_args()
    recipe = load(args.recipe)
    recipe = recipe.of_stage(recipe.stages[-1])
    state = torch.load(args.run / "checkpoint.pth", map_location="cpu", weights_only=True)
    iteration, weights = state["iteration"], state["average"]
    if args.blend:
        weights = blended(weights, final_weights(args.blend), args.share)
    name = args.recipe.stem
    files = export(
        args.models / name,
        network_of(recipe),
        weights,
        name="Dataset001_EmbeddedStroke",
        samples=iteration * (recipe.plan.batch_size or 2),
    )
    descriptor = args.models / f"{name}.toml"
    text = descriptor.read_text(encoding="utf-8")
    new, count = _FILES.subn(files_table(files, args.models), text, count=1)
    if count != 1:
        raise SystemExit(f"{descriptor} has no [[files]] tables to renew.")
    write_text(descriptor, new)
    print(f"iteration {iteration}, {files[0].stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
