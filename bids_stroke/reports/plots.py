"""Drawings written straight into a page as SVG, of a size that does not grow with the cohort.

Where values are few each is a dot that leads to its page; else the usual ones are bars or one path,
and only those that stand out are dots.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LOWEST_ML = 0.01
WIDTH, LEFT, RIGHT, DOT, BASE = 760, 124, 16, 6.0, 44
MOST_DOTS, MOST_ROWS, MOST_MARKED = 400, 14, 150
BARS, BARS_HEIGHT = 60, 72.0
SIDE, SIDE_LEFT, SIDE_BASE = 460, 64, 48  # of a scatter plot


@dataclass(frozen=True)
class Value:
    """One session's number: its label, the address of its page, and whether it stands out."""

    label: str
    href: str
    value: float
    marked: bool = False


@dataclass(frozen=True)
class Dot:
    """One session: where it lies, what it links to and what it says."""

    x: float
    y: float
    href: str
    title: str
    marked: bool = False


@dataclass(frozen=True)
class Bar:
    """Number of sessions in a range of values."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Plot:
    """Dots and bars over an axis; sizes in units of the SVG."""

    height: float
    dots: tuple[Dot, ...]
    ticks: tuple[tuple[float, str], ...]
    bars: tuple[Bar, ...] = ()
    width: int = WIDTH
    radius: float = DOT
    base: int = BASE


@dataclass(frozen=True)
class Scatter:
    """Points of two numbers, with lines across and a curve; ``path`` holds what is no link."""

    dots: tuple[Dot, ...]
    path: str
    curve: str
    lines: tuple[tuple[float, float, float, float, str], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = SIDE
    height: int = SIDE
    left: int = SIDE_LEFT
    base: int = SIDE_BASE


@dataclass(frozen=True)
class Axis:
    """Values to units of the SVG, linear or logarithmic from ``LOWEST_ML`` on."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Place of a value; what lies outside is put on the edge."""
        value, low, high = (self._scaled(v) for v in (value, self.low, self.high))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, LOWEST_ML)) if self.log else value

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Places and texts of round numbers."""
        if self.log:
            decades = range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)
            return tuple((self.at(10.0**d), f"{10.0**d:g}") for d in decades)
        return tuple((self.at(v), f"{v:g}") for v in round_numbers(self.low, self.high))


def round_numbers(low: float, high: float, most: int = 6) -> list[float]:
    """At most ``most`` multiples of 1, 2 or 5 times a power of ten between two numbers."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _position(volume: float, top: float) -> float:
    """x of a volume in mL on the axis that ends at ``top`` mL; no lesion lies left of it."""
    if volume <= 0:
        return LEFT / 2
    return Axis(LOWEST_ML, top, LEFT, WIDTH - RIGHT, log=True).at(volume)


def _free_row(x: float, rows: list[list[float]]) -> int:
    """First row in which a dot at ``x``, right of all before it, touches no other."""
    for number, row in enumerate(rows):
        if x - row[-1] >= 2 * DOT:
            row.append(x)
            return number
    rows.append([x])
    return len(rows) - 1


def _top(values: Iterable[float]) -> float:
    """The power of ten, 10 at least, that no value exceeds."""
    return float(10 ** max(math.ceil(math.log10(max([*values, 1.0]))), 1))


def dot_plot(volumes: Sequence[tuple[str, str, float]]) -> Plot:
    """Distribution of (label, address, volume in mL) over a logarithmic axis."""
    top = _top(v for *_, v in volumes)
    placed = [
        (_position(volume, top), Value(label, href, volume)) for label, href, volume in volumes
    ]
    axis = Axis(LOWEST_ML, top, LEFT, WIDTH - RIGHT, log=True)
    ticks = ((LEFT / 2, "none"), *axis.ticks())
    return _plot(placed, ticks, unit=" mL", digits=2)


def strip(values: Sequence[Value]) -> Plot:
    """Distribution of a measure over a linear axis, outliers marked."""
    known = [v for v in values if math.isfinite(v.value)]
    low, high = (f((v.value for v in known), default=0.0) for f in (min, max))
    margin = 0.04 * (high - low) or 1.0
    axis = Axis(low - margin, high + margin, 3 * DOT, WIDTH - 3 * DOT)
    return _plot([(axis.at(v.value), v) for v in known], axis.ticks(), digits=3)


