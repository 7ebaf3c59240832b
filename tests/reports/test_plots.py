"""Drawings: everything inside, nothing overlapping, and a size that does not grow."""

import numpy as np
import pytest

from bids_stroke.reports import plots
from bids_stroke.reports.plots import Axis, Value


def values(numbers: list[float], marked: frozenset[int] = frozenset()) -> list[Value]:
    return [Value(f"s{i}", f"#s{i}", v, i in marked) for i, v in enumerate(numbers)]


def test_dots_of_a_strip_never_overlap_and_stay_inside() -> None:
    rng = np.random.default_rng(1)
    plot = plots.strip(values(rng.normal(size=120).tolist()))
    assert len(plot.dots) == 120
    assert plot.bars == ()
    places = np.array([(dot.x, dot.y) for dot in plot.dots])
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e6 * np.eye(120)
    assert gaps.min() >= 2 * plot.radius - 1e-6
    assert places.min() >= plot.radius
    assert places[:, 0].max() <= plot.width - plot.radius
    assert places[:, 1].max() <= plot.height - plot.base


@pytest.mark.parametrize("numbers", [list(range(5000)), [1.0] * 40])
def test_many_or_equal_values_are_bars_and_outliers_stay_dots(numbers: list[float]) -> None:
    plot = plots.strip(values(numbers, marked=frozenset({3, 7})))
    assert sum(int(bar.title.split()[0]) for bar in plot.bars) == len(numbers)
    assert {dot.href for dot in plot.dots} == {"#s3", "#s7"}
    assert all(dot.marked and "outlier" in dot.title for dot in plot.dots)
    assert max(bar.height for bar in plot.bars) == plots.BARS_HEIGHT
    assert plot.height < 300


def test_nothing_and_what_is_not_finite() -> None:
    assert plots.strip([]).dots == ()
    assert len(plots.strip(values([1.0, float("nan"), 2.0])).dots) == 2
    empty = plots.scatter([])
    assert (empty.dots, empty.path) == ((), "")


def test_scatter_places_by_hand() -> None:
    points = [(Value("a", "#a", 1.0), 10.0), (Value("b", "#b", 100.0), 100.0)]
    plot = plots.scatter(points, log_x=True, log_y=True, diagonal=True, line=(1.0, 0.0))
    axis = Axis(0.01, 100, plots.SIDE_LEFT, plots.SIDE - plots.RIGHT, log=True)
    assert plot.dots[0].x == pytest.approx(axis.at(1.0))
    assert axis.at(1.0) == pytest.approx((axis.start + axis.end) / 2)
    assert plot.dots[1].x == pytest.approx(axis.end)
    (x1, y1, x2, y2, _) = plot.lines[-1]
    ends = [float(n) for n in plot.curve[1:].replace("L", " ").split()]
    assert ends[:2] == pytest.approx([x1, y1], abs=0.06)
    assert ends[-2:] == pytest.approx([x2, y2], abs=0.06)


def test_many_points_are_one_path() -> None:
    points = [(v, 0.5) for v in values([float(i) for i in range(3000)])]
    plot = plots.scatter(points, levels=[(0.5, "half")])
    assert plot.dots == ()
    assert plot.path.count("M") == 3000


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-3, 9, [-2, 0, 2, 4, 6, 8]), (5, 5, [5])],
)
def test_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert plots.round_numbers(low, high) == pytest.approx(expected)
