"""Rows of slices, composed into one compact picture: views, panels, outlines, scale bar, letters.

Radiological convention: the patient's left is on the right of axial and coronal panels, anterior is
on the left of sagittal ones. Volumes come in RAS order; a panel has square pixels in mm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.measure import find_contours

from bids_stroke.core.files import atomic_path
from bids_stroke.core.geometry import bounding_box
from bids_stroke.core.palette import BACKGROUND, TEXT

MIXED = ("coronal", "coronal", "sagittal", "sagittal")  # the widest row of a mosaic
AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
WIDTH = 1320  # pixels of a whole picture
GAP, CAPTION, HEADING = 6, 30, 46
MIN_WIDTH = 640
MAX_BYTES, QUALITIES = 300_000, (78, 66, 54, 42)
SCALE_BAR_MM = 50

Array = NDArray[Any]
Window = tuple[float, float]


@dataclass(frozen=True)
class Outline:
    """A line around a mask; ``slices`` is the mask's slice as ``cut`` gives it."""

    slices: Array
    color: str
    width: float = 1.6
    dotted: bool = False


@dataclass(frozen=True)
class Panel:
    """One slice: pixels [row, column] in 0..1 (or RGB in the last axis), top row first."""

    pixels: NDArray[np.float32]
    plane: str
    caption: str = ""
    outlines: tuple[Outline, ...] = ()


@dataclass(frozen=True)
class Row:
    """Panels side by side, with a line of text above them; ``scale`` where it is one of its own."""

    panels: tuple[Panel, ...]
    heading: str = ""
    scale: float | None = None


@dataclass(frozen=True)
class View:
    """Geometry that all panels of a picture share, on arrays already in RAS order."""

    zooms: NDArray[np.float64]
    affine: NDArray[np.float64]
    box: tuple[slice, ...]
    scale: float = field(default=1.0)  # pixels per mm

    def size(self, plane: str) -> tuple[float, float]:
        """Height and width of a panel in mm."""
        extent = [(s.stop - s.start) * z for s, z in zip(self.box, self.zooms, strict=True)]
        a, b = (e for axis, e in enumerate(extent) if axis != AXIS[plane])
        return b, a

    def pixels(self, plane: str) -> tuple[int, int]:
        """Height and width of a panel in pixels."""
        height, width = self.size(plane)
        return max(round(height * self.scale), 1), max(round(width * self.scale), 1)

    def fitted(self, planes: Sequence[str], width: int = WIDTH) -> "View":
        """The same view, scaled so that one row of ``planes`` fills ``width`` pixels."""
        total = sum(self.size(plane)[1] for plane in planes)
        scale = (width - GAP * (len(planes) + 1)) / total
        return View(self.zooms, self.affine, self.box, scale)

    def millimetres(self, plane: str, index: int) -> float:
        """RAS+ coordinate of a slice through the middle of the box, along the plane's axis."""
        middle = np.array([(s.start + s.stop - 1) / 2 for s in self.box])
        middle[AXIS[plane]] = index
        return float((self.affine[:3, :3] @ middle + self.affine[:3, 3])[AXIS[plane]])


def view_of(affine: NDArray[np.floating], shown: Array, margin_mm: float = 4.0) -> View:
    """View on the bounding box of ``shown`` (RAS order); the whole volume where it is empty."""
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    margin = np.ceil(margin_mm / zooms).astype(int)
    whole = tuple(slice(0, n) for n in shown.shape)
    box = bounding_box(shown, margin.tolist()) if shown.any() else whole
    return View(zooms, np.asarray(affine, float), box)


def cut(volume: Array, view: View, plane: str, index: int) -> Array:
    """Slice of a RAS volume as it is looked at: superior (or anterior) up, patient's right left."""
    ranges = list(view.box)
    ranges[AXIS[plane]] = slice(index, index + 1)
    piece = volume[tuple(ranges)].squeeze(AXIS[plane])
    return piece.T[::-1, ::-1]


