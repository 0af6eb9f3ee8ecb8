"""Time, as the measuring loops see it: the real one, or one that a test or a replay moves by hand.

Instants are nanoseconds of `time.perf_counter_ns`, whose zero means nothing.
"""

from __future__ import annotations

import time
from typing import Protocol

NANOSECONDS = 1_000_000_000


class Clock(Protocol):
    """What a loop needs to know about time."""

    def now(self) -> int:
        """The present instant in nanoseconds."""
        ...

    def sleep_until(self, instant: int) -> None:
        """Returns at an instant, at once when it has passed."""
        ...


class WallClock:
    """The machine's monotonic clock."""

    def now(self) -> int:
        """The present instant in nanoseconds."""
        return time.perf_counter_ns()

    def sleep_until(self, instant: int) -> None:
        """Sleeps for what is left; the system may wake late, never early."""
        while (left := instant - time.perf_counter_ns()) > 0:
            time.sleep(left / NANOSECONDS)


class VirtualClock:
    """A clock that moves only when it is told to."""

    def __init__(self, start: int = 0) -> None:
        self._now = start

    def now(self) -> int:
        """The present instant in nanoseconds."""
        return self._now

    def sleep_until(self, instant: int) -> None:
        """Moves to an instant; never back."""
        self._now = max(self._now, instant)

    def spend(self, seconds: float) -> None:
        """Moves on, as work of that length would."""
        self._now += round(seconds * NANOSECONDS)


def seconds(nanoseconds: int) -> float:
    """Nanoseconds as seconds."""
    return nanoseconds / NANOSECONDS


def milliseconds(nanoseconds: int) -> float:
    """Nanoseconds as milliseconds."""
    return nanoseconds / 1e6
