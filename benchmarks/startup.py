"""How long the program takes before it does anything: help, version, and the plan of a run.

    python benchmarks/startup.py [--quick] [--repeats N]

Beside ours stand an empty Python process (the floor), the import of nipype, and that of torch,
which a program that imports everything at its start pays each time. The last line is one JSON
object.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from measuring import bids_stroke, finish, print_table, run_python, taking_turns, touch_dataset

HEAVY = ("nipype", "torch", "nnunetv2", "ants", "bids", "nibabel")
LOADED = (
    "import sys; from bids_stroke.cli.run import main; main(['--version']); "
    f"print([name for name in {HEAVY!r} if name in sys.modules])"
)


def runners(dataset: Path, folder: Path) -> dict[str, Callable[[], Any]]:
    """What is compared."""
    plan = [dataset, folder / "out", "participant", "--dry-run", "-w", folder / "work"]
    return {
        "python, empty": partial(run_python, ["-c", "pass"]),
        "--version": partial(bids_stroke, ["--version"]),
        "--help": partial(bids_stroke, ["--help"]),
        "--dry-run, 10 sessions": partial(bids_stroke, plan),
        "import nipype": partial(run_python, ["-c", "import nipype.pipeline.engine"]),
        "import torch": partial(run_python, ["-c", "import torch"]),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="once each")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        dataset = touch_dataset(Path(folder) / "bids", 10)
        costs = taking_turns(runners(dataset, Path(folder)), 1 if asked.quick else asked.repeats)
    print_table([{"start": name, **cost} for name, cost in costs.items()])
    loaded = run_python(["-c", LOADED]).splitlines()[-1]
    print(f"\nLoaded by --version of {', '.join(HEAVY)}: {loaded}\n")
    finish({"starts": costs, "heavy_imports_of_version": loaded})
    return 0 if loaded == "[]" else 1


if __name__ == "__main__":
    sys.exit(main())
