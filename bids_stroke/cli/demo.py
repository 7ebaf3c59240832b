"""``bids_stroke-demo``: write a demonstration dataset with known lesions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bids_stroke import __version__
from bids_stroke.core.processes import reuse_memory
from bids_stroke.errors import BidsStrokeError, CannotCreate

_FULL_MM, _TINY_MM = 1.0, 3.0


def _parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog="bids_stroke-demo",
        description="Write a BIDS dataset of seven synthetic heads with known stroke lesions: "
        "T1w + FLAIR, two sessions, T1w alone, FLAIR alone, a lesion-free head, an oblique and a "
        "flipped scan. The true lesions are in DIR/derivatives/truth.",
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="new or empty folder")
    parser.add_argument(
        "--seed", type=_seed, default=0, help="number that all variation follows from (default: 0)"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="voxels of 3 mm and more: made in seconds, for tests"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier demonstration dataset in DIR"
    )
    parser.add_argument("--version", action="version", version=f"bids_stroke {__version__}")
    return parser


def _seed(text: str) -> int:
    """Parse a seed: a whole number that is not negative."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _prepare(directory: Path, overwrite: bool) -> None:
    """Make sure that the folder is free to write into, or raise CannotCreate."""
    from bids_stroke.bids.demo import remove_demo

    if directory.exists() and not directory.is_dir():
        raise CannotCreate(f"{directory} is a file: name a new or empty folder.")
    if not directory.is_dir() or not any(directory.iterdir()):
        return
    if not overwrite:
        raise CannotCreate(
            f"{directory} is not empty: name a new folder, or add --overwrite if it holds an "
            "earlier demonstration dataset."
        )
    remove_demo(directory)


def _write(options: argparse.Namespace) -> None:
    """Write the dataset and say what is done."""
    from bids_stroke.bids.demo import write_demo

    voxel_mm = _TINY_MM if options.tiny else _FULL_MM
    try:
        _prepare(options.directory, options.overwrite)
        for line in write_demo(options.directory, seed=options.seed, voxel_mm=voxel_mm):
            print(line, flush=True)
    except OSError as error:
        raise CannotCreate(f"{options.directory} can't be written: {error}.") from error
    print(f"Wrote {options.directory} (true lesions: {options.directory}/derivatives/truth)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``bids_stroke-demo`` and return its exit code."""
    options = _parser().parse_args(argv)
    reuse_memory()
    try:
        _write(options)
    except BidsStrokeError as error:
        print(f"bids_stroke-demo: {error}", file=sys.stderr)
        return error.exit_code
    return 0
