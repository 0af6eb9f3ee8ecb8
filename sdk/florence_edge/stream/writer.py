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

    All sinks are opened, used and closed by that thread, and closed whatever happens.
    """

    def __init__(self, sinks: Sequence[Sink], run: Run) -> None:
        self._sinks, self._run = sinks, run
        self._held: list[Mapping[str, int] | None] = []
        self._events: Channel[Event] = Channel(BACKLOG)
        self._opened = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="florence-write", daemon=True)

    def open(self) -> dict[str, int]:
        """Opens the sinks; returns where each source goes on, so that no sink misses a frame."""
        if not self._sinks:
            return {}
        self._thread.start()
        self._opened.wait()
        self._raise()
        known = [held for held in self._held if held is not None]
        choose = max if self._run.live else min  # a camera's frames are gone; its new ones only need new numbers
        return {tag: choose((held.get(tag, 0) for held in known), default=0) for tag in self._run.sources}

    def put(self, event: Event) -> None:
        """Hands an event over; raises what writing an earlier one raised."""
        if self._sinks:
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
            while (event := self._events.get()) is not None:
                self._write(event)
        except BaseException as error:
            self._error = _plain(error)
        finally:
            for sink in opened:
                self._close(sink)
            self._events.close()
            self._opened.set()

    def _write(self, event: Event) -> None:
        tag, index = event.frame.tag, event.frame.index
        for sink, held in zip(self._sinks, self._held, strict=True):
            if self._run.live or held is None or index >= held.get(tag, 0):
                sink.write(event)

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
