"""Tissues of a T1w by Atropos, begun by a template's maps."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from bids_stroke.core.tissue_features import Tissues
from bids_stroke.interfaces.ants import reproducible, to_ants

FLOOR = 0.01
"""Added to each prior: what lies outside the template's brain has none, and may become any."""


@contextmanager
def _temporary_files_removed() -> Iterator[None]:
    """ANTsPy leaves the priors that it hands to Atropos where temporary files go."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def segment_tissues(
    t1w: np.ndarray,
    brain: np.ndarray,
    affine: np.ndarray,
    start: Tissues,
    *,
    prior_weight: float,
    seed: int = 1,
) -> Tissues:
    """CSF, grey and white matter of a brain (Atropos, Avants et al. 2011); 0 outside it.

    All arrays [x, y, z] on one grid. ``start`` holds the template's probabilities, with which the
    three classes begin; ``prior_weight`` (0 to 1) is what they weigh afterwards. The classes are
    told apart by their mean intensity, which rises from CSF to white matter.
    """
    maps = [np.where(brain, m + FLOOR, 0) for m in (start.csf, start.grey, start.white)]
    total = np.maximum(sum(maps), 1e-6)
    with _temporary_files_removed(), reproducible(seed):
        import ants

        result = ants.atropos(
            to_ants(np.where(brain, t1w, 0), affine),
            to_ants(brain, affine),
            i=[to_ants(m / total, affine) for m in maps],
            m="[0.1,1x1x1]",
            c="[10,0.0001]",
            priorweight=prior_weight,
        )
        found = [m.numpy() for m in result["probabilityimages"]]
    order = np.argsort([np.average(t1w, weights=m + 1e-9) for m in found])
    return Tissues(*(np.where(brain, found[i], 0).astype(np.float32) for i in order))
