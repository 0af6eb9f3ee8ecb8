"""What brings frames to the model: read by one thread, made ready by another, handed out one at a time.

`Recorded` brings every frame in order; its live counterpart is in `live.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from florence_edge.errors import FlorenceError
from florence_edge.images import load_image
from florence_edge.preprocess import ImageSpec
from florence_edge.view import Prepared, prepare

from .asks import Ask, Schedule
from .channel import Channel
from .mailbox import Ledger
from .protocols import Frame, Source, SourceError
from .pump import LEAVE_S

READ_AHEAD = 2
"""Frames between two stages of a recording: enough for both to work at once, few enough to stay small."""

Spec = Callable[[], ImageSpec]
"""Gives the size that pictures are to have at this moment."""


@dataclass(frozen=True, eq=False)
class Ready:
    """A frame, what the vision graph needs of it (None where it cannot be read), and the tasks due."""

    frame: Frame
    prepared: Prepared | None
    asks: tuple[Ask, ...]


class Feed(Protocol):
    """Frames that are ready; its threads run from `start` to `close`."""

    @property
    def finished(self) -> bool:
        """Whether `next` will never give anything again."""
        ...

    @property
    def faults(self) -> Sequence[str]:
        """What went wrong with whole sources, for the end of the run."""
        ...

    def start(self, positions: Mapping[str, int]) -> None:
        """Begins to read, per tag from a frame index on."""
        ...

    def next(self, timeout_s: float) -> Ready | None:
        """The next frame; None when none is there in time."""
        ...

    def close(self) -> None:
        """Stops the threads and counts what was still waiting."""
        ...


def make_ready(frame: Frame, spec: ImageSpec, asks: tuple[Ask, ...]) -> Ready:
    """Resizes a frame, in RGB from here on; one that cannot be used carries its error."""
    if frame.error is not None:
        return Ready(frame, None, asks)
    try:
        if np.shape(frame.image)[2:] != (3,):
            frame = replace(frame, image=np.asarray(load_image(frame.image)))
        return Ready(frame, prepare(frame.image, spec), asks)
    except FlorenceError as error:
        return Ready(replace(frame, error=error), None, asks)


class Recorded:
    """Every frame of files and bags, one source after the other; resizing runs ahead of the model, reading of that."""

    def __init__(self, sources: Sequence[Source], schedule: Schedule, spec: Spec, ledger: Ledger) -> None:
        self._sources, self._schedule, self._spec, self._ledger = sources, schedule, spec, ledger
        self._frames: Channel[Frame] = Channel(READ_AHEAD)
        self._ready: Channel[Ready] = Channel(READ_AHEAD)
        self._threads: list[threading.Thread] = []
        self.faults: list[str] = []

    @property
    def finished(self) -> bool:
        """As in `Feed`."""
        return self._ready.finished

    def start(self, positions: Mapping[str, int]) -> None:
        """As in `Feed`."""
        self._threads = [
            threading.Thread(target=self._read, args=(dict(positions),), name="florence-read", daemon=True),
            threading.Thread(target=self._prepare, args=(dict(positions),), name="florence-prepare", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def next(self, timeout_s: float) -> Ready | None:
        """As in `Feed`."""
        ready = self._ready.get(timeout_s)
        if ready is not None:
            self._ledger.add(ready.frame.tag, captured=1)
        return ready

    def close(self) -> None:
        """As in `Feed`."""
        self._frames.close()
        self._ready.close()
        for thread in self._threads:
            thread.join(LEAVE_S)

    def _read(self, positions: Mapping[str, int]) -> None:
        """Reads the sources; the frame before each start comes too, since the schedule needs it."""
        try:
            for source in self._sources:
                if not self._read_one(source, max(0, positions.get(source.tag, 0) - 1)):
                    return
        except BaseException as error:
            self._frames.end(error)
        else:
            self._frames.end()

    def _read_one(self, source: Source, start: int) -> bool:
        """Reads one source to its end; False when nobody wants more."""
        try:
            for frame in source.frames(start):
                if not self._frames.put(frame):
                    return False
        except SourceError as error:
            self.faults.append(str(error))
        return True

    def _prepare(self, positions: Mapping[str, int]) -> None:
        """Makes every frame that is due ready, in order."""
        try:
            while (frame := self._frames.get()) is not None:
                if frame.index < positions.get(frame.tag, 0):
                    self._schedule.take(frame)
                elif asks := self._schedule.due(frame):
                    self._schedule.take(frame)
                    if not self._ready.put(make_ready(frame, self._spec(), asks)):
                        return
                else:
                    self._ledger.add(frame.tag, captured=1, skipped=1)
        except BaseException as error:
            self._ready.end(error)
        else:
            self._ready.end()
