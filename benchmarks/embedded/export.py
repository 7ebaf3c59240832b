"""Write a run's averaged weights as the package's embedded model, and its files' checksums."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from make import network_of

from bids_stroke import data
from bids_stroke.core.files import sha256, write_text
from bids_stroke.models.recipe import load
from bids_stroke.models.training import export

_FILES = re.compile(r"(\[\[files\]\]\n(?:[^\[\n][^\n]*\n)+\n?)+")


def files_table(files: list[Path], root: Path) -> str:
    """``[[files]]`` tables of a descriptor."""
    return "".join(
        f'[[files]]\npath = "{file.relative_to(root).as_posix()}"\n'
        f'sha256 = "{sha256(file)}"\nsize = {file.stat().st_size}\n\n'
        for file in files
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the training run")
    parser.add_argument("--recipe", type=Path, default=data.path("recipes", "embedded.toml"))
    parser.add_argument("--models", type=Path, default=data.path("models"))
    args = parser.parse_args()
    recipe = load(args.recipe)
    state = torch.load(args.run / "checkpoint.pth", map_location="cpu", weights_only=True)
    files = export(
        args.models / "embedded",
        network_of(recipe),
        state["average"],
        name="Dataset001_EmbeddedStroke",
        samples=state["iteration"] * (recipe.plan.batch_size or 2),
    )
    descriptor = args.models / "embedded.toml"
    text = descriptor.read_text(encoding="utf-8")
    new, count = _FILES.subn(files_table(files, args.models), text, count=1)
    if count != 1:
        raise SystemExit(f"{descriptor} has no [[files]] tables to renew.")
    write_text(descriptor, new)
    print(f"iteration {state['iteration']}, {files[0].stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
