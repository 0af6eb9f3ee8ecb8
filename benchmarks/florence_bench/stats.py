"""All statistics: summaries of samples, the early-stopping estimate of MLPerf, the ratio of two medians.

Outliers are counted (Tukey's fences), never removed: a robot waits for them too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import BenchmarkError

EARLY_STOPPING_CONFIDENCE = 0.99
"""Confidence of MLPerf LoadGen's early-stopping estimates."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Summary:
    """A sample in numbers. `deviation` is that of the sample (n - 1), `variation` it over the mean.

    Percentiles interpolate linearly between order statistics, as NumPy does. `low_outliers` and `high_outliers` count
    values more than 1.5 interquartile ranges outside the quartiles.
    """

    count: int
    min: float
    median: float
    mean: float
    p90: float
    p95: float
    p99: float
    max: float
    deviation: float
    variation: float
    low_outliers: int
    high_outliers: int


def summarise(samples: Sequence[float]) -> Summary:
    """The summary of at least one finite value."""
    ordered = _ordered(samples)
    mean = statistics.fmean(ordered)
    deviation = statistics.stdev(ordered) if len(ordered) > 1 else 0.0
    lower, upper = _quantile(ordered, 0.25), _quantile(ordered, 0.75)
    fence = 1.5 * (upper - lower)
    return Summary(
        count=len(ordered),
        min=ordered[0],
        median=_quantile(ordered, 0.5),
        mean=mean,
        p90=_quantile(ordered, 0.90),
        p95=_quantile(ordered, 0.95),
        p99=_quantile(ordered, 0.99),
        max=ordered[-1],
        deviation=deviation,
        variation=deviation / mean if mean else 0.0,
        low_outliers=sum(value < lower - fence for value in ordered),
        high_outliers=sum(value > upper + fence for value in ordered),
    )


def percentile(samples: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of a sample lies, interpolated linearly."""
    if not 0 <= share <= 1:
        raise BenchmarkError(f"the share is {share}; it must lie in 0..1")
    return _quantile(_ordered(samples), share)


def resolves(count: int, share: float) -> bool:
    """Whether a sample of this size has a value beyond the percentile; else it is the maximum by another name."""
    return count * (1 - share) >= 1 - 1e-9


def early_stopping(samples: Sequence[float], share: float) -> float | None:
    """MLPerf's early-stopping estimate of a percentile: an upper bound that holds with 99 % confidence.

    It is the t-th highest value, t being the largest number of values above the true percentile that would still be
    improbable: P(Binomial(n, 1 - share) <= t) < 0.01. None where the sample is too small for t = 1 (64 values are the
    least for the 90th percentile, 662 for the 99th).
    """
    ordered = _ordered(samples)
    allowed = overlatency_allowed(len(ordered), share)
    return ordered[len(ordered) - allowed] if allowed >= 1 else None


def overlatency_allowed(count: int, share: float) -> int:
    """The t of `early_stopping` for `count` values; 0 or -1 (not even none) mean that there are too few."""
    allowed, cumulative = -1, 0.0
    while True:
        cumulative += _binomial(count, allowed + 1, 1 - share)
        if cumulative >= 1 - EARLY_STOPPING_CONFIDENCE:
            return allowed
        allowed += 1


def samples_needed(share: float, overlatency: int = 1) -> int:
    """The smallest number of values of which `overlatency` may lie above the bound."""
    count = overlatency + 1
    while overlatency_allowed(count, share) < overlatency:
        count += 1
    return count


@dataclass(frozen=True)
class Estimate:
    """A figure with its confidence interval."""

    value: float
    low: float
    high: float
    confidence: float


def ratio_of_medians(
    above: Sequence[float], below: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """median(above) / median(below), with the percentile interval of a bootstrap that resamples both sides."""
    top, bottom = np.asarray(_ordered(above)), np.asarray(_ordered(below))
    if bottom[0] <= 0:
        raise BenchmarkError(f"the sample below the line holds {bottom[0]:g}; a ratio needs values above 0")
    rng = np.random.default_rng(seed)
    ratios = _resampled_medians(top, rng) / _resampled_medians(bottom, rng)
    return _estimate(float(np.median(top) / np.median(bottom)), ratios, confidence)


def exponent(
    sizes: Sequence[float], costs: Sequence[Sequence[float]], *, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """The power with which costs grow, with the percentile interval of a bootstrap that resamples every size.

    It is the least-squares slope of log(median cost) over log(size); `costs` has the sample of every size.
    """
    samples = [np.asarray(_ordered(sample)) for sample in costs]
    if len(set(sizes)) < 2 or min(*sizes, *(sample[0] for sample in samples)) <= 0:
        raise BenchmarkError("growth needs at least two different sizes, and sizes and costs above 0")
    lengths = np.log(np.asarray(sizes))
    weights = (lengths - lengths.mean()) / np.square(lengths - lengths.mean()).sum()
    rng = np.random.default_rng(seed)
    resampled = np.stack([_resampled_medians(sample, rng) for sample in samples], axis=1)
    slope = float(np.log([np.median(sample) for sample in samples]) @ weights)
    return _estimate(slope, np.log(resampled) @ weights, confidence)


def _estimate(value: float, resampled: np.ndarray, confidence: float) -> Estimate:
    """A figure with the percentile interval of what resampling gave."""
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high), confidence)


def _resampled_medians(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(np.median(values[rng.integers(0, len(values), (RESAMPLES, len(values)))], axis=1))


def _ordered(samples: Sequence[float]) -> list[float]:
    if not len(samples) or not all(map(math.isfinite, samples)):
        raise BenchmarkError(f"statistics need at least one value and only finite ones; got {list(samples)[:5]}")
    return sorted(float(value) for value in samples)


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def _binomial(count: int, hits: int, chance: float) -> float:
    """P(Binomial(count, chance) = hits), by logarithms: the factorials are far beyond a float."""
    ways = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(ways + hits * math.log(chance) + (count - hits) * math.log1p(-chance))
