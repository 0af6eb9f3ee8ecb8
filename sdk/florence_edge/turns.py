"""Lets the threads that share a model use its engine one after another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import BackendError


class Turns:
    """A lock that refuses, instead of hanging for ever, when the thread that holds it asks for it again.

    That happens when a stream was begun but not read to its end: the engine is still busy with that answer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None

    @property
    def mine(self) -> bool:
        """Whether the calling thread has the turn."""
        return self._holder == threading.get_ident()

    @contextmanager
    def take(self) -> Iterator[None]:
        """Waits until no other thread has the turn; raises `BackendError` when the calling thread itself has it."""
        if self.mine:
            raise BackendError(
                "this thread is still reading a stream of this model; read it to its end or close() it before the "
                "next call, or load a second model"
            )
        with self._lock:
            self._holder = threading.get_ident()
            try:
                yield
            finally:
                self._holder = None
