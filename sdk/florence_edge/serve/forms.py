"""Reads requests: an upload with what is asked about it, or a question as JSON. Everything has a bound.

Nothing a client names is ever opened: a picture is the bytes of the upload, its file name is not looked at.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import anyio
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from florence_edge.errors import InputError, listing
from florence_edge.options import SearchOptions
from florence_edge.schema import decode
from florence_edge.stream.asks import Ask, as_asks
from florence_edge.tasks import InputKind, find

from .options import ServeOptions
from .problems import RequestError

T = TypeVar("T")

MAX_TEXT = 64 * 1024
"""Bytes of one text field, and of a JSON body."""

_MOST_DIGITS = 9
"""Of a number in a text field; Python refuses to read very long ones."""

FIELDS = ("image", "task", "input", "beams", "max_new_tokens", "asks")


@dataclass(frozen=True)
class Upload:
    """The bytes of a picture, and what is asked about it."""

    image: bytes
    asks: tuple[Ask, ...]


@dataclass(frozen=True)
class _AskBody:
    """One entry of `asks`, as JSON has it."""

    task: str
    input: Any
    name: str
    search: SearchOptions | None


async def read_upload(request: Request, options: ServeOptions) -> Upload:
    """The upload of a request, its form checked as far as it can be without the picture."""
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise RequestError(
            "media-type",
            f"the body is {kind or 'of no stated type'}",
            allowed="multipart/form-data with the fields " + ", ".join(FIELDS),
            remedy="with curl: -F image=@photo.jpg -F task=caption",
        )
    form = await _in_time(_parse(request, options), options)
    try:
        return await _read(form, options)
    finally:
        await form.close()


async def read_question(request: Request, options: ServeOptions) -> Ask:
    """The question in a JSON body, in the form of one entry of `asks`."""

    async def whole() -> bytes:
        return b"".join([part async for part in _bounded(request, MAX_TEXT)])

    value = _json((await _in_time(whole(), options)).decode("utf-8", "replace"), "the body")
    return _ask(value, "the question")


async def drain(request: Request, options: ServeOptions) -> None:
    """Takes a body that is not wanted, so that the client listens to the refusal; no more of it than is allowed."""

    async def rest() -> None:
        seen = 0
        async for part in request.stream():
            seen += len(part)
            if seen > _room(options):
                return

    await _in_time(rest(), options)


async def _parse(request: Request, options: ServeOptions) -> FormData:
    class InMemory(MultiPartParser):
        spool_max_size = options.max_bytes + 1  # uploads are bounded, so none is ever written to a disk

    parser = InMemory(
        request.headers,
        _bounded(request, _room(options)),  # type: ignore[arg-type]  # it is only iterated over
        max_files=1,
        max_fields=len(FIELDS),
        max_part_size=MAX_TEXT,
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise RequestError("malformed", f"the form cannot be read: {error.message}") from error
    except KeyError as error:  # the parser's way of saying that the content type names no boundary
        raise RequestError("malformed", f"the form's content type has no {error}") from error


async def _bounded(request: Request, room: int) -> AsyncIterator[bytes]:
    """The body, refused as soon as it is known to be too large; the rest is then taken and thrown away.

    A client that sends without listening would otherwise find a closed connection instead of the reason.
    """
    stated = request.headers.get("content-length", "")
    seen, fits = 0, not (stated.isdecimal() and int(stated) > room)
    async for part in request.stream():
        seen += len(part)
        fits = fits and seen <= room
        if fits:
            yield part
        elif seen > 2 * room:
            break
    if not fits:
        raise RequestError(
            "too-large",
            f"the body has {stated or f'more than {seen}'} bytes",
            allowed=f"at most {room} bytes",
            remedy="send a smaller picture; JPEG is enough",
        )


def _room(options: ServeOptions) -> int:
    """Bytes of a whole form: the picture, and what is written around it."""
    return options.max_bytes + 4 * MAX_TEXT


async def _in_time(work: Awaitable[T], options: ServeOptions) -> T:
    """What `work` gives, unless the upload takes too long."""
    try:
        with anyio.fail_after(options.upload_s):
            return await work
    except TimeoutError:
        raise RequestError(
            "slow-upload",
            "the body was not complete in time",
            allowed=f"{options.upload_s:g} s",
            remedy="send a smaller picture",
            headers={"Connection": "close"},
        ) from None


async def _read(form: FormData, options: ServeOptions) -> Upload:
    faults = [
        f"unknown field {name}; allowed are {', '.join(FIELDS)}" for name in dict.fromkeys(form) if name not in FIELDS
    ]
    faults += [f"{name} is given more than once" for name in dict.fromkeys(form) if len(form.getlist(name)) > 1]
    image = form.get("image")
    data = await image.read() if isinstance(image, UploadFile) else b""
    if not data:
        faults.append("image must be the bytes of a picture, as a file of the form")
    faults += [f"{name} must be a text, not a file" for name in FIELDS[1:] if isinstance(form.get(name), UploadFile)]
    asks: tuple[Ask, ...] = ()
    if not faults:
        try:
            asks = _asks({name: str(value) for name, value in form.items() if name != "image"}, options)
        except InputError as error:
            faults.append(str(error))
    if len(faults) == 1:
        raise InputError(faults[0])
    if faults:
        raise InputError(listing("the form cannot be used:", faults))
    return Upload(data, asks)


def _asks(fields: Mapping[str, str], options: ServeOptions) -> tuple[Ask, ...]:
    """What is asked: one task in fields of its own, or several as JSON."""
    if "asks" not in fields:
        return as_asks([_single(fields)])
    if len(fields) > 1:
        raise InputError("asks holds whole questions; leave out task, input, beams and max_new_tokens beside it")
    several = _json(fields["asks"], "asks")
    if not isinstance(several, list) or not 1 <= len(several) <= options.max_tasks:
        raise InputError(
            f"asks is {fields['asks']:.80}; it must be a list of 1 to {options.max_tasks} questions, each with a task"
        )
    return as_asks([_ask(value, f"asks[{number}]") for number, value in enumerate(several)])


def _single(fields: Mapping[str, str]) -> Ask:
    """The task of a form: its input is a text, or JSON where the task takes a list."""
    if not fields.get("task"):
        raise InputError("no task is given; /v1/tasks lists them")
    text = fields.get("input") or None
    row = find(fields["task"], with_input=text is not None)
    listed = text is not None and row.input in (InputKind.CLASSES, InputKind.BOX) and text.lstrip().startswith("[")
    given = _json(text or "", "input") if listed else text
    search = SearchOptions(beams=_count(fields, "beams"), max_new_tokens=_count(fields, "max_new_tokens"))
    return Ask(fields["task"], given, search=search)


def _ask(value: Any, where: str) -> Ask:
    """One question as JSON."""
    blank = {"input": None, "name": "", "search": None}
    if isinstance(value, dict):
        value = {**blank, **value}
        if isinstance(value["search"], dict):
            value["search"] = {**asdict(SearchOptions()), **value["search"]}
    faults: list[str] = []
    body = decode(_AskBody, value, faults=faults, where=where)
    if body is None:
        raise InputError("; ".join(faults))
    return Ask(body.task, body.input, search=body.search, name=body.name)


def _count(fields: Mapping[str, str], name: str) -> int | None:
    text = fields.get(name)
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise InputError(f"{name} is {text!r:.40}; it must be a whole number of at most {_MOST_DIGITS} digits")
    return None if text is None else int(text)


def _json(text: str, what: str) -> Any:
    """What a text says as JSON. Half a surrogate pair, which it may hold, can be neither asked nor sent back."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is not JSON: {error}") from error
