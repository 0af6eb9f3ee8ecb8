"""The door: who may come in, and what every answer carries. It stands before everything else and knows no endpoint.

Without a token only this machine can reach the server, but any page open in a browser on it can try to. Two checks keep
such pages out: a `Host` that is not ours is a name rebound to this address, and an `Origin` that differs from it is
another site's page. With a token, that is what lets one in.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .options import ServeOptions
from .problems import RequestError, response

_LOG = logging.getLogger(__name__)

_OPEN = frozenset(("/", "/healthz", "/openapi.json"))
_OPEN_BELOW = "/static/"
"""What needs no token: the page, which holds nothing of the model, the API's description, and the sign of life."""

_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Count = Callable[[str, int], None]
"""Takes the path and the status of an answer."""


class Guard:
    """Wraps an ASGI application."""

    def __init__(self, app: ASGIApp, options: ServeOptions, count: Count) -> None:
        self._app, self._options, self._count = app, options, count
        self._hosts = {*_LOOPBACK, options.host.lower(), *(name.lower() for name in options.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(path, message["status"])
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("Cache-Control", "no-cache" if _is_open(path) else "no-store")
            try:
                with anyio.fail_after(self._options.upload_s):
                    await send(message)
            except TimeoutError:
                _LOG.info("%s: the reader took nothing for %g s, given up", path, self._options.upload_s)
                raise ConnectionAbortedError("the reader takes nothing") from None

        try:
            self._check(Headers(scope=scope), path)
        except RequestError as error:
            await response(error)(scope, receive, sent)
            return
        try:
            await self._app(scope, receive, sent)
        except ConnectionAbortedError:
            return

    def _check(self, headers: Headers, path: str) -> None:
        """Raises `RequestError` for a request that may not come in."""
        host = headers.get("host", "")
        if self._options.token is None and _name(host) not in self._hosts:
            raise RequestError(
                "host",
                f"the Host header is {host!r:.100}",
                allowed=", ".join(sorted(self._hosts)),
                remedy="use one of these names, or start the server with --allow-host",
            )
        origin = headers.get("origin")
        if origin is not None and _split(origin).netloc.lower() != host.lower():
            raise RequestError(
                "origin",
                f"the Origin header is {origin!r:.100}",
                allowed=f"pages from {host}",
                remedy="open the server's own page, or ask from a program",
            )
        if self._options.token is not None and not _is_open(path):
            self._check_token(headers.get("authorization", ""), self._options.token)

    def _check_token(self, given: str, token: str) -> None:
        scheme, _, credentials = given.partition(" ")
        right = hmac.compare_digest(credentials.strip().encode("utf-8", "replace"), token.encode())
        if scheme.lower() != "bearer" or not right:
            raise RequestError(
                "token",
                "the Authorization header holds another token" if given else "there is no Authorization header",
                allowed="Authorization: Bearer TOKEN",
                remedy="send the token that the server was started with",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_BELOW)


def _name(host: str) -> str:
    """The name in a Host header, without its port and the brackets of an IPv6 address."""
    return _split(f"//{host}").hostname or ""


def _split(address: str) -> SplitResult:
    """The parts of an address, all empty where it is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")
