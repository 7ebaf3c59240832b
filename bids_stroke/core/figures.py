"""Pictures of a session: arrays and affines in, compact image files out.

Every image is reoriented to RAS through its affine first, so that the storage order of a file does
not matter; ``core.mosaic`` draws it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import canny

from bids_stroke.core.geometry import to_ras, voxel_volume_mm3
from bids_stroke.core.mosaic import (
    AXIS,
    MIXED,
    Array,
    Outline,
    Panel,
    Row,
    View,
    Window,
    cut,
    draw,
    enlarge,
    grey,
    intensity_window,
    mosaic_slices,
    not_dark,
    place_caption,
    rgb,
    slice_panel,
    spread,
    view_of,
)
from bids_stroke.core.palette import ANATOMY, BACKGROUND, LESION, POSSIBLE
from bids_stroke.core.words import millilitres

MAX_LESIONS = 12  # with three planes each; the rest have one
MAX_SMALL_LESIONS, SMALL_ACROSS = 108, 8
POSSIBLE_PROBABILITY = 0.1


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
    shown = mask if mask.any() else not_dark(image)
    slices = mosaic_slices(shown)
    view = view_of(affine, shown, margin_mm=20).fitted(MIXED)
    window = intensity_window(image, mask)
    rows = [
        Row(
            tuple(
                slice_panel(
                    grey(image, view, plane, i, window),
                    view,
                    plane,
                    i,
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
    painted = rgb(pixels).copy()
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
    shown = not_dark(fixed)
    view = view_of(affine, shown).fitted(MIXED)
    fixed_window, window = intensity_window(fixed), intensity_window(after)
    slices = mosaic_slices(shown)[1:]
    slices[0] = [("axial", i) for i in spread(shown, "axial", 4, trim=0.25)]
    edges = {at: _edges(grey(fixed, view, *at, fixed_window)) for row in slices for at in row}
    for moving, path in ((before, path_before), (after, path_after)):
        rows = [
            Row(
                tuple(
                    slice_panel(
                        _with_edges(grey(moving, view, *at, window), edges[at], ANATOMY), view, *at
                    )
                    for at in row
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
                slice_panel(grey(image, view, "axial", i, window), view, "axial", i) for i in row
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
            caption = f"{modality}  {place_caption(view, plane, index)}"
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
                slice_panel(grey(image, view, "axial", i, windows[name]), view, "axial", i)
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
        caption = f"{number}:  {place_caption(view, 'axial', index)}"
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
