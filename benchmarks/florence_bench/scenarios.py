"""The four scenarios of MLPerf inference, over anything that answers samples by their numbers.

SingleStream: the next query when the last one is answered; the 90th percentile counts. MultiStream: the same with
eight samples to a query; the 99th. Offline: all samples at once; samples per second count. Server: queries arrive at
random (a Poisson process) at a given rate and wait for the one before; the 99th percentile of arrival to answer must
stay within a bound. Percentiles are MLPerf's early-stopping estimates (`stats.early_stopping`), None where too few
queries were made. A short run is not a submission: MLPerf asks for 600 s.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .clock import NANOSECONDS, Clock, VirtualClock, milliseconds, seconds
from .series import Series
from .stats import early_stopping, overlatency_allowed, samples_needed

Serve = Callable[[Sequence[int]], None]
"""Answers the samples of these numbers; returns when all are answered."""

SINGLE_STREAM, MULTI_STREAM, OFFLINE, SERVER = "SingleStream", "MultiStream", "Offline", "Server"
TAIL = {SINGLE_STREAM: 0.90, MULTI_STREAM: 0.99, SERVER: 0.99}
STREAMS = 8
REPLAYED_QUERIES = 2000
_BISECTIONS = 20


@dataclass(frozen=True)
class Rules:
    """How long a scenario runs: at least `seconds` and `queries`, never past `seconds` once there are that many.

    `samples` is the number of different samples that can be asked for; `seed` draws the server's arrivals.
    """

    seconds: float
    queries: int
    samples: int
    seed: int = 0


@dataclass(frozen=True)
class Scenario:
    """What one scenario gave.

    `early_stopping_ms` is the estimate of the `percentile` (0..1) of latency. `bound_ms` and `rate` (queries a second)
    are the server's. `valid` says whether the figure that counts may be used; `note` says why not.
    """

    name: str
    queries: int
    samples: int
    seconds: float
    samples_per_second: float
    latency_ms: Series | None
    percentile: float | None
    early_stopping_ms: float | None
    bound_ms: float | None
    rate: float | None
    valid: bool
    note: str


def single_stream(serve: Serve, rules: Rules, clock: Clock) -> Scenario:
    """One sample after the other."""
    return _back_to_back(serve, rules, clock, SINGLE_STREAM, width=1)


def multi_stream(serve: Serve, rules: Rules, clock: Clock) -> Scenario:
    """Eight samples after the other eight."""
    return _back_to_back(serve, rules, clock, MULTI_STREAM, width=STREAMS)


def offline(serve: Serve, rules: Rules, clock: Clock, *, count: int) -> Scenario:
    """`count` samples handed over at once."""
    start = clock.now()
    serve([number % rules.samples for number in range(count)])
    spent = clock.now() - start
    return Scenario(
        name=OFFLINE,
        queries=1,
        samples=count,
        seconds=seconds(spent),
        samples_per_second=count / seconds(spent),
        latency_ms=None,
        percentile=None,
        early_stopping_ms=None,
        bound_ms=None,
        rate=None,
        valid=True,
        note="all samples handed over at once",
    )


def server(serve: Serve, rules: Rules, clock: Clock, *, rate: float, bound_ms: float) -> Scenario:
    """Queries of one sample arrive at random, `rate` a second on average; one is answered at a time, in order."""
    start = clock.now()
    drawn = random.Random(rules.seed)
    arrival, latencies = float(start), list[float]()
    while True:
        arrival += drawn.expovariate(rate) * NANOSECONDS
        if len(latencies) >= rules.queries and arrival - start >= rules.seconds * NANOSECONDS:
            break
        clock.sleep_until(round(arrival))
        serve([len(latencies) % rules.samples])
        latencies.append(milliseconds(clock.now() - round(arrival)))
    estimate = early_stopping(latencies, TAIL[SERVER])
    late = sum(latency > bound_ms for latency in latencies)
    spent = clock.now() - start
    return Scenario(
        name=SERVER,
        queries=len(latencies),
        samples=len(latencies),
        seconds=seconds(spent),
        samples_per_second=len(latencies) / seconds(spent),
        latency_ms=Series.of(latencies),
        percentile=TAIL[SERVER],
        early_stopping_ms=estimate,
        bound_ms=bound_ms,
        rate=rate,
        valid=late <= overlatency_allowed(len(latencies), TAIL[SERVER]),
        note=f"{late} of {len(latencies)} queries over the bound of {bound_ms:.1f} ms" + _too_few(latencies, SERVER),
    )


def server_rate(service_seconds: Sequence[float], bound_ms: float, *, seed: int = 0) -> float | None:
    """The highest rate at which recorded service times, replayed in random order, keep the server's bound; or None.

    Found by bisection on a virtual clock, so that the machine need not serve thousands of queries per candidate.
    """
    mean = sum(service_seconds) / len(service_seconds)

    def holds(rate: float) -> bool:
        clock = VirtualClock()
        drawn = random.Random(seed)
        rules = Rules(seconds=0, queries=REPLAYED_QUERIES, samples=1, seed=seed)
        replayed: Serve = lambda _: clock.spend(drawn.choice(service_seconds))  # noqa: E731  # a name for the type
        return server(replayed, rules, clock, rate=rate, bound_ms=bound_ms).valid

    low, high = 1e-3 / mean, 1 / mean
    if not holds(low):
        return None
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _back_to_back(serve: Serve, rules: Rules, clock: Clock, name: str, *, width: int) -> Scenario:
    start = clock.now()
    latencies = list[float]()
    while len(latencies) < rules.queries or clock.now() - start < rules.seconds * NANOSECONDS:
        begun, first = clock.now(), len(latencies) * width
        serve([number % rules.samples for number in range(first, first + width)])
        latencies.append(milliseconds(clock.now() - begun))
    spent = seconds(clock.now() - start)
    return Scenario(
        name=name,
        queries=len(latencies),
        samples=len(latencies) * width,
        seconds=spent,
        samples_per_second=len(latencies) * width / spent,
        latency_ms=Series.of(latencies),
        percentile=TAIL[name],
        early_stopping_ms=early_stopping(latencies, TAIL[name]),
        bound_ms=None,
        rate=None,
        valid=early_stopping(latencies, TAIL[name]) is not None,
        note=_too_few(latencies, name).strip(" ;"),
    )


def _too_few(latencies: Sequence[float], name: str) -> str:
    share = TAIL[name]
    if overlatency_allowed(len(latencies), share) >= 1:
        return ""
    return f"; {len(latencies)} queries are too few for p{share * 100:.0f}, {samples_needed(share)} are the least"
