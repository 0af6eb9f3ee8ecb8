"""Confidence intervals by the bootstrap: images are drawn anew, with all that was asked about them.

The statistic of a resample is computed from how often each image was drawn, so that a metric which is no mean (average
precision, BLEU) is resampled like any other. Intervals are percentiles (Efron and Tibshirani, 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from florence_edge.geometry import Int64Array

Float64Array = npt.NDArray[np.float64]
Statistic = Callable[[Float64Array], float]
"""From the weight of every answer (1 each for the measured value) to a number, NaN where it is not defined."""


@dataclass(frozen=True)
class Estimate:
    """A measured value with the bounds of its confidence interval; all NaN where the metric is not defined."""

    value: float
    low: float
    high: float


class Resampling:
    """Draws for answers about some images; `image_of` [N] numbers each answer's image."""

    def __init__(self, image_of: Sequence[int], *, resamples: int, confidence: float = 0.95, seed: int = 0) -> None:
        _, rows = np.unique(np.asarray(image_of, np.int64), return_inverse=True)
        self._rows: Int64Array = rows.astype(np.int64)
        self._images = int(rows.max()) + 1 if len(rows) else 0
        self._resamples, self._confidence, self._seed = resamples, confidence, seed

    def estimate(self, statistic: Statistic) -> Estimate:
        """The value of a statistic and its interval."""
        value = statistic(np.ones(len(self._rows)))
        if np.isnan(value) or not self._resamples:
            return Estimate(value, float("nan"), float("nan"))
        rng = np.random.default_rng(self._seed)
        shares = np.full(self._images, 1 / self._images)
        drawn = [
            statistic(rng.multinomial(self._images, shares)[self._rows].astype(np.float64))
            for _ in range(self._resamples)
        ]
        known = [found for found in drawn if not np.isnan(found)]
        tail = (1 - self._confidence) / 2
        low, high = np.quantile(known, [tail, 1 - tail]).tolist() if known else (float("nan"), float("nan"))
        return Estimate(value, low, high)


def mean(values: npt.ArrayLike) -> Statistic:
    """The weighted mean of one value per answer; those that are NaN have none and do not count."""
    array = np.asarray(values, np.float64)
    known = ~np.isnan(array)

    def statistic(weights: Float64Array) -> float:
        total = weights[known].sum()
        return float((array[known] * weights[known]).sum() / total) if total > 0 else float("nan")

    return statistic


def ratio(numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> Statistic:
    """The weighted sum of numerators over that of denominators, one pair per answer."""
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)

    def statistic(weights: Float64Array) -> float:
        total = float((bottom * weights).sum())
        return float((top * weights).sum()) / total if total > 0 else float("nan")

    return statistic
