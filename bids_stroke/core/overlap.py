"""How many people have a lesion at each place of a template, and a picture of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from bids_stroke.core import mosaic
from bids_stroke.core.geometry import to_ras
from bids_stroke.core.mosaic import Row, View

Array = NDArray[Any]

COLOURS = "inferno"
_DARKEST, _LIGHTEST = 0.3, 0.9  # of the colour scale: all must show on a grey brain


def overlap(masks: Iterable[Array], shape: tuple[int, int, int]) -> NDArray[np.uint16]:
    """Number of masks [x, y, z] (non-zero is lesion) at each voxel, taken one at a time.

    Raises ValueError for a mask of another shape.
    """
    total = np.zeros(shape, np.uint16)
    for mask in masks:
        if mask.shape != shape:
            raise ValueError(f"A mask has the shape {mask.shape}, not {shape}.")
        total += mask > 0
    return total


def peak(counts: Array) -> tuple[int, int, int]:
    """The voxel that most people share; of several as shared, the one next to their centre."""
    shared = np.argwhere(counts == counts.max())
    nearest = np.linalg.norm(shared - shared.mean(axis=0), axis=1).argmin()
    x, y, z = shared[nearest]
    return int(x), int(y), int(z)


def _painted(background: Array, counts: Array, view: View, plane: str, index: int) -> Array:
    """RGB panel: grey anatomy, and colours where at least one person has a lesion."""
    window = mosaic.intensity_window(background)
    base = mosaic.rgb(mosaic.grey(background, view, plane, index, window))
    piece = mosaic.enlarge(mosaic.cut(counts, view, plane, index), view.pixels(plane), order=0)
    most = max(int(counts.max(initial=0)), 2)
    share = _DARKEST + (_LIGHTEST - _DARKEST) * (piece - 1) / (most - 1)
    colours = mpl.colormaps[COLOURS](share)[..., :3]
    return np.where(piece[..., None] >= 1, colours, base).astype(np.float32)


def overlap_figure(background: Array, counts: Array, affine: Array, path: Path) -> Path:
    """Twelve axial slices of counts over an anatomy, two coronal and two sagittal ones.

    One of each of these goes through the place that most people share.

    ``background`` and ``counts`` are [x, y, z] on the grid of ``affine`` (RAS+ mm). Radiological
    convention: the patient's left is on the right of axial and coronal panels.
    """
    background, ras = to_ras(background, affine)
    counts, _ = to_ras(counts, affine)
    shown = mosaic.not_dark(background)
    view = mosaic.view_of(ras, shown).fitted(mosaic.MIXED)
    axial = [("axial", i) for i in mosaic.spread(shown, "axial", 12, trim=0.1)]
    through = peak(counts) if counts.any() else [n // 2 for n in counts.shape]
    others = [
        (plane, sorted([through[mosaic.AXIS[plane]], mosaic.spread(shown, plane, 2, 0.3)[0]]))
        for plane in ("coronal", "sagittal")
    ]
    last = [(plane, index) for plane, indices in others for index in indices]
    rows = [axial[:4], axial[4:8], axial[8:], last]
    return mosaic.draw([_row(background, counts, view, row) for row in rows], view, path)


def _row(background: Array, counts: Array, view: View, slices: list[tuple[str, int]]) -> Row:
    panels = (
        mosaic.slice_panel(_painted(background, counts, view, plane, index), view, plane, index)
        for plane, index in slices
    )
    return Row(tuple(panels))


def scale_colours(steps: int = 6) -> list[str]:
    """The colour scale, ``#rrggbb`` at equal steps from one person to the most at one place."""
    shares = np.linspace(_DARKEST, _LIGHTEST, steps)
    return [mpl.colors.to_hex(mpl.colormaps[COLOURS](share)) for share in shares]