def enlarge(piece: Array, size: tuple[int, int], order: int = 1) -> NDArray[np.float32]:
    """Interpolate a slice to ``size`` (rows, columns); edges of the voxels stay in their place."""
    zoom = [n / o for n, o in zip(size, piece.shape, strict=True)]
    return ndimage.zoom(
        piece.astype(np.float32), zoom, order=order, mode="nearest", grid_mode=True
    ).astype(np.float32)


def intensity_window(image: Array, inside: Array | None = None) -> Window:
    """Range of grey: from 0 (or percentile 1) to 1.1 times percentile 99.7 of the voxels inside.

    Without a mask, the voxels above zero count. The tenth keeps white matter short of white.
    """
    chosen = inside if inside is not None and inside.any() else image > 0
    values = image[chosen & np.isfinite(image)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, (1.0, 99.7))
    low = min(float(low), 0.0) if float(values.min()) >= 0 else float(low)
    return low, max(low + 1.1 * (float(high) - low), low + 1e-6)


def not_dark(image: Array) -> NDArray[np.bool_]:
    """Where an image has more than a tenth of its white."""
    return np.asarray(image > 0.1 * intensity_window(image)[1])


def grey(image: Array, view: View, plane: str, index: int, window: Window) -> NDArray[np.float32]:
    """Pixels of one panel in 0..1."""
    low, high = window
    piece = enlarge(np.nan_to_num(cut(image, view, plane, index)), view.pixels(plane))
    return np.clip((piece - low) / (high - low), 0, 1)


def spread(shown: Array, plane: str, count: int, trim: float = 0.15) -> list[int]:
    """``count`` slice numbers, evenly spaced over where ``shown`` is true, ends trimmed."""
    axis = AXIS[plane]
    hit = np.flatnonzero(shown.any(axis=tuple(a for a in range(3) if a != axis)))
    first, last = (hit[0], hit[-1]) if hit.size else (0, shown.shape[axis] - 1)
    margin = trim * (last - first)
    chosen = np.linspace(first + margin, last - margin, count).round().astype(int)
    return [int(i) for i in chosen]


def place_caption(view: View, plane: str, index: int) -> str:
    """Where a slice lies, in RAS+ mm: ``z +12 mm``."""
    axis = "xyz"[AXIS[plane]]
    return f"{axis} {view.millimetres(plane, index):+.0f} mm"


def slice_panel(
    pixels: NDArray[np.float32],
    view: View,
    plane: str,
    index: int,
    outlines: tuple[Outline, ...] = (),
) -> Panel:
    """Panel of a slice, with where it lies as its caption."""
    return Panel(pixels, plane, place_caption(view, plane, index), outlines)


def mosaic_slices(shown: Array) -> list[list[tuple[str, int]]]:
    """Two rows of axial slices, then one of two coronal and two sagittal ones."""
    axial = [("axial", i) for i in spread(shown, "axial", 8)]
    coronal = [("coronal", i) for i in spread(shown, "coronal", 2, trim=0.33)]
    sagittal = [("sagittal", i) for i in spread(shown, "sagittal", 2, trim=0.33)]
    return [axial[:4], axial[4:], coronal + sagittal]


def _row_width(row: Row) -> int:
    return sum(p.pixels.shape[1] + GAP for p in row.panels) + GAP


def _row_height(row: Row) -> int:
    caption = CAPTION if any(p.caption for p in row.panels) else GAP
    return max(p.pixels.shape[0] for p in row.panels) + caption + HEADING * bool(row.heading)


