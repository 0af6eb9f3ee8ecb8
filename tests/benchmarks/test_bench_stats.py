"""The statistics against NumPy, SciPy and the numbers that MLPerf LoadGen itself prints."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_bench.errors import BenchmarkError
from florence_bench.growth import judge
from florence_bench.series import Series
from florence_bench.stats import (
    early_stopping,
    exponent,
    overlatency_allowed,
    percentile,
    ratio_of_medians,
    resolves,
    samples_needed,
    summarise,
)

times = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=60)


@given(times)
def test_summaries_are_those_of_numpy(samples: list[float]) -> None:
    found = summarise(samples)
    expected = {"min": np.min(samples), "median": np.median(samples), "mean": np.mean(samples), "max": np.max(samples)}
    expected |= {f"p{share}": np.percentile(samples, share) for share in (90, 95, 99)}
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-9)
    if len(samples) > 1:
        assert found.deviation == pytest.approx(np.std(samples, ddof=1), rel=1e-6, abs=1e-9)
    low, high = np.percentile(samples, [25, 75])
    fence = 1.5 * (high - low)
    assert found.low_outliers + found.high_outliers <= len(samples)
    assert abs(found.high_outliers - sum(np.asarray(samples) > high + fence)) <= samples.count(high + fence)


@given(times, st.floats(0, 1))
def test_percentiles_are_those_of_numpy(samples: list[float], share: float) -> None:
    assert percentile(samples, share) == pytest.approx(np.quantile(samples, share), rel=1e-9)


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_what_cannot_be_summarised_is_refused(samples: list[float]) -> None:
    with pytest.raises(BenchmarkError, match="finite"):
        summarise(samples)


@given(st.integers(1, 3000), st.sampled_from([0.9, 0.95, 0.99]))
@settings(max_examples=60)
def test_the_allowed_overlatency_is_the_quantile_of_the_binomial(count: int, share: float) -> None:
    chances = scipy.stats.binom.cdf(np.arange(count + 1), count, 1 - share)
    assert overlatency_allowed(count, share) == int(np.sum(chances < 0.01)) - 1


def test_the_numbers_that_loadgen_prints() -> None:
    assert samples_needed(0.90) == 64
    assert samples_needed(0.99) == 662
    assert overlatency_allowed(382, 0.90) == 24
    samples = list(range(1, 383))
    assert early_stopping(samples, 0.90) == sorted(samples)[-24]
    assert early_stopping(samples[:63], 0.90) is None
    assert early_stopping(samples[:64], 0.90) == 64


def test_the_early_stopping_estimate_is_above_the_percentile_in_99_of_100_samples() -> None:
    rng = np.random.default_rng(0)
    truth = -math.log(0.1)
    estimates = [early_stopping(rng.exponential(size=200).tolist(), 0.90) for _ in range(1000)]
    assert sum(estimate is not None and estimate >= truth for estimate in estimates) > 980


def test_a_percentile_needs_samples_beyond_it() -> None:
    assert [resolves(count, 0.99) for count in (99, 100)] == [False, True]
    assert [resolves(count, 0.9) for count in (9, 10)] == [False, True]


def test_the_ratio_and_its_interval_are_those_of_scipys_bootstrap() -> None:
    rng = np.random.default_rng(1)
    above, below = rng.gamma(9, 1.2, 80), rng.gamma(9, 1.0, 60)
    found = ratio_of_medians(above.tolist(), below.tolist())
    oracle = scipy.stats.bootstrap(
        (above, below),
        lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
        method="percentile",
        n_resamples=4000,
        vectorized=True,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found.value == pytest.approx(np.median(above) / np.median(below))
    assert found.low == pytest.approx(oracle.low, rel=0.02)
    assert found.high == pytest.approx(oracle.high, rel=0.02)
    assert ratio_of_medians(above.tolist(), below.tolist()) == found


def test_a_ratio_to_nothing_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="above 0"):
        ratio_of_medians([1.0], [0.0])


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_growth_is_the_power_it_was_made_with(power: float) -> None:
    sizes = [8.0, 16.0, 32.0, 64.0]
    found = exponent(sizes, [[3 * size**power] for size in sizes])
    assert (found.value, found.low, found.high) == pytest.approx((power, power, power))


def test_the_exponent_and_its_interval_are_those_of_polyfit_and_scipys_bootstrap() -> None:
    rng = np.random.default_rng(3)
    sizes = [1.0, 2.0, 4.0]
    costs = [size * rng.gamma(100, 0.01, 15) for size in sizes]

    def slope(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        medians = np.log(np.stack([np.median(sample, axis=axis) for sample in samples]))
        slopes = np.polyfit(np.log(sizes), medians.reshape(len(sizes), -1), 1)[0]
        return np.asarray(slopes.reshape(medians.shape[1:]))

    found = exponent(sizes, [cost.tolist() for cost in costs])
    oracle = scipy.stats.bootstrap(
        costs, slope, method="percentile", n_resamples=4000, vectorized=True, rng=np.random.default_rng(4)
    ).confidence_interval
    assert found.value == pytest.approx(float(slope(*costs)))
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), rel=0.02)


@pytest.mark.parametrize(("power", "verdict"), [(0.5, "yes"), (1.0, "yes"), (1.1, "open"), (1.5, "no")])
def test_the_verdict_on_growth_needs_the_whole_interval(power: float, verdict: str) -> None:
    scatter = (0.97, 1.0, 1.03)
    sizes = (1.0, 2.0, 4.0)
    costs = tuple(Series.of([size**power * factor for factor in scatter]) for size in sizes)
    found = judge("beams", "search", sizes, costs, seed=0)
    assert found.linear_or_better == verdict
    assert found.per_unit.value == pytest.approx(4.0**power / 4)
    assert found.per_unit.low < found.per_unit.value < found.per_unit.high


@pytest.mark.parametrize(("sizes", "costs"), [([8.0, 8.0], [[1.0], [2.0]]), ([8.0, 9.0], [[1.0], [0.0]])])
def test_growth_needs_two_sizes_and_costs(sizes: list[float], costs: list[list[float]]) -> None:
    with pytest.raises(BenchmarkError, match="two different sizes"):
        exponent(sizes, costs)
