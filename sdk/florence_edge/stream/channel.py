"""A bounded queue between two threads that either end can close, and that carries an error to the reader."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """Holds at most `size` items; a full one makes the writing thread wait."""

    def __init__(self, size: int) -> None:
        self._items: deque[T] = deque()
        self._size = size
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Waits for room and leaves the item; False when nobody will read it any more."""
        with self._changed:
            while len(self._items) >= self._size and not self._closed:
                self._changed.wait()
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def get(self, timeout_s: float | None = None) -> T | None:
        """The next item; None when there is none in time, or ever. Raises the writer's error behind its last item."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._items and not self._ended and not self._closed:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            return None

    @property
    def finished(self) -> bool:
        """Whether everything was read and nothing more will come, not even an error."""
        with self._changed:
            return self._closed or (self._ended and self._error is None and not self._items)

    def end(self, error: BaseException | None = None) -> None:
        """From the writer: nothing follows, or this error does."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """From the reader: nothing will be read any more; what waits is thrown away."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
