"""Runs something again and again: first to warm up, by time, then to be measured."""

from __future__ import annotations

from collections.abc import Callable

from .clock import NANOSECONDS, Clock
from .settings import Settings


def repeat(work: Callable[[int], None], settings: Settings, clock: Clock, *, runs: int | None = None) -> None:
    """Calls `work` with a running number for as long as the settings say, at least `runs` times.

    Numbers are negative while warming up; a call that begins before the warm-up is over belongs to it.
    """
    start, number = clock.now(), 0
    while clock.now() - start < settings.warmup_seconds * NANOSECONDS:
        number -= 1
        work(number)
    start, number = clock.now(), 0
    least = settings.runs if runs is None else runs
    while number < least or clock.now() - start < settings.seconds * NANOSECONDS:
        work(number)
        number += 1
