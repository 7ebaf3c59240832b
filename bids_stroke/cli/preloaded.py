"""Importing this module imports what most steps of a run need.

The process does so that workers are forked from: they share the modules, and load none themselves.
A part that is missing or broken is left to the step that needs it, which says so. Workers wait for
all of it: what only figures need is left to them, for which nothing else waits.
"""

import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

PARTS = (
    "nipype.pipeline.engine",
    "bids_stroke.interfaces.bids",
    "scipy.ndimage",
    "deepbet",
    "bids_stroke.models.brain",
    "bids_stroke.models.predictor",
    "ants",
)
UNUSED = ("ants.learn", "ants.math", "ants.plotting", "ants.deeplearn")
"""Parts of ANTs whose functions no step of ours calls: they bring statsmodels, scikit-learn,
``scipy.stats`` and pyplot, and more than half of the time that ANTs takes to load."""


def postpone(package: str, parts: Sequence[str]) -> None:
    """Have parts of a package imported when something in one of them is first used.

    The package must not be loaded yet; when it is, ``find_postponed`` shows it what they hold.
    """
    whole = find_spec(package) if package not in sys.modules else None
    if whole is not None:
        folders = whole.submodule_search_locations or []
        sys.modules.update({part: _stand_in(part, folders) for part in parts})


def _stand_in(name: str, folders: Sequence[str]) -> ModuleType:
    """A module that is replaced by the real one when something in it is looked for."""

    def use(attribute: str) -> Any:
        if attribute.startswith("__"):  # asked by those who look through all modules
            raise AttributeError(attribute)
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(import_module(name), attribute)

    stand_in = ModuleType(name)
    stand_in.__spec__ = ModuleSpec(name, None)
    inside = name.split(".")[1:]  # so that modules of the part are found as ever
    stand_in.__path__ = [str(Path(folder, *inside)) for folder in folders]
    vars(stand_in)["__getattr__"] = use
    return stand_in


def find_postponed(package: str, parts: Sequence[str]) -> None:
    """Have what a loaded package would have taken from postponed parts found there when asked."""

    def use(attribute: str) -> Any:
        for part in parts if not attribute.startswith("__") else ():
            with suppress(AttributeError):
                return getattr(sys.modules[part], attribute)
        raise AttributeError(f"module {package!r} has no attribute {attribute!r}")

    if (module := sys.modules.get(package)) is not None:
        vars(module).update({part.rpartition(".")[2]: sys.modules[part] for part in parts})
        vars(module)["__getattr__"] = use


postpone("ants", UNUSED)
for part in PARTS:
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module(part)
find_postponed("ants", UNUSED)
