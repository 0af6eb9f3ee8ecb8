"""The pictures of a report: stages, the distribution of latency, the roofline, growth, the race."""

from __future__ import annotations

from collections.abc import Sequence

from .growth import Growth
from .race import Race
from .roofline import Roofline
from .series import Series
from .stages import Stages
from .svg import BOTTOM, PALETTE, TOP, Axis, Plot, short

_ROW = 34.0
_LABELS = 250.0


def stage_bars(stages: Stages) -> str:
    """A bar per stage at its median, with a whisker from the minimum to the 99th percentile."""
    rows = [*stages.stages.items(), ("total", stages.total_ms)]
    return _bars([(name, series, PALETTE[5 if name == "total" else 0]) for name, series in rows], "stages", left=100.0)


def race_bars(race: Race, workload: str) -> str:
    """A bar per contender; florence-edge in its own colour."""
    rows = [
        (finish.name, finish.times_ms[workload], PALETTE[0 if finish.kind == "florence-edge" else 1])
        for finish in race.finishes
        if workload in finish.times_ms
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
        plot.text(value, 0.06, f"{name} {value:.4g}", anchor="end" if right else "start", dx=-5 if right else 5)
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
        plot.text(x.high, roof.peak_flops, f"{short(roof.peak_flops)}FLOP/s", anchor="end", dy=-7)
        plot.text(start, start * roof.bandwidth, f"{short(roof.bandwidth)}B/s", dx=14, dy=14)
    for point, colour in zip(points, PALETTE, strict=False):
        reached = f"{short(point.rate)}FLOP/s, {short(point.rate / point.intensity)}B/s"
        plot.dot(point.intensity, point.rate, colour, f"{point.stage}: {reached}")
        right = x.share(point.intensity) > 0.75
        plot.text(
            point.intensity, point.rate, point.stage, anchor="end" if right else "start", dx=-9 if right else 9, dy=4
        )
    return plot.svg()


def growth_plot(growth: Growth) -> str:
    """Cost over size, and the straight line through zero and the last point."""
    medians = [cost.summary.median for cost in growth.costs_ms]
    high = growth.sizes[-1] * 1.05
    plot = Plot(
        Axis(0, high, growth.varied),
        Axis(0, max(medians) * 1.15, f"ms, {growth.measured}"),
        f"growth with {growth.varied}",
        height=250.0,
    )
    plot.line([(0, 0), (growth.sizes[-1], medians[-1])], PALETTE[5], dashed=True)
    plot.line(list(zip(growth.sizes, medians, strict=True)), PALETTE[0])
    for size, median in zip(growth.sizes, medians, strict=True):
        plot.dot(size, median, PALETTE[0], f"{short(size)}: {median:.4g} ms")
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
        plot.box((0, middle - 0.28), (reached, middle + 0.28), colour, f"{name}: median {summary.median:.4g} ms")
        plot.line([(max(summary.min, 0.0), middle), (summary.p99, middle)], "var(--ink, #333)")
        plot.text(max(summary.p99, summary.median), middle, f"{summary.median:.4g}", dx=7, dy=4)
    return plot.svg(y_labels=str)
