"""Errors as problem documents (RFC 9457): what was given, what is allowed, what to do.

`KINDS` is every problem there is. Errors of the SDK say all three in one sentence, which becomes the `detail`; refusals
of the server itself also name them one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from florence_edge.errors import FlorenceError, InputError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """One kind of problem: its HTTP status and a title that is the same every time."""

    status: int
    title: str


KINDS: Mapping[str, Kind] = {
    "malformed": Kind(400, "The request is not well formed"),
    "token": Kind(401, "A valid token is needed"),
    "origin": Kind(403, "Pages of other sites may not use this server"),
    "not-found": Kind(404, "There is nothing at this address"),
    "method": Kind(405, "This address takes other methods"),
    "slow-upload": Kind(408, "The upload took too long"),
    "too-large": Kind(413, "The request is larger than allowed"),
    "media-type": Kind(415, "The body is of another kind than allowed"),
    "host": Kind(421, "This server does not answer under that name"),
    "invalid": Kind(422, "The question cannot be answered as it is"),
    "engine": Kind(500, "The model failed on this request"),
    "internal": Kind(500, "The server made a mistake"),
    "busy": Kind(503, "All places are taken"),
    "hung": Kind(503, "The model hangs"),
    "stopping": Kind(503, "The server is stopping"),
}


class RequestError(FlorenceError):
    """A request that is refused: a row of `KINDS`, what was given, what is allowed and what to do."""

    def __init__(
        self,
        kind: str,
        given: str,
        *,
        allowed: str = "",
        remedy: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.kind, self.headers = kind, headers
        self.parts = {"given": given, "allowed": allowed, "remedy": remedy}
        super().__init__(
            "; ".join([given, *([f"allowed: {allowed}"] if allowed else []), *([remedy] if remedy else [])])
        )


def problem(error: Exception) -> dict[str, Any]:
    """The document of an error; one that nobody expected goes to the log instead."""
    if isinstance(error, RequestError):
        return _document(error.kind, str(error), {key: text for key, text in error.parts.items() if text})
    if isinstance(error, InputError):
        return _document("invalid", str(error))
    if isinstance(error, FlorenceError):
        return _document("engine", str(error))
    _LOG.error("an unexpected error", exc_info=error)
    return _document("internal", "an unexpected error; the server's log says more")


def response(error: Exception) -> JSONResponse:
    """The answer to a request that ended in an error."""
    document = problem(error)
    headers = getattr(error, "headers", None)
    return JSONResponse(document, document["status"], headers, media_type="application/problem+json")


def _document(kind: str, detail: str, more: Mapping[str, str] | None = None) -> dict[str, Any]:
    row = KINDS[kind]
    name = f"urn:florence-edge:problem:{kind}"
    texts = {"detail": detail, **(more or {})}
    sendable = {key: text.encode("utf-8", "backslashreplace").decode("utf-8") for key, text in texts.items()}
    return {"type": name, "title": row.title, "status": row.status, **sendable}
