"""What an evaluation found, as plain values and as a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from florence_edge.errors import InputError

ERRORS = frozenset({"CER", "ECE", "ECE at IoU 0.5"})
"""The metrics that are better when lower."""


@dataclass(frozen=True)
class Metric:
    """One number: `value` with the bounds `low` and `high` of its confidence interval, None where not defined.

    Values are fractions (CIDEr: 0 to 10); the page shows them times 100, as papers do. `count` is the number of
    questions, boxes or phrases it rests on. `paper` names the row of the Florence-2 paper's tables that measures the
    same, or is empty.
    """

    task: str
    name: str
    value: float | None
    low: float | None
    high: float | None
    count: int
    better: str = "higher"
    paper: str = ""


@dataclass(frozen=True)
class Table:
    """Numbers per class: `rows` has a name and one value per column, None where not defined."""

    task: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


@dataclass(frozen=True)
class Worst:
    """An answer far from the truth: `quality` 0 to 1, the `file` of its picture where a gallery was written."""

    task: str
    image: str
    input: str
    quality: float
    truth: str
    found: str
    file: str = ""


@dataclass(frozen=True)
class Report:
    """Everything an evaluation found.

    `model` and `data` say what was measured, `settings` how. `failures` lists the questions that the model could not
    answer; they count as answered with nothing. `seconds` is the time spent on reading (or rendering)
    images and asking, not on measuring.
    """

    model: Mapping[str, Any]
    data: str
    settings: Mapping[str, Any]
    images: int
    questions: int
    metrics: tuple[Metric, ...]
    tables: tuple[Table, ...] = ()
    worst: tuple[Worst, ...] = ()
    failures: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    seconds: float = 0.0
    machine: Mapping[str, str] = field(default_factory=dict)

    def metric(self, task: str, name: str) -> Metric:
        """A metric by its task's token and its name; `InputError` when it was not measured."""
        for metric in self.metrics:
            if (metric.task, metric.name) == (task, name):
                return metric
        measured = ", ".join(f"{metric.task} {metric.name}" for metric in self.metrics)
        raise InputError(f"{task} {name} was not measured; what was: {measured}")

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values that `json` can write."""
        return asdict(self)

    def to_json(self, *, indent: int | None = 2) -> str:
        """`to_dict` as strict JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def to_markdown(self) -> str:
        """The report as a page."""
        return "\n".join([*_head(self), *_metrics(self), *_tables(self), *_worst(self), *_lists(self)]) + "\n"


def defined(value: float) -> float | None:
    """The value, None for NaN."""
    return None if math.isnan(value) else value


def percent(value: float | None) -> str:
    """A value times 100 with one decimal, or a dash."""
    return "-" if value is None else f"{100 * value:.1f}"


def _head(report: Report) -> list[str]:
    said = {**report.model, **report.settings, **report.machine}
    rate = report.images / report.seconds if report.seconds else 0.0
    return [
        f"# Evaluation on {report.data}",
        "",
        f"{report.images} images, {report.questions} questions, {report.seconds:.1f} s ({rate:.2f} images/s).",
        "",
        *(f"- {key}: {value}" for key, value in said.items() if value),
        "",
    ]


def _metrics(report: Report) -> list[str]:
    confidence = float(report.settings.get("confidence", 0.95))
    lines = [
        "## Metrics",
        "",
        f"Values times 100, with {100 * confidence:g} % bootstrap intervals over images.",
        "",
        "| task | metric | value | interval | n | row of the paper |",
        "|---|---|---:|---|---:|---|",
    ]
    for metric in report.metrics:
        interval = "-" if metric.low is None else f"{percent(metric.low)} to {percent(metric.high)}"
        name = metric.name if metric.better == "higher" else f"{metric.name} (lower is better)"
        cells = (f"`{metric.task}`", name, percent(metric.value), interval, str(metric.count), metric.paper or "-")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _tables(report: Report) -> list[str]:
    lines: list[str] = []
    for table in report.tables:
        lines += [f"## `{table.task}`: {table.title}", "", f"| class | {' | '.join(table.columns)} |"]
        lines.append(f"|---|{'---:|' * len(table.columns)}")
        lines += [f"| {_cell(name)} | {' | '.join(map(_number, values))} |" for name, values in table.rows]
        lines.append("")
    return lines


def _worst(report: Report) -> list[str]:
    if not report.worst:
        return []
    lines = ["## Worst answers", ""]
    for case in report.worst:
        asked = f" {_cell(case.input)}" if case.input else ""
        lines += [f"### `{case.task}`{asked} on {case.image} (quality {case.quality:.2f})", ""]
        lines += [f"![truth left, answer right]({case.file})", ""] if case.file else []
        lines += [f"- truth: `{_cell(case.truth)}`", f"- answer: `{_cell(case.found)}`", ""]
    return lines


def _lists(report: Report) -> list[str]:
    lines: list[str] = []
    for title, entries in (("Questions without an answer", report.failures), ("Data left out", report.faults)):
        if entries:
            lines += [f"## {title} ({len(entries)})", "", *(f"- {_cell(entry)}" for entry in entries), ""]
    return lines


def _number(value: float | None) -> str:
    return str(value) if isinstance(value, int) else percent(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")
