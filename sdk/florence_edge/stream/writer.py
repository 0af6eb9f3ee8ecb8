"""The thread that draws and writes, so that the model need not wait for a disk."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from florence_edge.errors import FlorenceError

from .channel import Channel
from .events import Event
from .protocols import Run, Sink, SinkError

BACKLOG = 4
"""Events that may wait to be written. Behind a slow disk the model waits, and cameras drop frames, which counts."""


class Writer:
    """Hands every event to every sink, in order, in a thread of its own.

    All sinks are opened, used and closed by that thread, and closed whatever happens. When one fails, the run ends. The
    others still get what waits of a camera, whose frames no second run will see; of a recording they get no more, so
    that a resumed run gives all of them what is missing. It begins behind what the sinks hold that can tell, so those
    that cannot get a recording's events first.
    """

    def __init__(self, sinks: Sequence[Sink], run: Run) -> None:
        self._sinks, self._run = sinks, run
        self._held: list[Mapping[str, int] | None] = []
        self._events: Channel[Event] = Channel(BACKLOG)
        self._opened = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="florence-write", daemon=True)

    def open(self) -> dict[str, int]:
        """Opens the sinks, if they are not; returns where each source goes on, so that no sink misses a frame."""
        if not self._sinks:
            return {}
        if self._thread.ident is None:
            self._thread.start()
        self._opened.wait()
        self._raise()
        known = [held for held in self._held if held is not None]
        choose = max if self._run.live else min  # a camera's frames are gone; its new ones only need new numbers
        return {tag: choose((held.get(tag, 0) for held in known), default=0) for tag in self._run.sources}

    def put(self, event: Event) -> None:
        """Hands an event over, the first one to sinks that are opened now; raises what writing an earlier raised."""
        if self._sinks:
            if self._thread.ident is None:
                self.open()
            self._events.put(event)
            self._raise()

    def close(self) -> None:
        """Writes what waits and closes the sinks; raises what went wrong, unless `put` has said so before."""
        self._events.end()
        if self._thread.ident is not None:
            self._thread.join()
            self._raise()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        opened: list[Sink] = []
        try:
            for sink in self._sinks:
                self._held.append(sink.open(self._run))
                opened.append(sink)
            self._opened.set()
            sinks = list(zip(self._sinks, self._held, strict=True))
            if not self._run.live:
                sinks.sort(key=lambda row: row[1] is not None)
            while (event := self._events.get()) is not None:
                self._write(event, sinks)
        except BaseException as error:
            self._error = _plain(error)
        finally:
            for sink in opened:
                self._close(sink)
            self._events.close()
            self._opened.set()

    def _write(self, event: Event, sinks: list[tuple[Sink, Mapping[str, int] | None]]) -> None:
        tag, index = event.frame.tag, event.frame.index
        for sink, held in tuple(sinks):
            if self._run.live or held is None or index >= held.get(tag, 0):
                try:
                    sink.write(event)
                except BaseException as error:
                    if not self._run.live:
                        raise
                    self._error = self._error or _plain(error)
                    sinks.remove((sink, held))

    def _close(self, sink: Sink) -> None:
        """Closes a sink; the first error of all is the one that tells what happened."""
        try:
            sink.close()
        except BaseException as error:
            self._error = self._error or _plain(error)


def _plain(error: BaseException) -> BaseException:
    """A system's error as a sink's; ours and bugs stay as they are."""
    if isinstance(error, OSError) and not isinstance(error, FlorenceError):
        return SinkError(f"an answer could not be written: {error}; what was written before is complete")
    return error
