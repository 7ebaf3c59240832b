"""Pictures of a session: arrays and affines in, compact image files out.

Radiological convention everywhere: the patient's left is on the right of axial and coronal panels,
anterior is on the left of sagittal ones. Every image is reoriented to RAS through its affine first,
so that the storage order of a file does not matter. A panel has square pixels in mm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.feature import canny
from skimage.measure import find_contours

from bids_stroke.core.files import atomic_path
from bids_stroke.core.geometry import bounding_box, to_ras, voxel_volume_mm3
from bids_stroke.core.palette import ANATOMY, BACKGROUND, LESION, POSSIBLE, TEXT
from bids_stroke.core.words import millilitres

MIXED = ("coronal", "coronal", "sagittal", "sagittal")  # the widest row of a mosaic
AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
WIDTH = 1320  # pixels of a whole picture
GAP, CAPTION, HEADING = 6, 30, 46
MIN_WIDTH = 640
MAX_BYTES, QUALITIES = 300_000, (78, 66, 54, 42)
MAX_LESIONS = 12  # with three planes each; the rest have one
MAX_SMALL_LESIONS, SMALL_ACROSS = 108, 8
SCALE_BAR_MM = 50
POSSIBLE_PROBABILITY = 0.1

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


def _caption(view: View, plane: str, index: int) -> str:
    axis = "xyz"[AXIS[plane]]
    return f"{axis} {view.millimetres(plane, index):+.0f} mm"


def _mosaic_slices(shown: Array) -> list[list[tuple[str, int]]]:
    """Two rows of axial slices, then one of two coronal and two sagittal ones."""
    axial = [("axial", i) for i in spread(shown, "axial", 8)]
    coronal = [("coronal", i) for i in spread(shown, "coronal", 2, trim=0.33)]
    sagittal = [("sagittal", i) for i in spread(shown, "sagittal", 2, trim=0.33)]
    return [axial[:4], axial[4:], coronal + sagittal]


# ---------------------------------------------------------------- drawing


def _row_width(row: Row) -> int:
    return sum(p.pixels.shape[1] + GAP for p in row.panels) + GAP


def _row_height(row: Row) -> int:
    caption = CAPTION if any(p.caption for p in row.panels) else GAP
    return max(p.pixels.shape[0] for p in row.panels) + caption + HEADING * bool(row.heading)


def _rgb(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _polygons(outline: Outline, size: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """Polygons (n, [column, row]) around a mask, in pixels of its panel."""
    padded = np.pad(outline.slices.astype(float), 1)
    factor = np.array(size) / outline.slices.shape
    return [((line - 0.5) * factor)[:, ::-1] for line in find_contours(padded, 0.5)]


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    halo = [withStroke(linewidth=3, foreground=BACKGROUND)]
    defaults = {"color": TEXT, "fontsize": 17, "va": "center", "path_effects": halo}
    axes.text(x, y, text, **{**defaults, **style})


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
    """Empty dark figure of the size of all rows, one unit a pixel, and the pixels to fill."""
    width = max(*(_row_width(row) for row in rows), MIN_WIDTH)
    height = sum(_row_height(row) for row in rows) + GAP + HEADING * bool(note)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor=BACKGROUND)
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


def _save(figure: Figure, path: Path) -> Path:
    """Write a figure as WebP, or as PNG where the suffix of ``path`` says so."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
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
            mosaic[top : top + height, left : left + width] = _rgb(panel.pixels) * 255 + 0.5
            _draw_panel(axes, panel, left, top)
            left += width + GAP
        top = bottom
    if note:
        _write(axes, GAP, top + HEADING / 2, note)
    figure.figimage(mosaic, zorder=-1)
    return _save(figure, Path(path))


# ---------------------------------------------------------------- pictures


def _ras(affine: NDArray[np.floating], *arrays: Array) -> tuple[NDArray[np.float64], list[Array]]:
    """Reorient arrays of one grid to RAS order; also the affine of that order."""
    turned = [to_ras(array, affine) for array in arrays]
    return np.asarray(turned[0][1], float), [array for array, _ in turned]


