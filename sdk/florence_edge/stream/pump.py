"""Keeps one camera going: its frames are delivered as they come, and it is opened anew when it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from florence_edge.errors import InputError

from .asks import check_rate
from .channel import Channel
from .protocols import Frame, Source, SourceError

Note = Callable[[str], None]

LEAVE_S = 2.0
"""How long a thread is waited for; one that hangs in a driver or a decoder is left behind."""

MOST_HUNG = 4
"""So many threads may hang in the driver of one camera; then it is not opened again before one of them returns."""

_NAP_S = 0.2
"""How long a wait for a frame takes at most before it looks whether it must end."""


@dataclass(frozen=True)
class Reconnect:
    """How a lost camera is opened anew: after `first_s` seconds, then `factor` times longer each time up to `limit_s`.

    It counts as lost when it ends, and when it gives nothing for `silence_s` seconds (for three frames' time, where its
    `rate_hz` makes that longer): its driver hangs. Once it has given nothing for `patience_s` seconds it is given up. A
    camera that never gave a frame is given up at once: its address is more likely wrong than its cable.
    """

    first_s: float = 0.5
    factor: float = 2.0
    limit_s: float = 30.0
    patience_s: float = 300.0
    silence_s: float = 20.0

    def __post_init__(self) -> None:
        for name in ("first_s", "limit_s", "patience_s", "silence_s"):
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
        self._silence_s = max(reconnect.silence_s, 3.0 / (source.rate_hz or float("inf")))

    def run(self, start: int) -> str | None:
        """Pumps; returns why the camera was given up, None when it ended or `deliver` wanted no more."""
        index, attempt, seen = start, 0, self._clock()
        tag = self._source.tag
        while True:
            try:
                with closing(_Reader(self._source, index)) as reader:
                    while (frame := self._next(reader)) is not None:
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

    def _next(self, reader: _Reader) -> Frame | None:
        """The next frame; None when the source has ended or it is time to stop, `SourceError` when it is lost."""
        end = time.monotonic() + self._silence_s
        while (frame := reader.frames.get(min(_NAP_S, self._silence_s))) is None:
            if reader.frames.finished or self._pause(0.0):
                return None
            if time.monotonic() >= end:
                raise SourceError(f"{self._source.tag}: no frame for {self._silence_s:g} s: it hangs in its driver")
        return frame


class _Reader(threading.Thread):
    """Reads one opening of a source. Nothing can end a thread that hangs in a driver, but this one can be left behind.

    It closes the source itself, also when the driver returns long after: a device is then free to be opened again.
    """

    def __init__(self, source: Source, start: int) -> None:
        super().__init__(name=f"florence-read-{source.tag}", daemon=True)
        self.frames: Channel[Frame] = Channel(1)
        self._source, self._first = source, start
        hung = sum(isinstance(other, _Reader) and other._source is source for other in threading.enumerate())
        if hung >= MOST_HUNG:
            raise SourceError(f"{source.tag}: {hung} threads hang in its driver, where it was opened before")
        self.start()

    def run(self) -> None:
        """Hands the frames over, then what ended them."""
        try:
            frames = self._source.frames(self._first)
            try:
                for frame in frames:
                    if not self.frames.put(frame):
                        break
            finally:
                getattr(frames, "close", lambda: None)()
        except BaseException as error:
            self.frames.end(error)
        else:
            self.frames.end()

    def close(self) -> None:
        """Lets the source go, or leaves it behind where it hangs."""
        self.frames.close()
        self.join(LEAVE_S)
