"""The programs of ``benchmarks`` as modules."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


@contextmanager
def imported(script: Path) -> Iterator[ModuleType]:
    """A program as a module; until the end of the block it finds the programs beside it."""
    sys.path.insert(0, str(script.parent))
    try:
        yield importlib.import_module(script.stem)
    finally:
        sys.path.remove(str(script.parent))