def brain_mask_figure(image: Array, mask: Array, affine: NDArray[np.floating], path: Path) -> Path:
    """Outline of a brain mask over eight axial, two coronal and two sagittal slices.

    The view reaches 20 mm beyond the mask, so that brain that it misses can be seen.
    ``image`` and ``mask`` are [x, y, z] on one grid of ``affine`` (RAS+ mm, any orientation).
    """
    affine, (image, mask) = _ras(affine, image, mask > 0)
    shown = mask if mask.any() else image > 0.1 * intensity_window(image)[1]
    slices = _mosaic_slices(shown)
    view = view_of(affine, shown, margin_mm=20).fitted(MIXED)
    window = intensity_window(image, mask)
    rows = [
        Row(
            tuple(
                Panel(
                    grey(image, view, plane, i, window),
                    plane,
                    _caption(view, plane, i),
                    (Outline(cut(mask, view, plane, i), ANATOMY),),
                )
                for plane, i in row
            )
        )
        for row in slices
    ]
    return draw(rows, view, path)


def _edges(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Clear borders in a panel of 0..1 (Canny, 2 pixels wide Gaussian)."""
    thin = canny(pixels, sigma=2.5, low_threshold=0.08, high_threshold=0.2)
    return ndimage.binary_dilation(thin, np.ones((2, 2)))


def _with_edges(
    pixels: NDArray[np.float32], edges: NDArray[np.bool_], color: str
) -> NDArray[np.float32]:
    """Paint edges over a grey panel."""
    painted = _rgb(pixels).copy()
    painted[edges] = mpl.colors.to_rgb(color)
    return painted


def registration_figure(
    fixed: Array,
    moving_before: Array,
    moving_after: Array,
    affine: NDArray[np.floating],
    path_before: Path,
    path_after: Path,
) -> tuple[Path, Path]:
    """The moving image before and after registration, with the edges of the fixed one on it.

    All three are [x, y, z] on the grid of the fixed image. Both pictures show the same slices with
    the same grey, so that a page can flicker between them.
    """
    affine, (fixed, before, after) = _ras(affine, fixed, moving_before, moving_after)
    shown = fixed > 0.1 * intensity_window(fixed)[1]
    view = view_of(affine, shown).fitted(MIXED)
    fixed_window, window = intensity_window(fixed), intensity_window(after)
    slices = _mosaic_slices(shown)[1:]
    slices[0] = [("axial", i) for i in spread(shown, "axial", 4, trim=0.25)]
    for moving, path in ((before, path_before), (after, path_after)):
        rows = [
            Row(
                tuple(
                    Panel(
                        _with_edges(
                            grey(moving, view, plane, i, window),
                            _edges(grey(fixed, view, plane, i, fixed_window)),
                            ANATOMY,
                        ),
                        plane,
                        _caption(view, plane, i),
                    )
                    for plane, i in row
                )
            )
            for row in slices
        ]
        draw(rows, view, path)
    return path_before, path_after


def bias_field(before: Array, after: Array, mask: Array) -> NDArray[np.float32]:
    """Field that N4 divided by: before / after, 1 on average inside the mask and NaN outside."""
    inside = (mask > 0) & (before > 0) & (after > 0)
    field = np.full(before.shape, np.nan, np.float32)
    field[inside] = before[inside].astype(np.float32) / after[inside]
    return field / np.nanmedian(field) if inside.any() else field


def _coloured(
    values: NDArray[np.floating], view: View, plane: str, index: int, limit: float
) -> NDArray[np.float32]:
    """Panel of a field around 1: cividis over 1 / limit .. limit (log scale), dark where NaN."""
    piece = cut(values, view, plane, index)
    known = enlarge(np.isfinite(piece), view.pixels(plane), order=0) > 0.5
    smooth = enlarge(np.nan_to_num(np.log(piece), nan=0.0), view.pixels(plane), order=0)
    colors = mpl.colormaps["cividis"](smooth / (2 * np.log(limit)) + 0.5)[..., :3]
    colors[~known] = mpl.colors.to_rgb(BACKGROUND)
    return colors.astype(np.float32)


def n4_figure(
    before: Array,
    after: Array,
    mask: Array,
    affine: NDArray[np.floating],
    path_before: Path,
    path_after: Path,
    path_field: Path,
) -> tuple[Path, Path, Path]:
    """The same axial slices before and after N4, to flick between, and the bias field removed.

    Arrays are [x, y, z] on one grid of ``affine``. Each image has its own range of grey, because
    N4 moves the mean of an image; the field is 1 on average within the mask.
    """
    affine, (before, after, mask) = _ras(affine, before, after, mask > 0)
    field = bias_field(before, after, mask)
    shown = mask if mask.any() else before > 0
    view = view_of(affine, shown).fitted(["axial"] * 4)
    rows = np.array_split(spread(shown, "axial", 8, trim=0.1), 2)
    known = field[np.isfinite(field)]
    spread_log = np.abs(np.log(np.percentile(known, (2, 98)))).max() if known.size else 0.0
    limit = float(np.exp(max(spread_log, np.log(1.05))))
    heading = f"Bias field removed: {1 / limit:.2f} (dark blue) to {limit:.2f} (yellow)"

    def picture(image: Array, heading: str, path: Path) -> Path:
        window = intensity_window(image, mask)
        return draw(_axial_rows(image, view, rows, window, heading), view, path)

    coloured = [
        Row(tuple(Panel(_coloured(field, view, "axial", i, limit), "axial") for i in row))
        for row in rows
    ]
    coloured[0] = Row(coloured[0].panels, heading)
    return (
        picture(before, "Before N4", path_before),
        picture(after, "After N4", path_after),
        draw(coloured, view, path_field),
    )


def _axial_rows(
    image: Array, view: View, rows: Sequence[NDArray[np.integer]], window: Window, heading: str
) -> list[Row]:
    """Rows of axial slices, with a heading over the first."""
    return [
        Row(
            tuple(
                Panel(grey(image, view, "axial", i, window), "axial", _caption(view, "axial", i))
                for i in row
            ),
            heading if number == 0 else "",
        )
        for number, row in enumerate(rows)
    ]


def largest_section(lesion: Array, plane: str) -> int:
    """Number of the slice of ``plane`` on which a lesion covers most voxels."""
    axes = tuple(a for a in range(3) if a != AXIS[plane])
    return int(np.argmax(np.count_nonzero(lesion, axis=axes)))


def _lesion_outlines(
    labels: Array, number: int, probability: Array, view: View, plane: str, index: int
) -> tuple[Outline, ...]:
    """Thick around the lesion itself, thin around the others, dotted around the possible."""
    possible = cut(probability >= POSSIBLE_PROBABILITY, view, plane, index)
    piece = cut(labels, view, plane, index)
    return (
        Outline(possible, POSSIBLE, width=1.0, dotted=True),
        Outline((piece > 0) & (piece != number), LESION, width=0.7),
        Outline(piece == number, LESION),
    )


def _lesion_heading(labels: Array, number: int, view: View) -> str:
    volume = np.count_nonzero(labels == number) * voxel_volume_mm3(view.affine) / 1000
    return f"Lesion {number}: {millilitres(volume)}"


def _lesion_row(
    images: Mapping[str, Array],
    windows: Mapping[str, Window],
    labels: Array,
    probability: Array,
    view: View,
    number: int,
    outlined: bool,
) -> Row:
    """Largest axial, coronal and sagittal section of one lesion, each on every modality."""
    lesion = labels == number
    panels = []
    for plane in ("axial", "coronal", "sagittal"):
        index = largest_section(lesion, plane)
        outlines: tuple[Outline, ...] = ()
        if outlined:
            outlines = _lesion_outlines(labels, number, probability, view, plane, index)
        for modality, image in images.items():
            pixels = grey(image, view, plane, index, windows[modality])
            caption = f"{modality}  {_caption(view, plane, index)}"
            panels.append(Panel(pixels, plane, caption, outlines))
    return Row(tuple(panels), _lesion_heading(labels, number, view))


def _no_lesion_rows(
    images: Mapping[str, Array], windows: Mapping[str, Window], shown: Array, view: View
) -> list[Row]:
    """Four axial slices of each modality."""
    slices = spread(shown, "axial", 4, trim=0.25)
    return [
        Row(
            tuple(
                Panel(
                    grey(image, view, "axial", i, windows[name]),
                    "axial",
                    _caption(view, "axial", i),
                )
                for i in slices
            ),
            name,
        )
        for name, image in images.items()
    ]


def _small_rows(
    image: Array,
    window: Window,
    labels: Array,
    probability: Array,
    view: View,
    numbers: Sequence[int],
    outlined: bool,
) -> list[Row]:
    """The largest axial section of each of many lesions, some side by side."""
    view = view.fitted(["axial"] * SMALL_ACROSS)

    def panel(number: int) -> Panel:
        index = largest_section(labels == number, "axial")
        pixels = grey(image, view, "axial", index, window)
        caption = f"{number}:  {_caption(view, 'axial', index)}"
        lines = _lesion_outlines(labels, number, probability, view, "axial", index)
        return Panel(pixels, "axial", caption, lines if outlined else ())

    panels = [panel(number) for number in numbers]
    starts = range(0, len(panels), SMALL_ACROSS)
    rows = [tuple(panels[i : i + SMALL_ACROSS]) for i in starts]
    heading = f"Lesions {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else "One more lesion"
    return [Row(row, heading if i == 0 else "", view.scale) for i, row in enumerate(rows)]


def _rest(labels: Array, view: View, limit: int) -> str:
    """Sentence on the lesions that have no row of their own."""
    count = int(labels.max(initial=0)) - limit
    if count <= 0:
        return ""
    volume = np.count_nonzero(labels > limit) * voxel_volume_mm3(view.affine) / 1000
    return f"and {count} smaller, {millilitres(volume)} together: see the table"


def lesion_figure(
    images: Mapping[str, Array],
    labels: Array,
    probability: Array | None,
    affine: NDArray[np.floating],
    path: Path,
    *,
    brain: Array | None = None,
    outlined: bool = True,
    max_lesions: int = MAX_LESIONS,
) -> Path:
    """Slices through each lesion, the largest first, on every modality side by side.

    The first ``max_lesions`` have three planes each, the others one axial slice of the last
    modality.

    ``images`` maps a modality to its array; ``labels`` are 1..n by decreasing volume (0 is
    background); ``probability`` in 0..1, or None. All are [x, y, z] on one grid of ``affine``.
    A solid line is the lesion, a dotted one a probability of .1. With a ``brain`` mask the view and
    the range of grey are those of the brain. ``outlined=False`` draws the same slices without
    lines. Without a lesion, plain axial slices and a sentence.
    """
    names = list(images)
    chance = np.zeros(labels.shape, np.float32) if probability is None else probability
    inside = np.zeros(labels.shape, bool) if brain is None else brain > 0
    affine, (labels, chance, inside, *arrays) = _ras(
        affine, labels, chance, inside, *images.values()
    )
    images = dict(zip(names, arrays, strict=True))
    windows = {name: intensity_window(image, inside) for name, image in images.items()}
    first = names[0]
    shown = inside if inside.any() else images[first] > 0.1 * windows[first][1]
    shown = shown | (labels > 0)
    count = int(labels.max(initial=0))
    if not count:
        view = view_of(affine, shown).fitted(["axial"] * 4)
        return draw(_no_lesion_rows(images, windows, shown, view), view, path, "No lesion found.")
    planes = [plane for plane in ("axial", "coronal", "sagittal") for _ in images]
    view = view_of(affine, shown).fitted(planes)
    rows = [
        _lesion_row(images, windows, labels, chance, view, number, outlined)
        for number in range(1, min(count, max_lesions) + 1)
    ]
    last = max_lesions + MAX_SMALL_LESIONS
    if small := range(max_lesions + 1, min(count, last) + 1):
        name = names[-1]
        rows += _small_rows(images[name], windows[name], labels, chance, view, small, outlined)
    return draw(rows, view, path, _rest(labels, view, last))
