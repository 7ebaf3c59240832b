"""Drawings that are written straight into a page as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOWEST_ML = 0.01
WIDTH, LEFT, RIGHT, DOT, BASE = 760, 96, 16, 6.0, 44


@dataclass(frozen=True)
class Dot:
    """One session: where it lies, what it links to and what it says."""

    x: float
    y: float
    href: str
    title: str


@dataclass(frozen=True)
class Plot:
    """Dots over a logarithmic axis; sizes in units of the SVG."""

    height: float
    dots: tuple[Dot, ...]
    ticks: tuple[tuple[float, str], ...]
    width: int = WIDTH
    radius: float = DOT
    base: int = BASE


def _position(volume: float, top: float) -> float:
    """x of a volume in mL on the axis that ends at ``top`` mL; no lesion lies left of it."""
    if volume <= 0:
        return LEFT / 2
    share = math.log10(max(volume, LOWEST_ML) / LOWEST_ML) / math.log10(top / LOWEST_ML)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _free_row(x: float, rows: list[list[float]]) -> int:
    """First row in which a dot at ``x`` touches no other."""
    for number, row in enumerate(rows):
        if all(abs(x - other) >= 2 * DOT for other in row):
            row.append(x)
            return number
    rows.append([x])
    return len(rows) - 1


def dot_plot(volumes: Sequence[tuple[str, str, float]]) -> Plot:
    """Dots of (label, address, volume in mL), stacked where they would overlap."""
    top = 10 ** max(math.ceil(math.log10(max((v for *_, v in volumes), default=1) or 1)), 1)
    rows: list[list[float]] = []
    places = []
    for label, href, volume in sorted(volumes, key=lambda item: item[2]):
        x = _position(volume, top)
        places.append((x, _free_row(x, rows), href, f"{label}: {volume:.2f} mL"))
    height = BASE + 2 * DOT * max(len(rows), 3) + DOT
    dots = tuple(Dot(x, height - BASE - DOT * (2 * r + 1.5), h, t) for x, r, h, t in places)
    decades = range(round(math.log10(LOWEST_ML)), round(math.log10(top)) + 1)
    ticks = [(LEFT / 2, "none")] + [(_position(10.0**d, top), f"{10.0**d:g}") for d in decades]
    return Plot(height, dots, tuple(ticks))
