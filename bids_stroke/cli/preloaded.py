"""Importing this module imports what most steps of a run need.

The process does so that workers are forked from: they share the modules, and load none themselves.
A part that is missing or broken is left to the step that needs it, which says so. Workers wait for
all of it: what only figures need is left to them, for which nothing else waits.
"""

import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
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
UNUSED = ("statsmodels", "statsmodels.api", "statsmodels.formula", "statsmodels.formula.api")
"""ANTs imports them for functions that no step of ours calls; without them it loads in half the
time."""


def postpone(names: Sequence[str]) -> None:
    """Have a package and its modules imported when something in one of them is first used."""
    whole = find_spec(names[0]) if names[0] not in sys.modules else None
    if whole is None or not whole.submodule_search_locations:
        return
    stand_ins = {name: ModuleType(name) for name in names}

    def use(name: str, attribute: str) -> Any:
        if attribute.startswith("__"):  # asked by those who look through all modules
            raise AttributeError(attribute)
        for own, stand_in in stand_ins.items():
            if sys.modules.get(own) is stand_in:
                del sys.modules[own]
        return getattr(import_module(name), attribute)

    for name, stand_in in stand_ins.items():
        stand_in.__spec__ = ModuleSpec(name, None)
        vars(stand_in)["__getattr__"] = partial(use, name)
        inside = name.split(".")[1:]  # so that other modules of the package are found as ever
        stand_in.__path__ = [
            str(Path(folder, *inside)) for folder in whole.submodule_search_locations
        ]
        package, _, own = name.rpartition(".")
        if package:
            setattr(stand_ins[package], own, stand_in)
    sys.modules.update(stand_ins)


postpone(UNUSED)
for part in PARTS:
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module(part)
