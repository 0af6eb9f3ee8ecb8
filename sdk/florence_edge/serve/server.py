"""Runs the application with uvicorn until it is told to stop; the only module that knows uvicorn."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from florence_edge.errors import InputError
from florence_edge.model import Florence

from .app import Application, Camera, create_app
from .options import ServeOptions


class Server(uvicorn.Server):
    """Refuses new work before it waits for what was accepted; open live views would otherwise keep it waiting."""

    def __init__(self, app: Application, options: ServeOptions) -> None:
        self._app = app
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=max(1, round(options.grace_s)),
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes SIGINT and SIGTERM while it runs, and counts both as a normal end; uvicorn would raise them again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As in uvicorn, after the application has closed its door."""
        self._app.refuse()
        await super().shutdown(sockets)


def serve(
    model: Florence,
    options: ServeOptions,
    *,
    camera: Camera | None = None,
    sample: Path | None = None,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serves a model until SIGINT or SIGTERM; `started` gets the page's address once it can be opened.

    Requests that were accepted are answered before it returns. Raises `InputError` for an address that cannot be used.
    """
    with listen(options) as listener:
        started(address(options, listener))
        Server(create_app(model, options, camera=camera, sample=sample), options).run(sockets=[listener])


def listen(options: ServeOptions) -> socket.socket:
    """A socket that listens where the options say."""
    try:
        family, _, _, _, place = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(place[:2], family=family, backlog=128)
    except OSError as error:
        raise InputError(
            f"cannot listen on {options.host} port {options.port}: {error}; choose another --port, 0 for any free one"
        ) from error


def address(options: ServeOptions, listener: socket.socket) -> str:
    """Where the page is."""
    port = listener.getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"http://{host}:{port}/"
