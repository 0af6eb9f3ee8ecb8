"""The numbers of one task, gathered while they are measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .answers import Answer
from .report import Metric, Table, defined
from .resampling import Float64Array, Resampling, Statistic


class Section:
    """Metrics and tables of the answers to one task, and how good each answer is (`quality` [N], 0 to 1)."""

    def __init__(self, answers: Sequence[Answer], resampling: Resampling) -> None:
        self.answers, self.task = answers, answers[0].task.token
        self.metrics: list[Metric] = []
        self.tables: list[Table] = []
        self.quality: Float64Array = np.ones(len(answers))
        self._resampling = resampling

    def add(self, name: str, statistic: Statistic, count: int, *, better: str = "higher", paper: str = "") -> None:
        """Measures a statistic over the answers with its interval."""
        found = self._resampling.estimate(statistic)
        value, low, high = defined(found.value), defined(found.low), defined(found.high)
        self.metrics.append(Metric(self.task, name, value, low, high, count, better, paper))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]]) -> None:
        """Adds numbers per class."""
        self.tables.append(Table(self.task, title, tuple(columns), tuple((name, tuple(row)) for name, row in rows)))
