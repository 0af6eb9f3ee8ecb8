"""How near each stage comes to what the machine can do: its FLOP/s over its FLOPs per byte, under measured ceilings.

The ceilings are those of the processor in fp32: a matrix product of NumPy's BLAS, and memory copied by all cores at
once. They are what this machine gave in this run, not a data sheet's; a lower bound of the true ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from florence_edge.geometry import Float32Array

from .clock import NANOSECONDS, Clock, seconds
from .work import Work

_SIDE = 1024
_COPIED_BYTES = 1 << 27


@dataclass(frozen=True)
class Point:
    """A stage: FLOPs and least bytes of one run, its median seconds."""

    stage: str
    flops: float
    bytes: float
    seconds: float

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes

    @property
    def rate(self) -> float:
        """FLOP/s reached."""
        return self.flops / self.seconds


@dataclass(frozen=True)
class Roofline:
    """The ceilings in FLOP/s and byte/s (None: not measured, as for an engine on a GPU) and the stages below them."""

    peak_flops: float | None
    bandwidth: float | None
    points: tuple[Point, ...]


def roofline(work: Mapping[str, Work], median_ms: Mapping[str, float], clock: Clock, *, on_cpu: bool) -> Roofline:
    """Points for the stages whose work is known; ceilings where the processor does the work."""
    points = tuple(
        Point(stage, one.flops, one.bytes, median_ms[stage] / 1e3)
        for stage, one in work.items()
        if median_ms[stage] > 0
    )
    if not on_cpu:
        return Roofline(None, None, points)
    return Roofline(peak_flops(clock), bandwidth(clock), points)


def peak_flops(clock: Clock, *, budget_seconds: float = 1.0) -> float:
    """FLOP/s of the best fp32 matrix product within the time given."""
    left = np.random.default_rng(0).random((_SIDE, _SIDE), np.float32)
    made = np.empty_like(left)
    return 2 * _SIDE**3 / _fastest(lambda: np.matmul(left, left, out=made), clock, budget_seconds)


def bandwidth(clock: Clock, *, budget_seconds: float = 1.0) -> float:
    """Bytes per second, read and written, of the best copy by all cores within the time given."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    source = np.ones(_COPIED_BYTES // 4, np.float32)
    parts = list(zip(np.array_split(np.zeros_like(source), workers), np.array_split(source, workers), strict=True))
    with ThreadPoolExecutor(workers) as pool:
        return 2 * _COPIED_BYTES / _fastest(lambda: list(pool.map(_copy, parts)), clock, budget_seconds)


def _copy(part: tuple[Float32Array, Float32Array]) -> None:
    np.copyto(*part)


def _fastest(work: Callable[[], object], clock: Clock, budget_seconds: float) -> float:
    """Seconds of the fastest of at least three runs."""
    spent: list[int] = []
    while len(spent) < 3 or sum(spent) < budget_seconds * NANOSECONDS:
        start = clock.now()
        work()
        spent.append(clock.now() - start)
    return seconds(min(spent))
