"""The statistics against NumPy, SciPy and what MLPerf LoadGen itself prints, and what is concluded from them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_bench.compare import _change
from florence_bench.contenders import OURS, Job
from florence_bench.errors import BenchmarkError
from florence_bench.growth import judge
from florence_bench.series import Series
from florence_bench.standings import Entry, Record, Workload, standings
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
from florence_edge.options import SearchConfig
from florence_edge.preprocess import ImageSpec

times = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=60)


@given(times)
def test_summaries_are_those_of_numpy(samples: list[float]) -> None:
    found = summarise(samples)
    expected = {"min": np.min(samples), "median": np.median(samples), "mean": np.mean(samples), "max": np.max(samples)}
    expected |= {f"p{share}": np.percentile(samples, share) for share in (90, 95, 99)}
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-9)
    deviation = np.std(samples, ddof=1) if len(samples) > 1 else 0.0
    assert found.deviation == pytest.approx(deviation, rel=1e-6, abs=1e-9)
    assert found.variation == pytest.approx(deviation / np.mean(samples), rel=1e-6, abs=1e-9)
    assert found.count == len(samples)


@pytest.mark.parametrize(("ends", "outliers"), [((10, 90), (0, 0)), ((9, 90), (1, 0)), ((10, 91), (0, 1))])
def test_outliers_lie_beyond_tukeys_fences(ends: tuple[float, float], outliers: tuple[int, int]) -> None:
    """The quartiles are 40 and 60, so the fences 10 and 90."""
    found = summarise([40, 40, 40, 50, 60, 60, 60, *ends])
    assert (found.low_outliers, found.high_outliers) == outliers


@given(times, st.floats(0, 1))
def test_percentiles_are_those_of_numpy(samples: list[float], share: float) -> None:
    assert percentile(samples, share) == pytest.approx(np.quantile(samples, share), rel=1e-9)


def test_a_series_keeps_its_order_and_nanoseconds_and_sums_up_what_it_keeps() -> None:
    found = Series.of([2.0, 1.23456749])
    assert (found.samples, found.summary.min) == ((2.0, 1.234567), 1.234567)
    assert Series.of([0.0, 0.0]).summary.variation == 0.0


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


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ((102.0, 102.0, 102.0), "slower"),
        ((101.9, 101.9, 101.9), "same"),
        ((98.0, 98.0, 98.0), "faster"),
        ((98.1, 98.1, 98.1), "same"),
        ((60.0, 105.0, 150.0), "same"),
        ((60.0, 95.0, 150.0), "same"),
    ],
)
def test_a_change_must_be_large_and_certain(after: tuple[float, ...], verdict: str) -> None:
    found = _change("total", Series.of([100.0] * 3), Series.of(after), 0.02)
    assert (found.before_ms, found.after_ms, found.verdict) == (100.0, after[1], verdict)
    assert found.ratio.value == pytest.approx(after[1] / 100)


def record(name: str, kind: str, factor: float, *, beams: int = 3, last: float = 70.0) -> Record:
    """Three rounds that take `factor` times as long, and as much memory, as those of factor 1."""
    job = Job(kind, "folder", ImageSpec(), 577, 51289, (), 1, "onnx", None, "scratch")
    answer = [70 * factor, 70 * factor, last * factor]
    times = {"answer": answer, "first": [10 * factor] * 3}
    ids: dict[str, tuple[tuple[int, ...], ...]] = {"answer": ((0, 5, 2),), "first": ((0, int(factor), 2),)}
    return Record(Entry(name, job, beams), [100 * factor] * 3, ids, times, peak_bytes=int(1000 * factor))


def test_a_duel_tells_how_many_times_as_long_the_other_takes() -> None:
    # With the `</s>` at the limit forced, answers of 33 and 3 tokens lie 30 decoder steps apart.
    search = SearchConfig(max_new_tokens=33)
    workloads = [
        Workload(name, Path("scene.png"), (), replace(search, max_new_tokens=tokens))
        for name, tokens in (("answer", 33), ("first", 3))
    ]
    records = [record("ours", OURS, 1), record("other", "transformers", 3), record("greedy", "openvino", 2, beams=1)]
    found = standings(records, [], workloads, rounds=3, seed=0)
    (duel,) = found.duels
    assert (duel.ours, duel.other, duel.memory) == ("ours", "other", 3.0)
    assert set(duel.ratios) == {"answer", "first", "step", "cold start"}
    for ratio in duel.ratios.values():
        assert (ratio.low, ratio.value, ratio.high) == pytest.approx((3, 3, 3))
    assert duel.identical == {"answer": True, "first": False}
    steps = [finish.per_step_ms for finish in found.finishes]
    assert [step.samples for step in steps if step] == [(2.0,) * 3, (6.0,) * 3, (4.0,) * 3]
    noisy = standings([records[0], record("noisy", OURS, 3, last=10.0)], [], workloads, rounds=3, seed=0)
    assert noisy.finishes[1].per_step_ms is None
    assert all("step" not in duel.ratios for duel in noisy.duels)
