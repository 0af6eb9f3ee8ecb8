"""Scenarios and camera on a clock that the test moves, and against MLPerf's own LoadGen."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_bench import scenarios
from florence_bench.camera import ALLOWED_DROPS, peak_rate, watch
from florence_bench.clock import NANOSECONDS, VirtualClock, WallClock
from florence_bench.loadgen import drive
from florence_bench.scenarios import Rules
from florence_bench.stats import early_stopping, overlatency_allowed, percentile
from florence_edge.errors import InputError


class Worker:
    """Spends the given seconds per sample, in turn, and notes what it was asked."""

    def __init__(self, clock: VirtualClock, *service: float) -> None:
        self.clock, self.service, self.asked = clock, service, list[list[int]]()

    def __call__(self, numbers: Sequence[int]) -> None:
        for _ in numbers:
            self.clock.spend(self.service[len(self.asked) % len(self.service)])
        self.asked.append(list(numbers))


def test_single_stream_goes_on_until_time_and_queries_are_reached() -> None:
    clock = VirtualClock(start=123)
    worker = Worker(clock, 0.01, 0.03)
    found = scenarios.single_stream(worker, Rules(seconds=2.0, queries=10, samples=3), clock)
    assert found.queries == found.samples == 100
    assert worker.asked[:4] == [[0], [1], [2], [0]]
    assert found.latency_ms
    assert set(found.latency_ms.samples) == {10.0, 30.0}
    assert found.samples_per_second == pytest.approx(50)
    assert found.early_stopping_ms == early_stopping(found.latency_ms.samples, 0.9) == 30.0
    assert found.valid


def test_too_few_queries_make_no_percentile() -> None:
    clock = VirtualClock()
    found = scenarios.single_stream(Worker(clock, 1.0), Rules(seconds=0.5, queries=5, samples=1), clock)
    assert (found.queries, found.early_stopping_ms, found.valid) == (5, None, False)
    assert "64 are the least" in found.note


@pytest.mark.parametrize(
    ("run", "least", "percentile"), [(scenarios.single_stream, 64, 0.90), (scenarios.multi_stream, 662, 0.99)]
)
def test_each_stream_needs_the_queries_of_its_percentile(run: Any, least: int, percentile: float) -> None:
    for queries in (least - 1, least):
        clock = VirtualClock()
        found = run(Worker(clock, 0.001), Rules(seconds=0, queries=queries, samples=1), clock)
        assert (found.percentile, found.valid, found.note == "") == (percentile, queries == least, queries == least)


def test_multi_stream_asks_eight_at_once() -> None:
    clock = VirtualClock()
    worker = Worker(clock, 0.01)
    found = scenarios.multi_stream(worker, Rules(seconds=0.5, queries=2, samples=5), clock)
    assert worker.asked[:2] == [[0, 1, 2, 3, 4, 0, 1, 2], [3, 4, 0, 1, 2, 3, 4, 0]]
    assert found.samples == 8 * found.queries
    assert found.samples_per_second == pytest.approx(100)
    assert found.latency_ms
    assert found.latency_ms.summary.median == pytest.approx(80)


def test_offline_hands_everything_over() -> None:
    clock = VirtualClock()
    worker = Worker(clock, 0.25)
    found = scenarios.offline(worker, Rules(seconds=1, queries=1, samples=3), clock, count=8)
    assert worker.asked == [[0, 1, 2, 0, 1, 2, 0, 1]]
    assert found.samples_per_second == pytest.approx(4)


def test_a_servers_queries_wait_for_the_ones_before() -> None:
    clock = VirtualClock(start=99)
    worker = Worker(clock, 0.1)
    found = scenarios.server(worker, Rules(seconds=0, queries=3000, samples=3), clock, rate=5.0, bound_ms=1e9)
    assert worker.asked[:4] == [[0], [1], [2], [0]]
    assert (found.rate, found.bound_ms, found.percentile) == (5.0, 1e9, 0.99)
    assert found.seconds == (clock.now() - 99) / NANOSECONDS
    assert found.samples_per_second == 3000 / found.seconds
    assert found.latency_ms
    assert found.early_stopping_ms == early_stopping(found.latency_ms.samples, 0.99)
    # M/D/1: mean waiting time rho * s / (2 * (1 - rho)) with rho = 0.5 (Pollaczek-Khinchine), plus the service itself.
    assert found.latency_ms.summary.mean == pytest.approx(150, rel=0.06)
    assert found.latency_ms.summary.min >= 100 - 1e-6
    assert found.valid
    assert not scenarios.server(
        Worker(clock, 0.1), Rules(seconds=0, queries=3000, samples=1), clock, rate=5.0, bound_ms=150
    ).valid


@pytest.mark.parametrize(("late", "valid"), [(0, True), (1, True), (2, False)])
def test_of_662_queries_one_may_be_late_and_the_bound_itself_is_not(late: int, valid: bool) -> None:
    clock, rules = VirtualClock(), Rules(seconds=0, queries=662, samples=1)
    service = [0.1] * (662 - late) + [0.1001] * late
    found = scenarios.server(Worker(clock, *service), rules, clock, rate=1e-6, bound_ms=100)
    assert (found.valid, found.note) == (valid, f"{late} of 662 queries over the bound of 100.0 ms")


def test_arrivals_follow_from_the_seed() -> None:
    def latencies(seed: int) -> tuple[float, ...]:
        clock, rules = VirtualClock(), Rules(seconds=0, queries=50, samples=1, seed=seed)
        found = scenarios.server(Worker(clock, 0.1), rules, clock, rate=8.0, bound_ms=100).latency_ms
        assert found
        return found.samples

    assert latencies(1) == latencies(1) != latencies(2)


def test_the_server_rate_is_the_highest_that_keeps_its_bound() -> None:
    rate = scenarios.server_rate([0.1], 400.0)
    assert rate is not None
    rules = Rules(seconds=0, queries=scenarios.REPLAYED_QUERIES, samples=1)
    for factor in (1.0, 1.0001):
        clock = VirtualClock()
        found = scenarios.server(Worker(clock, 0.1), rules, clock, rate=factor * rate, bound_ms=400.0)
        assert found.valid == (factor == 1)
    assert scenarios.server_rate([0.05] * 9 + [0.5], 400.0) is None, "one in ten is late by itself, though not the mean"


def test_the_server_rate_keeps_its_bound_and_hardly_more() -> None:
    service, bound = [0.08, 0.1, 0.12], 400.0
    rate = scenarios.server_rate(service, bound)
    assert rate is not None
    assert 0 < rate < 10
    clock = VirtualClock()
    rules = Rules(seconds=0, queries=3000, samples=1, seed=7)
    assert not scenarios.server(Worker(clock, *service), rules, clock, rate=1.3 * rate, bound_ms=bound).valid
    assert scenarios.server(Worker(clock, *service), rules, clock, rate=0.8 * rate, bound_ms=bound).valid
    assert scenarios.server_rate(service, 50.0) is None


@given(st.floats(0.001, 0.3), st.floats(1, 60))
def test_a_camera_drops_what_it_must_and_nothing_else(service: float, rate: float) -> None:
    clock = VirtualClock()
    worker = Worker(clock, service)
    run = watch(worker, clock, rate=rate, seconds_long=5, images=10**6)
    frames = [numbers[0] for numbers in worker.asked]
    assert frames == sorted(set(frames))
    assert run.answered + run.drops == run.sent == max(1, round(5 * rate))
    assert run.latency_ms.summary.max <= 1e3 * (service + 1 / rate) + 1e-3
    if service < 0.999 / rate:
        assert run.drops == 0
        assert run.latency_ms.summary.max == pytest.approx(1e3 * service, abs=1e-3)
    if service > 2.5 / rate and run.sent > 20:
        assert run.drops > run.sent / 2


def test_a_camera_run_in_numbers() -> None:
    clock = VirtualClock(start=77)
    steady = watch(Worker(clock, 0.05, 0.08), clock, rate=10, seconds_long=0.5, images=3)
    # Answered at 50, 180, 250, 380 and 450 ms: every interval is 30 ms from their mean of 100 ms.
    assert steady.jitter_ms
    assert steady.jitter_ms.samples == (30.0,) * 4
    assert (steady.seconds, steady.frames_per_second, steady.drop_share) == (0.45, 10.0, 0.0)
    worker = Worker(clock, 0.15)
    late = watch(worker, clock, rate=10, seconds_long=1, images=4)
    assert worker.asked == [[number % 4] for number in (0, 1, 3, 4, 6, 7, 9)]
    assert late.latency_ms.samples == (150, 200, 150, 200, 150, 200, 150)
    assert (late.drops, late.drop_share, late.frames_per_second) == pytest.approx((3, 0.3, 7 / 1.05))
    assert watch(worker, clock, rate=1, seconds_long=1, images=1).jitter_ms is None


def test_the_peak_rate_of_a_steady_worker_is_just_above_its_own() -> None:
    # Every frame is later by the same bit, until one is passed over: 1 in 20 at 1 / (1 - 0.05) of the worker's rate.
    found = peak_rate([0.1])
    assert 10 <= found <= 10 / (1 - ALLOWED_DROPS) + 0.1


def test_the_wall_clock_never_wakes_early() -> None:
    clock = WallClock()
    goal = clock.now() + NANOSECONDS // 100
    clock.sleep_until(goal)
    assert clock.now() >= goal


def test_loadgen_draws_the_same_conclusions(tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    latencies: list[int] = []

    def serve(numbers: Sequence[int]) -> None:
        start = time.perf_counter_ns()
        while time.perf_counter_ns() - start < 200_000:
            pass
        latencies.append(time.perf_counter_ns() - start)

    rules = Rules(seconds=0.1, queries=400, samples=4)
    summary = drive(serve, scenarios.SINGLE_STREAM, rules, tmp_path)
    assert len(latencies) >= 400
    estimate = re.search(r"Early stopping 90.0th percentile estimate: (\d+)", summary)
    discarded = re.search(r"Would discard (\d+) highest latency queries", summary)
    assert estimate, summary
    assert discarded, summary
    assert int(discarded[1]) == overlatency_allowed(len(latencies), 0.90) - 1
    ours = early_stopping(latencies, 0.90)
    assert ours is not None
    # LoadGen times the same queries from outside, and never sees one as shorter.
    assert percentile(latencies, 0.90) <= ours <= int(estimate[1])


@pytest.mark.parametrize("scenario", [scenarios.MULTI_STREAM, scenarios.OFFLINE, scenarios.SERVER])
def test_loadgen_drives_every_scenario(scenario: str, tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    asked: list[int] = []

    def serve(numbers: Sequence[int]) -> None:
        asked.append(len(numbers))

    summary = drive(serve, scenario, Rules(seconds=0.05, queries=20, samples=4), tmp_path, rate=500.0)
    assert f"Scenario : {scenario}" in summary
    expected = {scenarios.MULTI_STREAM: {8}, scenarios.SERVER: {1}}
    assert set(asked) == expected.get(scenario, set(asked))
    assert sum(asked) >= 20


def test_what_is_no_scenario_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    with pytest.raises(InputError, match="no scenario"):
        drive(lambda numbers: None, "Batch", Rules(1, 1, 1), tmp_path)
