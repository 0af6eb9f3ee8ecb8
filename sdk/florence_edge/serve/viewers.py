"""Those who look at the camera: each gets every event it has time for, and the newest picture when it has not.

A frame's events belong together: `frame`, then `piece`s of a text, then `answer`. A viewer that is behind loses whole
frames; it never holds up the camera, the model or another viewer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .sse import event, next_or_beat

FRAME = "frame"
_STANDING = frozenset(("question", "trouble"))
"""Events that belong to no frame."""

_FRAMES_WAITING = 2
"""So many frames may wait for a viewer; with the next one it is behind."""


class Viewer:
    """One open page. Everything but `events` is called on the event loop's thread without waiting."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        self._frames, self._began = 0, False

    def put(self, name: str, data: bytes) -> None:
        """Takes an event; the first that counts is a frame or one that belongs to none."""
        if name == FRAME:
            if self._frames >= _FRAMES_WAITING:
                self._forget()
            self._frames, self._began = self._frames + 1, True
        if self._began or name in _STANDING:
            self._waiting.put_nowait((name, data))

    def end(self) -> None:
        """Ends the events once those that wait are sent."""
        self._waiting.put_nowait(None)

    async def events(self) -> AsyncIterator[bytes]:
        """The events as they come."""
        while (item := await next_or_beat(self._waiting)) is not None:
            if isinstance(item, bytes):
                yield item
                continue
            name, data = item
            self._frames -= name == FRAME
            yield data

    def _forget(self) -> None:
        """Drops the frames that wait; what belongs to none is kept."""
        kept = []
        while not self._waiting.empty():
            item = self._waiting.get_nowait()
            if item is None or item[0] in _STANDING:
                kept.append(item)
        for item in kept:
            self._waiting.put_nowait(item)
        self._frames = 0


class Viewers:
    """All open pages of one camera; any thread may tell them something."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._viewers: set[Viewer] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = changed
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._viewers)

    @contextmanager
    def joined(self, first: tuple[str, Mapping[str, Any]]) -> Iterator[Viewer]:
        """A new viewer for the block, with its first event; called on the event loop's thread."""
        viewer = Viewer()
        viewer.put(first[0], event(*first))
        with self._lock:
            self._loop = asyncio.get_running_loop()
            self._viewers.add(viewer)
        self._changed()
        try:
            yield viewer
        finally:
            with self._lock:
                self._viewers.discard(viewer)
            self._changed()

    def tell(self, name: str, data: Mapping[str, Any]) -> None:
        """Sends an event to all of them."""
        with self._lock:
            if self._viewers and self._loop is not None:
                self._loop.call_soon_threadsafe(self._spread, tuple(self._viewers), name, event(name, data))

    def end(self) -> None:
        """Ends the events of all of them; called on the event loop's thread."""
        with self._lock:
            for viewer in self._viewers:
                viewer.end()

    @staticmethod
    def _spread(viewers: tuple[Viewer, ...], name: str, data: bytes) -> None:
        for viewer in viewers:
            viewer.put(name, data)
