"""Importing this module imports what the steps of a run need.

The process does so that workers are forked from: they share the modules, and load none themselves.
A part that is missing or broken is left to the step that needs it, which says so.
"""

import warnings
from contextlib import suppress
from importlib import import_module

PARTS = (
    "nipype.pipeline.engine",
    "bids_stroke.interfaces.bids",
    "scipy.ndimage",
    "deepbet",
    "bids_stroke.models.brain",
    "bids_stroke.models.predictor",
    "bids_stroke.core.figures",
    "ants",
)

for part in PARTS:
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module(part)
