"""A camera that does not wait: frames arrive at a fixed rate, the newest one is answered, the others are dropped.

This is what a robot's perception node does with a queue of one. `drops` counts frames that were never answered, latency
runs from a frame's arrival to its answer, jitter is how far the interval between two answers is from the mean interval.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .clock import NANOSECONDS, Clock, VirtualClock, milliseconds, seconds
from .scenarios import Serve
from .series import Series

ALLOWED_DROPS = 0.05
"""Share of dropped frames up to which a rate counts as kept, as in ros2_benchmark."""
REPLAYED_FRAMES = 1000
_BISECTIONS = 20


@dataclass(frozen=True)
class CameraRun:
    """What a source of `rate` frames a second saw; `jitter_ms` is None where fewer than two frames were answered."""

    rate: float
    seconds: float
    sent: int
    answered: int
    drops: int
    drop_share: float
    frames_per_second: float
    latency_ms: Series
    jitter_ms: Series | None


@dataclass(frozen=True)
class Camera:
    """The rates asked for, and the highest one kept with under 5 % drops.

    `peak_rate` was found by replaying recorded service times; `peak` is the live run that confirms or refutes it.
    """

    runs: tuple[CameraRun, ...]
    peak_rate: float
    peak: CameraRun


def watch(serve: Serve, clock: Clock, *, rate: float, seconds_long: float, images: int) -> CameraRun:
    """Answers frames of `rate` a second for so long; what was not begun by then is dropped."""
    start, period = clock.now(), NANOSECONDS / rate
    sent = max(1, round(seconds_long * rate))
    frame, answered, latencies = 0, list[int](), list[float]()
    while frame < sent:
        arrival = start + round(frame * period)
        clock.sleep_until(arrival)
        serve([frame % images])
        answered.append(clock.now())
        latencies.append(milliseconds(answered[-1] - arrival))
        frame = max(frame + 1, int((answered[-1] - start) / period))
    intervals = [milliseconds(later - earlier) for earlier, later in pairwise(answered)]
    mean = sum(intervals) / len(intervals) if intervals else 0.0
    return CameraRun(
        rate=rate,
        seconds=seconds(answered[-1] - start),
        sent=sent,
        answered=len(answered),
        drops=sent - len(answered),
        drop_share=(sent - len(answered)) / sent,
        frames_per_second=len(answered) / seconds(max(answered[-1] - start, round(sent * period))),
        latency_ms=Series.of(latencies),
        jitter_ms=Series.of([abs(interval - mean) for interval in intervals]) if intervals else None,
    )


def peak_rate(service_seconds: Sequence[float], *, seed: int = 0) -> float:
    """The highest frame rate with fewer than 5 % drops when recorded service times are replayed in random order."""
    low, high = 0.0, 1 / (min(service_seconds) * (1 - ALLOWED_DROPS))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _replayed_drops(service_seconds, middle, seed) < ALLOWED_DROPS else (low, middle)
    return low


def _replayed_drops(service_seconds: Sequence[float], rate: float, seed: int) -> float:
    clock, drawn = VirtualClock(), random.Random(seed)
    replayed: Serve = lambda _: clock.spend(drawn.choice(service_seconds))  # noqa: E731  # a name for the type
    return watch(replayed, clock, rate=rate, seconds_long=REPLAYED_FRAMES / rate, images=1).drop_share
