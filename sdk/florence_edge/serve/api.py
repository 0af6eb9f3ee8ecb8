"""The endpoints: each reads a request, hands its work over, and waits for the answer or for the client to leave."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp

from florence_edge._version import __version__
from florence_edge.drawing.palette import Colour, colour, text_colour
from florence_edge.errors import InputError
from florence_edge.model import Florence
from florence_edge.tasks import FREE_PROMPT, TASKS, Task

from .forms import drain, read_question, read_upload
from .jobs import Work
from .live import LiveView
from .metrics import CONTENT_TYPE, Metrics
from .openapi import document
from .options import ServeOptions
from .problems import RequestError
from .sse import EventStream, Pipe, event, unless_gone
from .worker import Place, Worker

_READERS = 2
"""Pictures that are read at the same time; each may need `max_pixels` three times over in bytes."""

_UPLOADS_A_PLACE = 2
"""Uploads that may come in per place: some of them are needed when a place gets free, more would only fill memory."""

_COLOURS = 32
"""How many colours the page is told, each with that of the text on it."""


@dataclass(frozen=True)
class Parts:
    """What the endpoints work with; `sample` is a picture that the page offers to try."""

    model: Florence
    worker: Worker
    options: ServeOptions
    metrics: Metrics
    live: LiveView | None = None
    sample: Path | None = None


class Api:
    """One method per endpoint."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._uploads = parts, 0
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="florence-read")

    def close(self) -> None:
        """Ends the threads that read pictures."""
        self._readers.shutdown()

    async def run(self, request: Request) -> Response:
        """POST /v1/run."""
        model = self._parts.model
        with ExitStack() as held:
            work, place = await self._accept(request, held)
            answer = place.start(lambda gone: work.answer(model, gone))
            answer.add_done_callback(self._measure)
            return JSONResponse(await unless_gone(request.receive, asyncio.wrap_future(answer)))

    async def stream(self, request: Request) -> ASGIApp:
        """POST /v1/stream."""
        model, pipe = self._parts.model, Pipe()
        with ExitStack() as held:
            work, place = await self._accept(request, held)
            if len(work.asks) != 1:
                raise InputError(f"{len(work.asks)} questions are asked, but /v1/stream takes one; use /v1/run")
            answer = place.start(lambda gone: work.stream(model, gone, pipe.tell))
            answer.add_done_callback(self._measure)
            answer.add_done_callback(pipe.end)
            close = held.pop_all().close
        return EventStream(pipe.events(event("queued", {"ahead": place.ahead})), close=close)

    async def _accept(self, request: Request, held: ExitStack) -> tuple[Work, Place]:
        """The work of a request and the place it was given, which `held` frees."""
        parts = self._parts
        refusal = parts.worker.busy()
        if refusal is None and self._uploads >= _UPLOADS_A_PLACE * parts.worker.places:
            refusal = RequestError("busy", f"{self._uploads} uploads are coming in", headers={"Retry-After": "1"})
        if refusal is not None:
            await drain(request, parts.options)
            raise refusal
        self._uploads += 1
        try:
            upload = await read_upload(request, parts.options)
        finally:
            self._uploads -= 1
        place = held.enter_context(parts.worker.place())
        spec, limits = parts.model.bundle.manifest.image, parts.options.limits
        reading = asyncio.get_running_loop().run_in_executor(
            self._readers, Work.of, upload.image, upload.asks, spec, limits
        )
        return await reading, place

    async def info(self, request: Request) -> Response:
        """GET /v1/info."""
        parts = self._parts
        known = parts.model.info()
        live = None if parts.live is None else {"source": parts.live.tag, "question": parts.live.question()}
        return JSONResponse(
            {
                "version": __version__,
                "model": {**known, "bundle": parts.model.bundle.folder.name},
                "limits": {
                    "max_bytes": parts.options.max_bytes,
                    "max_pixels": parts.options.max_pixels,
                    "max_tasks": parts.options.max_tasks,
                    "places": parts.options.places,
                },
                "sample": parts.sample is not None,
                "palette": [[_css(shade), _css(text_colour(shade))] for shade in map(colour, range(_COLOURS))],
                "live": live,
            }
        )

    async def tasks(self, request: Request) -> Response:
        """GET /v1/tasks."""
        return JSONResponse({"tasks": [_row(task) for task in (*TASKS, FREE_PROMPT)]})

    async def sample(self, request: Request) -> Response:
        """GET /v1/sample."""
        if self._parts.sample is None:
            raise RequestError("not-found", "this model brings no picture of its own")
        return FileResponse(self._parts.sample)

    async def health(self, request: Request) -> Response:
        """GET /healthz."""
        refusal = self._parts.worker.unwell()
        return JSONResponse({"status": "ok"}) if refusal is None else JSONResponse({"status": refusal.kind}, 503)

    async def prometheus(self, request: Request) -> Response:
        """GET /metrics."""
        worker, live = self._parts.worker, self._parts.live
        gauges = {
            "places": ("Requests that may wait or run at a time.", float(worker.places)),
            "places_taken": ("Requests that wait or run now.", float(worker.taken)),
        }
        frames = {} if live is None else vars(live.counts)
        return Response(self._parts.metrics.text(gauges, frames), media_type=CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:
        """GET /openapi.json."""
        return JSONResponse(document(self._parts.options))

    async def look(self, request: Request) -> ASGIApp:
        """GET /v1/live."""
        live = self._live()
        with ExitStack() as held:
            viewer = held.enter_context(live.joined())
            close = held.pop_all().close
        return EventStream(viewer.events(), close=close)

    async def question(self, request: Request) -> Response:
        """PUT /v1/live/question."""
        live = self._live()
        live.ask = await read_question(request, self._parts.options)
        return JSONResponse(live.question())

    def _measure(self, answer: Future[dict[str, Any]]) -> None:
        """Counts the times of an answer."""
        if answer.cancelled() or answer.exception() is not None:
            return
        found = answer.result()
        for times in (found, *found["results"].values()):
            self._parts.metrics.spent(times["timings_ms"])

    def _live(self) -> LiveView:
        if self._parts.live is None:
            raise RequestError(
                "not-found", "this server has no camera", remedy="start it with a source: florence-edge serve v4l2://0"
            )
        return self._parts.live


def _css(shade: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*shade)


def _row(task: Task) -> dict[str, Any]:
    return {
        "task": task.token,
        "name": task.name,
        "method": task.method,
        "input": task.input.name.lower(),
        "takes": task.input.value,
        "answer": task.grammar.value,
    }
