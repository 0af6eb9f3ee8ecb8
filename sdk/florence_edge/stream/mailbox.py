"""A mailbox with one slot per source: the newest frame wins, the sources take turns, and every frame is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Generic, TypeVar

from .events import Counts

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Hands the newest item of each source from the threads that capture to the one that works.

    Memory is one item per source. The source served longest ago has its turn first, so that a fast camera cannot
    starve a slow one.
    """

    def __init__(self, tags: Iterable[str]) -> None:
        self._slots: dict[str, T | None] = dict.fromkeys(tags)
        self._order = list(self._slots)
        self._changed = threading.Condition()
        self._open = set(self._slots)

    def put(self, tag: str, item: T) -> T | None:
        """Leaves an item, and returns the one that it replaces, which nobody will ever take."""
        with self._changed:
            old, self._slots[tag] = self._slots[tag], item
            self._changed.notify_all()
            return old

    def wait(self, timeout_s: float, *, up_to: str | None = None) -> bool:
        """Waits until `take` would give something; False when it would not in time, or all sources have ended."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while self._next(up_to) is None:
                left = end - time.monotonic()
                if left <= 0 or not self._open:
                    return False
                self._changed.wait(left)
            return True

    def take(self, timeout_s: float, *, up_to: str | None = None) -> tuple[str, T] | None:
        """The waiting item of the source whose turn it is; None when none came in time or all sources have ended.

        With `up_to` only sources whose turn comes no later than that one's are asked.
        """
        with self._changed:
            if not self.wait(timeout_s, up_to=up_to):
                return None
            tag = self._next(up_to)
            assert tag is not None
            item, self._slots[tag] = self._slots[tag], None
            assert item is not None
            return tag, item

    def peek(self, tag: str) -> T | None:
        """What waits of a source, left where it is."""
        with self._changed:
            return self._slots[tag]

    def served(self, tag: str) -> None:
        """Says that an item of a source was worked on: its next turn comes after everybody else's."""
        with self._changed:
            self._order.remove(tag)
            self._order.append(tag)

    def end(self, tag: str) -> bool:
        """Says that a source gives nothing more; returns whether another one may."""
        with self._changed:
            self._open.discard(tag)
            self._changed.notify_all()
            return bool(self._open)

    @property
    def ended(self) -> bool:
        """Whether no source gives anything more and nothing waits."""
        with self._changed:
            return not self._open and self._next() is None

    def clear(self) -> dict[str, int]:
        """Throws away what waits; returns how many that were per source."""
        with self._changed:
            waiting = {tag: int(item is not None) for tag, item in self._slots.items()}
            self._slots = dict.fromkeys(self._slots)
            return waiting

    def _next(self, up_to: str | None = None) -> str | None:
        for tag in self._order:
            if self._slots[tag] is not None:
                return tag
            if tag == up_to:
                return None
        return None


class Ledger:
    """What became of every frame, per source; threads may count at the same time."""

    def __init__(self, tags: Iterable[str]) -> None:
        self._counts = {tag: Counts() for tag in tags}
        self._lock = threading.Lock()

    def add(self, tag: str, **amounts: int) -> Counts:
        """Adds to the counts of a source, by the names of `Counts`; returns them."""
        with self._lock:
            counts = self._counts[tag]
            counts = replace(counts, **{name: getattr(counts, name) + amount for name, amount in amounts.items()})
            self._counts[tag] = counts
            return counts

    def __getitem__(self, tag: str) -> Counts:
        with self._lock:
            return self._counts[tag]

    def all(self) -> dict[str, Counts]:
        """A copy of all counts."""
        with self._lock:
            return dict(self._counts)
