"""Whether one result is faster than another: the ratio of medians of every timed figure, with its interval.

A figure is slower when the whole interval lies above 1 and the ratio at least `threshold` away from it; that no such
figure is found does not prove that there is none, which is why the interval is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from florence_edge.errors import listing

from .errors import BenchmarkError
from .report import Report
from .series import Series
from .stats import Estimate, ratio_of_medians

THRESHOLD = 0.02
"""Smaller changes than this are never called slower or faster: two builds of one program differ by as much."""
Verdict = Literal["slower", "faster", "same"]


@dataclass(frozen=True)
class Change:
    """One figure of both results: medians in milliseconds, and the second over the first."""

    figure: str
    before_ms: float
    after_ms: float
    ratio: Estimate
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """All figures both results have; `forced` lists what would have forbidden the comparison."""

    changes: tuple[Change, ...]
    forced: tuple[str, ...]

    @property
    def slower(self) -> tuple[Change, ...]:
        """The figures that got worse."""
        return tuple(change for change in self.changes if change.verdict == "slower")


def compare(before: Report, after: Report, *, force: bool = False, threshold: float = THRESHOLD) -> Comparison:
    """Compares two results of one machine, one setting and the same images; bundles may differ, that is the point.

    Raises `BenchmarkError` for anything else unless `force` is given.
    """
    if not 0 <= threshold < 1:
        raise BenchmarkError(f"the threshold is {threshold}; it must lie in 0..1")
    reasons = tuple(_differences(before, after))
    if reasons and not force:
        raise BenchmarkError(listing("these results cannot be compared (--force does it all the same):", reasons))
    second = dict(_figures(after))
    changes = tuple(
        _change(name, series, second[name], threshold) for name, series in _figures(before) if name in second
    )
    return Comparison(changes, reasons)


def _differences(before: Report, after: Report) -> Iterator[str]:
    if before.machine.key != after.machine.key:
        yield f"different machines: {', '.join(before.machine.key)} and {', '.join(after.machine.key)}"
    if before.before.power_mode != after.before.power_mode:
        yield f"different power modes: {before.before.power_mode} and {after.before.power_mode}"
    first, second = before.to_dict()["settings"], after.to_dict()["settings"]
    for name in first:
        if first[name] != second[name]:
            yield f"different settings: {name} is {first[name]!r} and {second[name]!r}"
    if before.stages.beams != after.stages.beams:
        yield f"different numbers of beams: {before.stages.beams} and {after.stages.beams}"
    if [image.sha256 for image in before.images] != [image.sha256 for image in after.images]:
        yield "different images"


def _figures(report: Report) -> Iterator[tuple[str, Series]]:
    """Every series of times, by the name it is shown with."""
    stages = report.stages
    yield "total", stages.total_ms
    yield from ((f"stage {name}", series) for name, series in stages.stages.items())
    yield "time to first token", stages.time_to_first_token_ms
    yield "per token", stages.per_token_ms
    if stages.streaming:
        yield "streamed, time to first token", stages.streaming.time_to_first_token_ms
        yield "streamed, between tokens", stages.streaming.inter_token_ms
    if report.footprint:
        yield "cold start", report.footprint.cold_start_ms
    for scenario in report.scenarios:
        if scenario.latency_ms:
            yield scenario.name, scenario.latency_ms


def _change(name: str, before: Series, after: Series, threshold: float) -> Change:
    first, second = ([max(value, 1e-6) for value in series.samples] for series in (before, after))
    ratio = ratio_of_medians(second, first)
    verdict: Verdict = "same"
    if ratio.low > 1 and ratio.value >= 1 + threshold:
        verdict = "slower"
    elif ratio.high < 1 and ratio.value <= 1 - threshold:
        verdict = "faster"
    return Change(name, before.summary.median, after.summary.median, ratio, verdict)
