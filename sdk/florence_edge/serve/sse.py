"""Server-sent events, and requests that end when the client leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import anyio
from starlette.types import Receive, Scope, Send

from .problems import problem
from .worker import LeftError

T = TypeVar("T")

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
"""The second one asks reverse proxies not to hold events back."""

BEAT_S = 10.0
"""After so long without an event a comment is sent, which tells both sides that the other is there."""


class ClientGoneError(Exception):
    """The client closed the connection before it had its answer."""


def event(name: str, data: Mapping[str, Any]) -> bytes:
    """One event; its data is one line of strict JSON."""
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n".encode()


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The outcome of `work`; it is cancelled, and `ClientGoneError` raised, when the client leaves first.

    The body of the request must have been read: what comes next is then the end of the connection.
    """
    found: list[T] = []
    error: Exception = ClientGoneError()
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            found.append(await work)
        except Exception as fault:  # carried out by hand, as a task group would wrap it
            error = fault
        group.cancel_scope.cancel()
    if not found:
        raise error
    return found[0]


class EventStream:
    """A response of events; `close` is called when it has ended, in whatever way."""

    def __init__(self, events: AsyncIterator[bytes], *, close: Callable[[], None]) -> None:
        self._events, self._close = events, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, as ASGI has it."""
        try:
            await unless_gone(receive, self._write(send))
        except ClientGoneError:
            pass
        finally:
            self._close()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async for part in self._events:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Pipe:
    """Carries the events of one job from the thread that runs it to the response that sends them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue()

    def tell(self, name: str, data: Mapping[str, Any]) -> None:
        """Sends an event; never waits, since an answer has an end and a slow reader must not hold up the model."""
        self._loop.call_soon_threadsafe(self._waiting.put_nowait, event(name, data))

    def end(self, outcome: Future[Any]) -> None:
        """Ends the events with the job's; an error becomes the last one."""
        if outcome.cancelled():
            return
        error = outcome.exception()
        if isinstance(error, Exception) and not isinstance(error, LeftError):
            self.tell("problem", problem(error))
        self._loop.call_soon_threadsafe(self._waiting.put_nowait, None)

    async def events(self, first: bytes) -> AsyncIterator[bytes]:
        """All events, `first` before those of the job."""
        yield first
        while (part := await next_or_beat(self._waiting)) is not None:
            yield part


async def next_or_beat(waiting: asyncio.Queue[T]) -> T | bytes:
    """The next item, or a comment when none comes for a while."""
    with anyio.move_on_after(BEAT_S):
        return await waiting.get()
    return b": still here\n\n"
