"""The energy of some work: counters read before and after where there are any, else power sampled while it runs.

A counter (RAPL, NVML) is exact. Power monitors are sampled at 10 Hz, their own pace being about that, so an energy from
them is good for work of 30 s or more; never for a single answer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from florence_bench.clock import Clock, WallClock, seconds

from . import tegrastats
from .ina3221 import Rail, board_watts, rails
from .nvml import Nvml
from .rapl import zones

SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Energy:
    """What some work cost.

    `joules` maps a source (`RAPL package-0`, `GPU 0`, `rail VDD_IN`) to what it counted; sources may overlap, so they
    are not added up. `board_joules` is the whole board's where a monitor tells it. `samples` is the number of readings,
    0 for counters only. `joules_per_answer` is that of `board_joules`, or of the one source there is.
    """

    seconds: float
    answers: int
    joules: Mapping[str, float]
    board_joules: float | None
    joules_per_answer: float | None
    samples: int


@dataclass
class Account:
    """Filled when the measured block has ended."""

    answers: int = 0
    energy: Energy | None = None


@contextmanager
def metered(root: Path = Path("/"), clock: Clock | None = None) -> Iterator[Account]:
    """Measures the block; the caller counts its answers. Where nothing tells energy, `energy` stays None."""
    watch, account = clock or WallClock(), Account()
    with Nvml.open() as nvml:
        gpus = list(nvml.gpus())
        packages, monitored = zones(root), rails(root)
        before = [zone.energy() for zone in packages], [gpu.energy_joules() for gpu in gpus]
        start = watch.now()
        with _sampled(monitored) if monitored else tegrastats.running() as power:
            yield account
        spent = seconds(watch.now() - start)
        joules = {
            f"RAPL {zone.name}": zone.between(reading, zone.energy())
            for zone, reading in zip(packages, before[0], strict=True)
        }
        for index, (gpu, reading) in enumerate(zip(gpus, before[1], strict=True)):
            now = gpu.energy_joules()
            if reading is not None and now is not None:
                joules[f"GPU {index}"] = now - reading
    rail_joules = {rail: sum(watts) / len(watts) * spent for rail, watts in power.items() if watts}
    joules |= {f"rail {name}": value for name, value in rail_joules.items()}
    if joules:
        board = board_watts(rail_joules)
        whole = board if board is not None else next(iter(joules.values())) if len(joules) == 1 else None
        account.energy = Energy(
            seconds=spent,
            answers=account.answers,
            joules=joules,
            board_joules=board,
            joules_per_answer=whole / account.answers if whole is not None and account.answers else None,
            samples=max((len(watts) for watts in power.values()), default=0),
        )


@contextmanager
def _sampled(monitored: tuple[Rail, ...]) -> Iterator[dict[str, list[float]]]:
    """Reads all rails from a thread until the block ends, once at least."""
    readings: dict[str, list[float]] = {rail.name: [] for rail in monitored}
    ended = threading.Event()

    def sample() -> None:
        while True:
            for rail in monitored:
                with suppress(OSError, ValueError):
                    readings[rail.name].append(rail.watts())
            if ended.wait(SAMPLE_SECONDS):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield readings
    finally:
        ended.set()
        thread.join()
