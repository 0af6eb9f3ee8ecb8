"""Keeps one camera going: its frames are delivered as they come, and it is opened anew when it is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from florence_edge.errors import InputError

from .asks import check_rate
from .protocols import Frame, Source, SourceError

Note = Callable[[str], None]


@dataclass(frozen=True)
class Reconnect:
    """How a lost camera is opened anew: after `first_s` seconds, then `factor` times longer each time up to `limit_s`.

    Once it has given nothing for `patience_s` seconds it is given up. A camera that never gave a frame is given up at
    once: its address is more likely wrong than its cable.
    """

    first_s: float = 0.5
    factor: float = 2.0
    limit_s: float = 30.0
    patience_s: float = 300.0

    def __post_init__(self) -> None:
        for name in ("first_s", "limit_s", "patience_s"):
            check_rate(name, getattr(self, name))
        if self.factor < 1:
            raise InputError(f"factor is {self.factor}; it must be 1 or more")

    def wait_s(self, attempt: int) -> float:
        """Seconds to wait before attempt 0, 1, ..."""
        return min(self.limit_s, self.first_s * self.factor ** min(attempt, 64))


class Pump:
    """Moves the frames of one camera into the mailbox, through losses, until it is stopped or the camera given up.

    `clock` is in seconds; `pause` waits that many seconds and returns True when it is time to stop.
    """

    def __init__(
        self,
        source: Source,
        deliver: Callable[[Frame], bool],
        reconnect: Reconnect,
        *,
        note: Note,
        pause: Callable[[float], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._deliver, self._reconnect = source, deliver, reconnect
        self._note, self._pause, self._clock = note, pause, clock

    def run(self, start: int) -> str | None:
        """Pumps; returns why the camera was given up, None when it ended or `deliver` wanted no more."""
        index, attempt, seen = start, 0, self._clock()
        tag = self._source.tag
        while True:
            try:
                with closing(_Frames(self._source, index)) as frames:
                    for frame in frames.iterator:
                        if attempt:
                            self._note(f"{tag}: the camera is back after {self._clock() - seen:.1f} s")
                        index, attempt, seen = frame.index + 1, 0, self._clock()
                        if not self._deliver(frame):
                            return None
                return None
            except SourceError as error:
                if index == start:
                    return str(error)
                wait = self._reconnect.wait_s(attempt)
                if self._clock() + wait - seen > self._reconnect.patience_s:
                    return f"{tag}: no frame for {self._clock() - seen:.0f} s, given up: {error}"
                if not attempt:
                    self._note(f"{tag}: lost ({error}); opening it again every {wait:g} s and more")
                attempt += 1
                if self._pause(wait):
                    return None


class _Frames:
    """The frames of a source, closed when done with, whatever kind of iterator they are."""

    def __init__(self, source: Source, start: int) -> None:
        self.iterator = source.frames(start)

    def close(self) -> None:
        close = getattr(self.iterator, "close", None)
        if close is not None:
            close()
