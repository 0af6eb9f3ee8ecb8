"""Puts the server together: routes, the guard before them, and the order in which everything ends."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from florence_edge.model import Florence
from florence_edge.stream import Ask, Source

from .api import Api, Parts
from .guard import Guard
from .live import LiveView
from .metrics import Metrics
from .options import ServeOptions
from .problems import RequestError, response
from .sse import ClientGoneError
from .worker import Worker

STATIC = Path(__file__).parent / "static"

LEFT = 499
"""What is counted for a client that left before its answer, as nginx does; nobody is there to read it."""


Endpoint = Callable[[Request], Awaitable[Any]]


@dataclass(frozen=True)
class Camera:
    """What the live view shows, and what is asked about it at first."""

    source: Source
    ask: Ask


class Application:
    """An ASGI application around one model. `refuse`, then the end of its lifespan, is a graceful stop."""

    def __init__(self, app: ASGIApp, worker: Worker, live: LiveView | None) -> None:
        self._app, self._worker, self._live = app, worker, live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request, as ASGI has it."""
        await self._app(scope, receive, send)

    def refuse(self) -> None:
        """Takes no more requests and sends viewers home; what was accepted goes on. On the event loop's thread."""
        self._worker.refuse()
        if self._live is not None:
            self._live.refuse()


def create_app(
    model: Florence,
    options: ServeOptions,
    *,
    camera: Camera | None = None,
    sample: Path | None = None,
) -> Application:
    """The application that serves a model: the API, and the live view with a camera or without.

    `sample` is a picture that the page offers to try. The model stays the caller's to close, after the lifespan's end.
    Any ASGI server runs it, as one process: two would each need a model, and each camera opens once.
    """
    worker, metrics = Worker(options.places, hang_s=options.hang_s), Metrics()
    live = None
    if camera is not None:
        live = LiveView(model, worker, camera.source, camera.ask)
    api = Api(Parts(model, worker, options, metrics, live, sample))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(worker.stop, options.grace_s)
        if live is not None:
            await run_in_threadpool(live.stop)
        await run_in_threadpool(api.close)

    routes = _routes(api)
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: _unrouted},
    )
    known = frozenset(route.path for route in routes)

    def count(path: str, status: int) -> None:
        metrics.answered(path if path in known else "other", status)

    return Application(Guard(app, options, count), worker, live)


def _routes(api: Api) -> list[Route | Mount]:
    """Every address."""

    def route(path: str, endpoint: Endpoint, method: str = "GET") -> Route:
        return Route(path, _answering(endpoint), methods=[method])

    return [
        route("/", _page),
        route("/healthz", api.health),
        route("/metrics", api.prometheus),
        route("/openapi.json", api.openapi),
        route("/v1/info", api.info),
        route("/v1/tasks", api.tasks),
        route("/v1/sample", api.sample),
        route("/v1/run", api.run, "POST"),
        route("/v1/stream", api.stream, "POST"),
        route("/v1/live", api.look),
        route("/v1/live/question", api.question, "PUT"),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]


def _answering(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with whatever it raises as an answer: Starlette closes the connection on what it does not know."""

    @functools.wraps(endpoint)
    async def answering(request: Request) -> Any:
        try:
            return await endpoint(request)
        except (ClientGoneError, ClientDisconnect):
            return Response(status_code=LEFT)
        except Exception as error:
            return response(error)

    return answering


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html")


async def _unrouted(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: an address or a method that there is not."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    headers = error.headers if isinstance(error, HTTPException) else None
    given = f"there is no {request.method} {request.url.path!r:.100}"
    allowed = f"only {headers['Allow']}" if headers and "Allow" in headers else ""
    kind = "method" if status == 405 else "not-found"
    return response(RequestError(kind, given, allowed=allowed, remedy="see /openapi.json", headers=headers))
