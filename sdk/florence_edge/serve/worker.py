"""One thread that runs the model, and a bounded number of places before it.

It knows nothing of HTTP and nothing of models: jobs are functions. Whoever wants to run one takes a place first, and is
refused when none is free; whoever leaves frees it, at once when the job still waits.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from .problems import RequestError

T = TypeVar("T")

Gone = Callable[[], bool]
"""Tells a running job whether nobody waits for it any more."""

LEAVE_S = 2.0
"""How long a job that nobody waits for any more may take to notice."""

_SMOOTH = 0.2


class LeftError(Exception):
    """Raised by a job that ends early because its owner has left."""


class Worker:
    """Runs jobs one at a time in the order they were handed in; `places` of them may wait or run.

    A job that does not ask for `hang_s` seconds whether its owner has left counts as hung. Nothing can end it, but no
    more jobs are taken until it ends by itself.
    """

    def __init__(self, places: int, *, hang_s: float = math.inf) -> None:
        self.places, self._hang_s = places, hang_s
        self._heard_at = math.inf
        self._taken, self._service_s, self._open = 0, 0.0, True
        self._refused_at = math.inf
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="florence-serve", daemon=True)
        self._thread.start()

    @property
    def taken(self) -> int:
        """Places that are taken now."""
        with self._changed:
            return self._taken

    @contextmanager
    def place(self, *, own: bool = False) -> Iterator[Place]:
        """Takes a place for the block; leaving it gives up a job that has not ended.

        Raises `RequestError` when all places are taken, the worker stops, or a job hangs. A place of its `own` is one
        beside the others, for a camera that must neither be refused nor refuse others until the end.
        """
        place = Place(self, counted=not own)
        with self._changed:
            refusal = None if own and self._open else self.busy()
            if refusal is not None:
                raise refusal
            self._taken += place.counted
        try:
            yield place
        finally:
            place.leave()

    def stop(self, grace_s: float) -> None:
        """Takes no more jobs, and waits for those that were accepted, until `grace_s` after the first `refuse`.

        A job that has not ended by then, nor `LEAVE_S` later, is left behind with its thread.
        """
        self.refuse()
        self._thread.join(LEAVE_S + max(0.0, self._refused_at + grace_s - time.monotonic()))

    def refuse(self) -> None:
        """Takes no more places; what was accepted goes on."""
        with self._changed:
            self._open, self._refused_at = False, min(self._refused_at, time.monotonic())
            self._changed.notify_all()

    def busy(self) -> RequestError | None:
        """The refusal that `place` would raise at this moment."""
        with self._changed:
            return self.unwell() or (self._busy() if self._taken >= self.places else None)

    def unwell(self) -> RequestError | None:
        """Why no job is taken, however many places are free."""
        if not self._open:
            return stopping()
        silent_s = time.monotonic() - self._heard_at
        return _hung(silent_s, self._hang_s) if silent_s > self._hang_s else None

    def _busy(self) -> RequestError:
        wait = max(1, math.ceil(self._taken * self._service_s))
        return RequestError(
            "busy",
            f"{self._taken} requests are waiting or running",
            allowed=f"{self.places} at a time",
            remedy=f"try again in {wait} s",
            headers={"Retry-After": str(wait)},
        )

    def _enter(self, job: _Job) -> int:
        """Queues a job; returns how many wait before it. A place that was taken in time is good to the end."""
        with self._changed:
            if not self._open and not job.place.counted:
                raise stopping()
            self._waiting.append(job)
            self._changed.notify_all()
            return len(self._waiting) - 1

    def _leave(self, place: Place) -> None:
        """Frees a place, unless its job is running: then the thread does when the job has ended."""
        with self._changed:
            place.gone = True
            job = place.job
            if job is not None and job in self._waiting:
                self._waiting.remove(job)
                job.future.cancel()
            elif job is not None and not job.ended:
                return
            self._free(place)

    def _free(self, place: Place) -> None:
        with self._changed:
            if place.counted:
                place.counted = False
                self._taken -= 1
            self._changed.notify_all()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            begun = time.perf_counter()
            try:
                outcome = self._run(job)
            except BaseException as error:  # whatever it is, its owner is told and the thread goes on
                self._end(job)
                job.future.set_exception(error)
            else:
                self._end(job)
                job.future.set_result(outcome)
            spent = time.perf_counter() - begun
            self._service_s += (spent - self._service_s) * (_SMOOTH if self._service_s else 1.0)

    def _run(self, job: _Job) -> Any:
        def gone() -> bool:
            self._heard_at = time.monotonic()
            return job.place.gone

        gone()
        try:
            return job.function(gone)
        finally:
            self._heard_at = math.inf

    def _next(self) -> _Job | None:
        """The next job; None when the worker stops and nobody holds a place any more."""
        with self._changed:
            while True:
                while not self._waiting:
                    if not self._open and self._taken == 0:
                        return None
                    self._changed.wait()
                job = self._waiting.popleft()
                if job.future.set_running_or_notify_cancel():
                    return job
                job.ended = True

    def _end(self, job: _Job) -> None:
        """Frees the place of a job whose owner has left; before anybody hears of the outcome."""
        with self._changed:
            job.ended = True
            if job.place.gone:
                self._free(job.place)


class Place:
    """Somebody's right to run one job at a time."""

    def __init__(self, worker: Worker, *, counted: bool) -> None:
        self._worker, self.counted = worker, counted
        self.gone = False
        self.job: _Job | None = None
        self.ahead = 0

    def start(self, job: Callable[[Gone], T]) -> Future[T]:
        """Queues a job; it gets a function that says whether its owner has left meanwhile.

        `ahead` is then the number of jobs that wait before it.
        """
        entry = _Job(self, job)
        self.job = entry
        self.ahead = self._worker._enter(entry)
        return entry.future

    def leave(self) -> None:
        """Frees the place. May be called twice."""
        if not self.gone:
            self._worker._leave(self)


class _Job:
    """A function, whose place it takes, and its outcome."""

    def __init__(self, place: Place, function: Callable[[Gone], Any]) -> None:
        self.place, self.function = place, function
        self.future: Future[Any] = Future()
        self.ended = False


def stopping() -> RequestError:
    """The refusal of a server that ends."""
    return RequestError(
        "stopping",
        "the server is stopping",
        remedy="try again when it is back",
        headers={"Retry-After": "5", "Connection": "close"},
    )


def _hung(silent_s: float, allowed_s: float) -> RequestError:
    return RequestError(
        "hung",
        f"the model has been busy with one thing for {silent_s:.0f} s",
        allowed=f"{allowed_s:g} s",
        remedy="if it lasts, restart the server",
        headers={"Retry-After": "60"},
    )