def _plot(
    placed: Sequence[tuple[float, Value]],
    ticks: tuple[tuple[float, str], ...],
    *,
    unit: str = "",
    digits: int,
) -> Plot:
    """Every value as a dot where they are few; else bars, with dots for the marked ones."""
    spots, rows = _stacked(placed) if len(placed) <= MOST_DOTS else ([], MOST_ROWS + 1)
    few = rows <= MOST_ROWS
    if not few:
        spots, rows = _stacked([item for item in placed if item[1].marked][:MOST_MARKED])
    bulk = 0.0 if few else BARS_HEIGHT
    height = BASE + bulk + 2 * DOT * max(rows, 3 if few else 1) + DOT
    floor = height - BASE
    dots = tuple(
        Dot(x, floor - bulk - DOT * (2 * row + 1.5), v.href, _title(v, unit, digits), v.marked)
        for x, row, v in spots
    )
    return Plot(height, dots, ticks, () if few else _bars([x for x, _ in placed], floor))


def _stacked(placed: Sequence[tuple[float, Value]]) -> tuple[list[tuple[float, int, Value]], int]:
    """Places with the row in which a dot touches no other, and the number of rows."""
    rows: list[list[float]] = []
    ordered = sorted(placed, key=lambda item: item[0])
    return [(x, _free_row(x, rows), value) for x, value in ordered], len(rows)


def _title(value: Value, unit: str, digits: int) -> str:
    text = f"{value.value:.{digits}f}" if digits == 2 else f"{value.value:.{digits}g}"
    return f"{value.label}: {text}{unit}" + (" (outlier)" if value.marked else "")


def _bars(places: Sequence[float], floor: float) -> tuple[Bar, ...]:
    """Histogram of places on the axis."""
    width = WIDTH / BARS
    counts = [0] * BARS
    for x in places:
        counts[min(int(x / width), BARS - 1)] += 1
    tallest = max(counts)
    return tuple(
        Bar(i * width + 0.5, floor - h, width - 1, h, f"{n} sessions")
        for i, n in enumerate(counts)
        if n and (h := max(BARS_HEIGHT * n / tallest, 1.0))
    )


def scatter(
    points: Sequence[tuple[Value, float]],
    *,
    log_x: bool = False,
    log_y: bool = False,
    levels: Sequence[tuple[float, str]] = (),
    diagonal: bool = False,
    line: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Scatter:
    """Points of (x, y), ``levels`` across, the line of equal values, and ``line`` (slope, start).

    With a diagonal both axes have one range, unless ranges are given. Points that are not finite
    are left out.
    """
    known = [(v, y) for v, y in points if math.isfinite(v.value) and math.isfinite(y)]
    xs, ys = [v.value for v, _ in known], [y for _, y in known]
    together = [*xs, *ys]
    x_limits = x_range or _limits(together if diagonal else xs, log_x)
    y_limits = y_range or _limits(together if diagonal else [*ys, *(v for v, _ in levels)], log_y)
    x_axis = Axis(*x_limits, SIDE_LEFT, SIDE - RIGHT, log_x)
    y_axis = Axis(*y_limits, SIDE - SIDE_BASE, RIGHT, log_y)
    spots = [(x_axis.at(v.value), y_axis.at(y), v, y) for v, y in known]
    linked = len(spots) <= MOST_DOTS
    dots = [Dot(x, y, v.href, f"{v.label}: {v.value:.3g}, {of:.3g}") for x, y, v, of in spots]
    lines = [(x_axis.start, y_axis.at(v), x_axis.end, y_axis.at(v), text) for v, text in levels]
    if diagonal:
        lines.append((x_axis.start, y_axis.start, x_axis.end, y_axis.end, ""))
    path = "" if linked else "".join(f"M{d.x:.1f} {d.y:.1f}h0" for d in dots)
    return Scatter(
        tuple(dots) if linked else (),
        path,
        _curve(line, x_axis, y_axis) if line and known else "",
        tuple(lines),
        x_axis.ticks(),
        y_axis.ticks(),
    )


def _curve(line: tuple[float, float], x_axis: Axis, y_axis: Axis, steps: int = 60) -> str:
    """A straight line as the axes show it, where it lies within them."""
    slope, start = line
    if not (math.isfinite(slope) and math.isfinite(start)):
        return ""
    shares = (i / steps for i in range(steps + 1))
    if x_axis.log:
        xs = [x_axis.low * (x_axis.high / x_axis.low) ** share for share in shares]
    else:
        xs = [x_axis.low + share * (x_axis.high - x_axis.low) for share in shares]
    inside = [(x, y) for x in xs if y_axis.low <= (y := slope * x + start) <= y_axis.high]
    places = [f"{x_axis.at(x):.1f} {y_axis.at(y):.1f}" for x, y in inside]
    return f"M{'L'.join(places)}" if places else ""


def _limits(values: Sequence[float], log: bool) -> tuple[float, float]:
    if log:
        return LOWEST_ML, _top(values)
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin
