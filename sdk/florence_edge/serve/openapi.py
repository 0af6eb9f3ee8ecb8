"""The API's description (OpenAPI 3.1). Tasks come from the task table, search options from their dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from florence_edge._version import __version__
from florence_edge.options import SearchOptions
from florence_edge.tasks import FREE_PROMPT, TASKS

from .options import ServeOptions
from .problems import KINDS
from .schemas import INPUT, SCHEMAS, obj, ref, text

Json = dict[str, Any]

_SEARCH_TYPES: Mapping[str, Json] = {
    "length_penalty": {"type": ["number", "null"]},
    "early_stopping": {"enum": [True, False, "never", None]},
    "constrained": {"type": ["boolean", "null"]},
}
"""Search options that are no whole numbers."""

_WHOLE = {"type": ["integer", "null"]}

_UPLOAD_PROBLEMS = ("malformed", "token", "slow-upload", "too-large", "media-type", "invalid", "engine", "busy")


def document(options: ServeOptions) -> Json:
    """The whole document, with the limits of this server."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "florence-edge",
            "version": __version__,
            "summary": "Florence-2 over HTTP: caption, detect, ground, segment and read.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": _paths(options),
        "components": {
            "schemas": {**SCHEMAS, "Ask": _ask(), "Search": _search()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}] if options.token is not None else [],
    }


def _paths(options: ServeOptions) -> Json:
    upload = _upload(options)
    return {
        "/v1/run": {
            "post": _operation(
                "run",
                "Answers one task, or several about one picture, which is encoded once.",
                {"application/json": ref("Answer")},
                body=upload,
                problems=_UPLOAD_PROBLEMS,
            )
        },
        "/v1/stream": {
            "post": _operation(
                "stream",
                "Answers one task as it is written. Events: queued {ahead}, image {image, timings_ms}, piece {text}, "
                "result {name, result}; in place of the rest, problem (a problem document).",
                {"text/event-stream": text()},
                body=upload,
                problems=_UPLOAD_PROBLEMS,
            )
        },
        "/v1/live": {
            "get": _operation(
                "look",
                "The camera. Events: question, then per frame: frame {source, frame, time_ns, image, question, jpeg}, "
                "piece {text}, answer (as florence-edge watch --json prints it); trouble {detail} when it is lost. "
                "A jpeg is in base64, null with the image of a frame that cannot be read.",
                {"text/event-stream": text()},
                problems=("token", "not-found"),
            )
        },
        "/v1/live/question": {
            "put": _operation(
                "ask",
                "Changes what is asked about the camera's frames, for all who look.",
                {"application/json": ref("Ask")},
                body={"application/json": {"schema": ref("Ask")}},
                problems=("token", "not-found", "too-large", "invalid"),
            )
        },
        "/v1/info": {"get": _operation("info", "The model, the limits, the camera.", _free(), problems=("token",))},
        "/v1/tasks": {
            "get": _operation(
                "tasks",
                "The tasks, their inputs and the form of their answers.",
                {"application/json": obj({"tasks": {"type": "array", "items": ref("Task")}})},
                problems=("token",),
            )
        },
        "/v1/sample": {
            "get": _operation(
                "sample", "A picture to try, where the model brings one.", _binary(), problems=("token", "not-found")
            )
        },
        "/healthz": {
            "get": _operation("health", "Whether requests are taken (200) or not (503).", _free(), public=True)
        },
        "/metrics": {
            "get": _operation("metrics", "Counts for Prometheus.", {"text/plain": text()}, problems=("token",))
        },
        "/openapi.json": {"get": _operation("openapi", "This document.", _free(), public=True)},
    }


def _operation(
    name: str,
    about: str,
    answer: Mapping[str, Json],
    *,
    body: Mapping[str, Json] | None = None,
    problems: tuple[str, ...] = (),
    public: bool = False,
) -> Json:
    """One operation; `answer` maps media types to schemas, `problems` are kinds of `problems.KINDS`."""
    responses: Json = {"200": {"description": "The answer.", "content": {k: {"schema": v} for k, v in answer.items()}}}
    for kind in (*problems, *(() if public else ("host", "origin"))):
        row = KINDS[kind]
        known = responses.setdefault(str(row.status), {"description": row.title, **_PROBLEM})
        if row.status == 503:
            known["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    request = {"requestBody": {"required": True, "content": dict(body)}} if body else {}
    access: Json = {"security": []} if public else {}
    return {"operationId": name, "summary": about, **request, "responses": responses, **access}


_PROBLEM = {"content": {"application/problem+json": {"schema": ref("Problem")}}}


def _upload(options: ServeOptions) -> Json:
    """The form of a picture and what is asked about it."""
    form = obj(
        {
            "image": {
                "type": "string",
                "format": "binary",
                "description": (
                    f"A JPEG, PNG, WebP, BMP or TIFF of at most {options.max_bytes} bytes and "
                    f"{options.max_pixels} pixels."
                ),
            },
            "task": text("A task's token, name or method; see /v1/tasks."),
            "input": text(
                'A phrase or a class name; JSON for several classes (["cup", "ball"]) or a box ([0, 0, 9, 9]).'
            ),
            "beams": {"type": "integer", "minimum": 1},
            "max_new_tokens": {"type": "integer", "minimum": 1},
            "asks": {
                "description": "Several questions about the picture, as JSON; in place of the four fields above.",
                "type": "array",
                "items": ref("Ask"),
                "minItems": 1,
                "maxItems": options.max_tasks,
            },
        },
        required=("image",),
    )
    return {"multipart/form-data": {"schema": form, "encoding": {"asks": {"contentType": "application/json"}}}}


def _ask() -> Json:
    """One question."""
    tasks = [task.token for task in (*TASKS, FREE_PROMPT)]
    return obj(
        {
            "task": text("A task's token, name or method.", examples=tasks),
            "input": INPUT,
            "name": text("Its key among the results; the task as it was given where there is none."),
            "search": {"oneOf": [ref("Search"), {"type": "null"}]},
        },
        required=("task",),
    )


def _search() -> Json:
    """How one answer is searched for; null keeps the model's own."""
    return obj({item.name: _SEARCH_TYPES.get(item.name, _WHOLE) for item in fields(SearchOptions)}, required=())


def _free() -> Json:
    return {"application/json": {"type": "object"}}


def _binary() -> Json:
    return {"image/png": {"type": "string", "format": "binary"}}
