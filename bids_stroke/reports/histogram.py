"""Histograms of intensities, drawn into a page as SVG."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 80
WIDTH, HEIGHT, BASE, SIDE = 480, 150, 24, 8


@dataclass(frozen=True)
class Histogram:
    """Outlines of two distributions on one axis, each scaled to its own peak.

    ``brain`` and ``lesions`` are points of SVG polylines in a box of ``width`` by ``height``;
    ``lesions`` is empty without a lesion. ``ticks`` are pairs of x and a text.
    """

    name: str
    brain: str
    lesions: str
    ticks: tuple[tuple[float, str], ...]
    summary: str
    width: int = WIDTH
    height: int = HEIGHT
    base: int = BASE


def _outline(values: NDArray[Any], edges: NDArray[np.floating]) -> str:
    """Points of a stepped line over the bins, from the left end of the axis to the right."""
    counts, _ = np.histogram(values, edges)
    heights = counts / max(counts.max(), 1)
    x = SIDE + (WIDTH - 2 * SIDE) * np.arange(BINS + 1) / BINS
    floor = HEIGHT - BASE
    y = floor - (floor - 6) * heights
    points = [(x[0], float(floor))]
    for left, right, level in zip(x[:-1], x[1:], y, strict=True):
        points += [(left, level), (right, level)]
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in [*points, (x[-1], float(floor))])


def _tick(value: float, extent: float) -> str:
    return f"{value:.0f}" if extent >= 20 else f"{value:.3g}"


def histogram(
    name: str, image: NDArray[Any], brain: NDArray[Any], lesions: NDArray[Any]
) -> Histogram | None:
    """Intensities of an image [x, y, z] in the brain without the lesions, and in the lesions.

    None where the brain mask is empty. The axis ends at the 99.8th percentile of the brain.
    """
    inside = image[(brain > 0) & (lesions == 0) & np.isfinite(image)]
    if not inside.size:
        return None
    ill = image[(lesions > 0) & np.isfinite(image)]
    low, high = float(inside.min()), float(np.percentile(inside, 99.8))
    high = high if high > low else low + 1
    edges = np.linspace(low, high, BINS + 1)
    ticks = tuple(
        (SIDE + (WIDTH - 2 * SIDE) * share, _tick(low + share * (high - low), high - low))
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    summary = f"median {np.median(inside):.4g} in the brain"
    if ill.size:
        summary += f", {np.median(ill):.4g} in the lesions"
    clipped = np.clip(ill, low, high)
    return Histogram(
        name,
        _outline(np.clip(inside, low, high), edges),
        _outline(clipped, edges) if ill.size else "",
        ticks,
        summary,
    )
