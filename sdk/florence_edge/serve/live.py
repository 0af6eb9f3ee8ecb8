"""The live view: the newest frame of a camera, answered as long as somebody looks.

The camera is open only while there are viewers. Its frames come through the same feed as in `stream.watch`: the newest
wins, and it is resized just before the model is free. It has a place of its own beside those of the requests, so each
of the two waits for the other and neither is refused.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from io import BytesIO
from typing import Any

from PIL import Image

from florence_edge.errors import FlorenceError
from florence_edge.geometry import UInt8Array
from florence_edge.model import Florence
from florence_edge.results import Result
from florence_edge.stream import Ask, Counts, Event, Frame, Reconnect, Source
from florence_edge.stream.asks import Schedule, as_asks
from florence_edge.stream.feeds import Ready
from florence_edge.stream.live import Live
from florence_edge.stream.mailbox import Ledger
from florence_edge.tasks import Grammar

from .jobs import written
from .playback import as_camera
from .problems import RequestError, problem
from .viewers import FRAME, Viewer, Viewers
from .worker import Gone, LeftError, Place, Worker

POLL_S = 0.2
RETRY_S = 3.0
"""How long to wait before a camera that failed is opened again."""

LEAVE_S = 5.0
"""How long the end waits for the camera; more than `Live.close` takes for one that hangs."""

SHOWN_SIDE = 1280
"""The longer side of a picture as it is shown; coordinates stay those of the camera's own."""

_QUALITY = 82


class LiveView:
    """One source, one question that all viewers share, and the thread that brings them together."""

    def __init__(self, model: Florence, worker: Worker, source: Source, ask: Ask) -> None:
        self._model, self._worker, self._source = model, worker, as_camera(source)
        (self._ask,) = as_asks([ask])
        self._ledger = Ledger([source.tag])
        self._wake, self._ended = threading.Event(), threading.Event()
        self._viewers = Viewers(self._wake.set)
        self._next_index = 0
        self._thread = threading.Thread(target=self._run, name="florence-view", daemon=True)
        self._thread.start()

    @property
    def tag(self) -> str:
        """The name of the source."""
        return self._source.tag

    @property
    def counts(self) -> Counts:
        """What became of its frames."""
        return self._ledger[self.tag]

    @property
    def ask(self) -> Ask:
        """The question that is asked about every frame."""
        return self._ask

    @ask.setter
    def ask(self, ask: Ask) -> None:
        (self._ask,) = as_asks([ask])
        self._viewers.tell("question", self.question())

    def question(self) -> dict[str, Any]:
        """The question as plain values, in the form in which it is set."""
        return as_question(self._ask)

    def joined(self) -> AbstractContextManager[Viewer]:
        """A viewer for the block."""
        return self._viewers.joined(("question", self.question()))

    def refuse(self) -> None:
        """Sends all viewers home; called on the event loop's thread."""
        self._ended.set()
        self._wake.set()
        self._viewers.end()

    def stop(self) -> None:
        """Closes the camera, or leaves it behind where it or the frame at hand does not end."""
        self._ended.set()
        self._wake.set()
        self._thread.join(LEAVE_S)

    @property
    def _looked_at(self) -> bool:
        return len(self._viewers) > 0 and not self._ended.is_set()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wake.wait()
            self._wake.clear()
            while self._looked_at:
                trouble = self._session()
                if trouble is not None:
                    self._viewers.tell("trouble", {**trouble, "retry_s": RETRY_S})
                    self._ended.wait(RETRY_S)

    def _session(self) -> dict[str, Any] | None:
        """Runs the camera until nobody looks any more; returns the problem that ended it before."""
        feed = Live(
            [self._source],
            Schedule([self._ask]),
            lambda: self._model.bundle.manifest.image,
            self._ledger,
            reconnect=Reconnect(),
            note=lambda text: self._viewers.tell("trouble", {"detail": text}),
        )
        feed.start({self.tag: self._next_index})
        try:
            with self._worker.place(own=True) as place:
                while self._looked_at and not feed.finished:
                    self._turn(feed, place)
        except (LeftError, RequestError):  # the server stops
            return None
        except Exception as error:  # a driver's too: the view opens the camera again, whatever went wrong
            return problem(error)
        finally:
            feed.close()
        return problem(FlorenceError("; ".join(feed.faults))) if feed.faults else None

    def _turn(self, feed: Live, place: Place) -> None:
        """One frame, from the moment it is there until it is answered."""
        ready = feed.next(POLL_S)
        if ready is not None:
            place.start(lambda gone: self._answer(self._newest(feed, ready), gone)).result()

    def _newest(self, feed: Live, ready: Ready) -> Ready:
        """The frame to answer now that the model is free: a newer one may have come while others were served."""
        newer = feed.newer()
        if newer is None:
            return ready
        self._ledger.add(self.tag, dropped=1)
        return newer

    def _answer(self, ready: Ready, gone: Gone) -> None:
        """Shows a frame, then answers it; runs on the worker's thread."""
        frame, ask = ready.frame, self._ask
        self._next_index = frame.index + 1
        self._viewers.tell(FRAME, {**shown(frame), "question": as_question(ask)})
        results: dict[str, Result] = {}
        errors: dict[str, FlorenceError] = {}
        timings: Mapping[str, float] = {}
        if ready.prepared is not None:
            try:
                view = self._model.encode(ready.prepared)
                timings = view.timings_ms
                if ask.row.grammar is Grammar.TEXT:
                    results[ask.name] = written(self._model, view, ask, gone, self._piece)
                else:
                    results[ask.name] = self._model.run(ask.task, view, ask.input, search=ask.search)
            except FlorenceError as error:
                errors[ask.name] = error
        failed = bool(errors) or frame.error is not None
        dropped = self._ledger.add(self.tag, done=1, failed=int(failed)).dropped
        age = (time.monotonic_ns() - frame.arrival_ns) / 1e6
        answer = Event(frame, results, errors, age_ms=age, dropped=dropped, timings_ms=timings)
        self._viewers.tell("answer", answer.to_dict())

    def _piece(self, text: str) -> None:
        self._viewers.tell("piece", {"text": text})


def as_question(ask: Ask) -> dict[str, Any]:
    """A question in the form in which the API takes it, its task as a token."""
    return {"task": ask.row.token, "input": ask.input, "search": asdict(ask.search) if ask.search else None}


def shown(frame: Frame) -> dict[str, Any]:
    """A frame as viewers get it: its picture as a JPEG in base64, and the size that coordinates refer to.

    Both are None for a frame that cannot be read.
    """
    height, width = frame.image.shape[:2]
    readable = frame.error is None
    return {
        "source": frame.tag,
        "frame": frame.index,
        "time_ns": frame.time_ns,
        "image": {"width": width, "height": height} if readable else None,
        "jpeg": _packed(frame.image) if readable else None,
    }


def _packed(image: UInt8Array) -> str:
    """An image as a JPEG of a size to look at, in base64."""
    picture, packed = Image.fromarray(image), BytesIO()
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    picture.save(packed, format="JPEG", quality=_QUALITY)
    return base64.b64encode(packed.getvalue()).decode("ascii")