def rgb(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels of a panel with three channels, whether they are grey or not."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _polygons(outline: Outline, size: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """Polygons (n, [column, row]) around a mask, in pixels of its panel."""
    padded = np.pad(outline.slices.astype(float), 1)
    factor = np.array(size) / outline.slices.shape
    return [((line - 0.5) * factor)[:, ::-1] for line in find_contours(padded, 0.5)]


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    halo = [withStroke(linewidth=3, foreground=BACKGROUND)]
    defaults = {"color": TEXT, "fontsize": 17, "va": "center", "path_effects": halo}
    axes.figure.text(x, y, text, transform=axes.transData, **{**defaults, **style})


def _draw_scale_bar(axes: Axes, left: float, bottom: float, scale: float) -> None:
    """Bar of 50 mm with its length in words."""
    halo = [withStroke(linewidth=6, foreground=BACKGROUND)]
    ends = [left, left + SCALE_BAR_MM * scale]
    axes.plot(ends, [bottom, bottom], color=TEXT, lw=3, path_effects=halo)
    _write(axes, left, bottom - 15, f"{SCALE_BAR_MM} mm", fontsize=13)


def _draw_outlines(axes: Axes, panel: Panel, left: int, top: int) -> None:
    """Lines around masks, each with a dark rim, so that they show on bright tissue too."""
    for outline in panel.outlines:
        lines = [p + (left - 0.5, top - 0.5) for p in _polygons(outline, panel.pixels.shape[:2])]
        if outline.dotted:
            dots = LineCollection(lines, colors=outline.color, lw=outline.width, ls="dotted")
            axes.add_collection(dots, autolim=False)
            continue
        for color, extra in ((BACKGROUND, 1.4), (outline.color, 0.0)):
            drawn = LineCollection(lines, colors=color, lw=outline.width + extra)
            axes.add_collection(drawn, autolim=False)


def _draw_panel(axes: Axes, panel: Panel, left: int, top: int) -> None:
    """Outlines, letters of the sides and the caption of one panel."""
    height, width = panel.pixels.shape[:2]
    _draw_outlines(axes, panel, left, top)
    first, second = ("A", "P") if panel.plane == "sagittal" else ("R", "L")
    _write(axes, left + 5, top + 14, first, weight="bold")
    _write(axes, left + width - 5, top + 14, second, weight="bold", ha="right")
    if panel.caption:
        _write(axes, left + width / 2, top + height + 14, panel.caption, ha="center", fontsize=14)


def _canvas(rows: Sequence[Row], note: str) -> tuple[Figure, Axes, NDArray[np.uint8]]:
    """Transparent figure of the size of all rows, one unit a pixel, and the pixels below it."""
    width = max(*(_row_width(row) for row in rows), MIN_WIDTH)
    height = sum(_row_height(row) for row in rows) + GAP + HEADING * bool(note)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes.axis("off")
    return figure, axes, np.zeros((height, width, 3), np.uint8)


def _encoded(image: Image.Image) -> bytes:
    """WebP of at most 300 KB where that is possible without visible damage."""
    for quality in QUALITIES:
        buffer = BytesIO()
        image.save(buffer, "WEBP", quality=quality, method=2)  # 4: 4 % less, twice as long
        if buffer.tell() <= MAX_BYTES:
            break
    return buffer.getvalue()


def _save(mosaic: NDArray[np.uint8], figure: Figure, path: Path) -> Path:
    """Write pixels with a figure over them as WebP, or as PNG where the suffix says so."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    over = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    image = Image.fromarray(mosaic)
    image.paste(over, mask=over)
    with atomic_path(path) as temporary:
        if path.suffix == ".png":
            image.save(temporary)
        else:
            temporary.write_bytes(_encoded(image))
    return path


def draw(rows: Sequence[Row], view: View, path: Path, note: str = "") -> Path:
    """Compose rows of panels into one picture and write it to ``path``.

    Pixels are copied one to one; L and R (A and P on sagittal panels), a scale bar, captions and
    outlines are drawn on top. ``note`` is a line below the last row.
    """
    figure, axes, mosaic = _canvas(rows, note)
    top = GAP
    for row in rows:
        left = (mosaic.shape[1] - _row_width(row)) // 2 + GAP
        if row.heading:
            _write(axes, left, top + HEADING / 2, row.heading, weight="bold", fontsize=19)
        bottom = top + _row_height(row)
        top += HEADING * bool(row.heading)
        _draw_scale_bar(
            axes, left + 6, top + row.panels[0].pixels.shape[0] - 8, row.scale or view.scale
        )
        for panel in row.panels:
            height, width = panel.pixels.shape[:2]
            mosaic[top : top + height, left : left + width] = rgb(panel.pixels) * 255 + 0.5
            _draw_panel(axes, panel, left, top)
            left += width + GAP
        top = bottom
    if note:
        _write(axes, GAP, top + HEADING / 2, note)
    return _save(mosaic, figure, Path(path))
