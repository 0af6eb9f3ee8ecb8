"""The numbers of one task, gathered while they are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from florence_edge.geometry import Int64Array

from .answers import Answer
from .calibration import calibration_error
from .report import ERRORS, Metric, Table, defined
from .resampling import Float64Array, Resampling, Statistic


@dataclass(frozen=True, eq=False)
class Scored:
    """Items with a score [M], whether each is right [M] (0 or 1), and the answer [M] each belongs to."""

    scores: Float64Array
    right: Float64Array
    answers: Int64Array


class Section:
    """Metrics and tables of the answers to one task, and how good each answer is (`quality` [N], 0 to 1).

    `scored` holds the items that are either right or wrong, for tasks whose answers can be told to be.
    """

    def __init__(self, answers: Sequence[Answer], resampling: Resampling) -> None:
        self.answers, self.task = answers, answers[0].task.token
        self.metrics: list[Metric] = []
        self.tables: list[Table] = []
        self.quality: Float64Array = np.ones(len(answers))
        self.scored: Scored | None = None
        self._resampling = resampling

    def add(self, name: str, statistic: Statistic, count: int, *, paper: str = "") -> None:
        """Measures a statistic over the answers with its interval."""
        found = self._resampling.estimate(statistic)
        value, low, high = defined(found.value), defined(found.low), defined(found.high)
        better = "lower" if name in ERRORS else "higher"
        self.metrics.append(Metric(self.task, name, value, low, high, count, better, paper))

    def add_calibration(self, name: str, scored: Scored) -> None:
        """Measures how far scores are from the chance of being right; items without a score do not count."""
        known = ~np.isnan(scored.scores)
        if known.any():
            self.scored = Scored(scored.scores[known], scored.right[known], scored.answers[known])
            statistic = calibration_error(self.scored.scores, self.scored.right, self.scored.answers)
            self.add(name, statistic, int(known.sum()))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]]) -> None:
        """Adds numbers per class."""
        self.tables.append(Table(self.task, title, tuple(columns), tuple((name, tuple(row)) for name, row in rows)))
