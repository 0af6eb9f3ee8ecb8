"""Frames of cameras: the newest wins, a lost camera is opened anew, a picture is resized just before it is needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from .asks import Schedule
from .feeds import Ready, Spec, make_ready
from .mailbox import Ledger, Mailbox
from .protocols import Frame, Source
from .pump import LEAVE_S, Note, Pump, Reconnect

NAP_S = 0.1
"""How long a thread waits at most before it looks whether it must stop."""

PAUSE_S = 0.01
"""The least time between two looks."""

_READY = "ready"


class Live:
    """The newest frame of each camera in turn.

    One thread per camera captures. One more resizes: it starts so early that the picture is ready when the model will
    be, judging by how long the model took before, and begins again with every newer frame while the model takes longer.
    So a frame waits for at most one frame's time before the model takes it.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        schedule: Schedule,
        spec: Spec,
        ledger: Ledger,
        *,
        reconnect: Reconnect,
        note: Note,
    ) -> None:
        tags = [source.tag for source in sources]
        self._sources, self._schedule, self._spec, self._ledger = sources, schedule, spec, ledger
        self._reconnect, self._note = reconnect, note
        self._raw: Mailbox[Frame] = Mailbox(tags)
        self._ready: Mailbox[tuple[float, Ready]] = Mailbox([_READY])
        self._newest: dict[str, int] = {}
        self._stop, self._pace = threading.Event(), Pace()
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self.faults: list[str] = []

    @property
    def finished(self) -> bool:
        """As in `Feed`."""
        return self._error is None and self._ready.ended

    def start(self, positions: Mapping[str, int]) -> None:
        """As in `Feed`; the first frame of a camera gets the position as its index."""
        self._threads = [
            threading.Thread(
                target=self._capture,
                args=(source, positions.get(source.tag, 0)),
                name=f"florence-{source.tag}",
                daemon=True,
            )
            for source in self._sources
        ]
        self._threads.append(threading.Thread(target=self._prepare, name="florence-prepare", daemon=True))
        for thread in self._threads:
            thread.start()

    def next(self, timeout_s: float) -> Ready | None:
        """As in `Feed`."""
        self._pace.wanted()
        return self._take(timeout_s)

    def newer(self) -> Ready | None:
        """What was made ready since `next`, for a model that got busy with something else; asks for nothing."""
        return self._take(0.0)

    def _take(self, timeout_s: float) -> Ready | None:
        taken = self._ready.take(timeout_s)
        if self._error is not None:
            if taken is not None:
                self._ledger.add(taken[1][1].frame.tag, dropped=1)
            raise self._error
        if taken is None:
            return None
        begun, ready = taken[1]
        frame = ready.frame
        if begun < self._pace.begin_at and frame.index < self._newest[frame.tag]:
            self._ledger.add(frame.tag, dropped=1)  # resized too early, and overtaken
            return None
        asks = self._schedule.due(frame)
        if not asks:  # the frame taken last was still waiting when this one was found due
            self._ledger.add(frame.tag, skipped=1)
            return None
        self._pace.taken()
        self._schedule.take(frame)
        self._raw.served(frame.tag)
        return Ready(frame, ready.prepared, asks)

    def close(self) -> None:
        """As in `Feed`; a camera that hangs in its driver is left behind after a moment."""
        self._stop.set()
        self._pace.wanted()
        for thread in self._threads:
            thread.join(LEAVE_S)
        for tag, waiting in self._raw.clear().items():
            self._ledger.add(tag, dropped=waiting)
        taken = self._ready.take(0.0)
        if taken is not None:
            self._ledger.add(taken[1][1].frame.tag, dropped=1)

    def _capture(self, source: Source, start: int) -> None:
        """One camera's thread."""
        pump = Pump(source, self._deliver, self._reconnect, note=self._note, pause=self._stop.wait)
        try:
            fault = pump.run(start)
            if fault is not None:
                self.faults.append(fault)
                if self._raw.end(source.tag):  # else the run ends with it
                    self._note(fault)
        except BaseException as error:
            self._error = error
        finally:
            self._raw.end(source.tag)

    def _deliver(self, frame: Frame) -> bool:
        if self._stop.is_set():
            return False
        self._ledger.add(frame.tag, captured=1)
        self._newest[frame.tag] = frame.index
        if self._raw.put(frame.tag, frame) is not None:
            self._ledger.add(frame.tag, dropped=1)
        return True

    def _prepare(self) -> None:
        """Keeps one picture ready, the newest of the camera whose turn it is."""
        try:
            while not self._stop.is_set() and not self._raw.ended:
                if not self._raw.wait(NAP_S, up_to=self._ready_tag):
                    self._stop.wait(PAUSE_S)  # the last frame of a camera that has ended may wait for its turn
                    continue
                if not self._pace.due(NAP_S):
                    continue
                taken = self._raw.take(0.0, up_to=self._ready_tag)
                if taken is not None:
                    self._make_ready(taken[1])
        except BaseException as error:
            self._error = error
        finally:
            self._ready.end(_READY)

    @property
    def _ready_tag(self) -> str | None:
        """Whose picture waits for the model: only a camera whose turn is no later may replace it."""
        waiting = self._ready.peek(_READY)
        return None if waiting is None else waiting[1].frame.tag

    def _make_ready(self, frame: Frame) -> None:
        asks = self._schedule.due(frame)
        if not asks:
            self._ledger.add(frame.tag, skipped=1)
            return
        begun = time.monotonic()
        ready = make_ready(frame, self._spec(), asks)
        self._pace.prepared(time.monotonic() - begun)
        old = self._ready.put(_READY, (begun, ready))
        if old is not None:
            self._ledger.add(old[1].frame.tag, dropped=1)


class Pace:
    """Tells when to resize the next picture: as late as the model's next turn allows, at once when it waits."""

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._busy_s = self._prepare_s = 0.0
        self._taken_at = 0.0
        self.begin_at = 0.0  # on the monotonic clock

    def wanted(self) -> None:
        """The model waits for a picture."""
        if self._taken_at and not self._wanted.is_set():
            self._busy_s = _smooth(self._busy_s, time.monotonic() - self._taken_at)
            self.begin_at = min(self.begin_at, time.monotonic())  # nothing that is begun from now on is too early
        self._wanted.set()

    def taken(self) -> None:
        """The model got one, and will be busy."""
        self._taken_at = time.monotonic()
        self.begin_at = self._taken_at + self._busy_s - 2 * self._prepare_s
        self._wanted.clear()

    def prepared(self, seconds: float) -> None:
        """Resizing a picture took that long."""
        self._prepare_s = _smooth(self._prepare_s, seconds)

    def due(self, timeout_s: float) -> bool:
        """Waits until a picture should be begun; False when that is not so in time."""
        left = self.begin_at - time.monotonic()
        if left <= 0:
            return True
        return self._wanted.wait(min(left, timeout_s)) or left <= timeout_s


def _smooth(old: float, new: float) -> float:
    return new if old == 0.0 else 0.75 * old + 0.25 * new
