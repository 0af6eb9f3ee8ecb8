"""The pictures of a report: stages, the distribution of latency, the roofline, growth, the race."""

from __future__ import annotations

from collections.abc import Sequence

from .growth import Growth
from .numerals import number, short
from .roofline import Roofline
from .series import Series
from .stages import Stages
from .standings import Race
from .svg import BOTTOM, PALETTE, TOP, Axis, Plot

_ROW = 34.0
_LABELS = 225.0
_INK = "var(--ink, #333)"
_NEAR = 0.15
"""The part of a picture's width that a label takes."""
_AXES = {"batch": "images per batch", "pixels": "pixels of the picture handed in"}


def stage_bars(stages: Stages) -> str:
    """A bar per stage at its median, with a whisker from the minimum to the 99th percentile."""
    rows = [*stages.stages.items(), ("total", stages.total_ms)]
    return _bars([(name, series, PALETTE[5 if name == "total" else 0]) for name, series in rows], "stages", left=100.0)


def race_bars(race: Race, workload: str, beams: int) -> str:
    """A bar per contender with so many beams; florence-edge in its own colour."""
    rows = [
        (finish.name, finish.times_ms[workload], PALETTE[0 if finish.kind == "florence-edge" else 1])
        for finish in race.finishes
        if finish.beams == beams
    ]
    return _bars(rows, f"race, {workload}", left=_LABELS)


def latency_distribution(total: Series) -> str:
    """The share of answers that were ready within a time, with the median and the 99th percentile."""
    ordered = sorted(total.samples)
    margin = max(ordered[-1] - ordered[0], 0.02 * ordered[-1]) * 0.08
    low, high = max(0.0, ordered[0] - margin), ordered[-1] + margin
    plot = Plot(Axis(low, high, "milliseconds of one answer"), Axis(0, 1, "share of answers"), "latency distribution")
    steps = [(low, 0.0)]
    for index, value in enumerate(ordered):
        steps += [(value, index / len(ordered)), (value, (index + 1) / len(ordered))]
    plot.line([*steps, (high, 1.0)], PALETTE[0])
    for name, value in (("median", total.summary.median), ("p99", total.summary.p99)):
        plot.line([(value, 0), (value, 1)], PALETTE[1], dashed=True)
        right = value > (low + high) / 2
        plot.text(value, 0.06, f"{name} {number(value)}", anchor="end" if right else "start", dx=-5 if right else 5)
    return plot.svg()


def roofline_plot(roof: Roofline) -> str:
    """A point per stage: FLOP/s reached over FLOPs per byte, both logarithmic, under the ceilings."""
    points = roof.points
    knee = roof.peak_flops / roof.bandwidth if roof.peak_flops and roof.bandwidth else None
    xs = [point.intensity for point in points] + ([knee] if knee else [])
    ys = [point.rate for point in points] + ([roof.peak_flops] if roof.peak_flops else [])
    x = Axis(min(xs) / 3, max(xs) * 3, "FLOPs per byte (least traffic)", logarithmic=True)
    y = Axis(min(ys) / 3, max(ys) * 3, "FLOP/s", logarithmic=True)
    plot = Plot(x, y, "roofline")
    if knee and roof.peak_flops and roof.bandwidth:
        start = max(x.low, y.low / roof.bandwidth)
        plot.line([(start, start * roof.bandwidth), (knee, roof.peak_flops), (x.high, roof.peak_flops)], PALETTE[5])
        plot.text(knee, roof.peak_flops, f"{short(roof.peak_flops)}FLOP/s", dx=4, dy=-7)
        middle = (start * knee) ** 0.5
        plot.text(middle, middle * roof.bandwidth, f"{short(roof.bandwidth)}B/s", anchor="end", dx=-8)
    for point, colour in zip(points, PALETTE, strict=False):
        reached = f"{short(point.rate)}FLOP/s, {short(point.rate / point.intensity)}B/s"
        plot.dot(point.intensity, point.rate, colour, f"{point.stage}: {reached}")
        crowded = any(0 < x.share(other.intensity) - x.share(point.intensity) < _NEAR for other in points)
        side = "end" if crowded or x.share(point.intensity) > 1 - _NEAR else "start"
        plot.text(point.intensity, point.rate, point.stage, anchor=side, dx=4 if side == "end" else -4, dy=18)
    return plot.svg()


def growth_plot(growth: Growth) -> str:
    """Cost over size with the range of each, and as a dashed line what the first cost would be if all were linear."""
    costs = [cost.summary for cost in growth.costs_ms]
    high = growth.sizes[-1] * 1.05
    top = max(cost.max for cost in costs) * 1.2
    plot = Plot(
        Axis(0, high, _AXES.get(growth.varied, growth.varied)),
        Axis(0, top, f"ms, {growth.measured}"),
        f"growth with {growth.varied}",
    )
    slope = costs[0].median / growth.sizes[0]
    end = min(high, top / slope)
    plot.line([(0, 0), (end, slope * end)], PALETTE[5], dashed=True)
    plot.text(end, slope * end, "linear", anchor="end", dx=-10, dy=2)
    plot.line([(size, cost.median) for size, cost in zip(growth.sizes, costs, strict=True)], PALETTE[0])
    for size, cost in zip(growth.sizes, costs, strict=True):
        plot.line([(size, cost.min), (size, cost.max)], _INK)
        plot.dot(size, cost.median, PALETTE[0], f"{short(size)}: {number(cost.median)} ms")
    return plot.svg()


def _bars(rows: Sequence[tuple[str, Series, str]], title: str, *, left: float) -> str:
    """Horizontal bars at the median with a whisker from the minimum to the 99th percentile, the median written out."""
    longest = max(series.summary.p99 for _, series, _ in rows)
    plot = Plot(
        Axis(0, longest * 1.18, "milliseconds (bar: median, whisker: minimum to p99)"),
        Axis(0, len(rows), ""),
        title,
        height=TOP + BOTTOM + _ROW * len(rows),
        left=left,
    )
    for index, (name, series, colour) in enumerate(rows):
        middle, summary = len(rows) - index - 0.5, series.summary
        plot.text(0, middle, name, anchor="end", dx=-8, dy=4)
        reached = max(summary.median, 0.0)
        plot.box((0, middle - 0.28), (reached, middle + 0.28), colour, f"{name}: median {number(summary.median)} ms")
        plot.line([(max(summary.min, 0.0), middle), (summary.p99, middle)], _INK)
        plot.text(max(summary.p99, summary.median), middle, number(summary.median), dx=7, dy=4)
    return plot.svg(y_labels=str)
