"""Requests that no honest client sends, and a model that does not end: a refusal or an end, never a stuck server."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from florence_edge.bundle import Bundle
from florence_edge.model import Florence
from florence_edge.serve.guard import SECURITY_HEADERS
from florence_edge.serve.options import ServeOptions
from florence_edge.stream import Ask
from support.fake_backend import FakeStreamingBackend
from support.serving import GatedBackend, Served, png, raw_upload, served, until
from support.streams import ScriptedCamera

HALF = "\\ud800"
"""Half a surrogate pair, as JSON writes it: a text that is no Unicode."""


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Served]:
    camera = ScriptedCamera("cam", [["frame", 0.05] * 4000])
    model = Florence(bundle, FakeStreamingBackend(bundle))
    with served(model, source=camera, ask=Ask("caption")) as running:
        yield running


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"task": "caption", "beams": "9" * 5000}, "beams is '999"),
        ({"task": "caption", "max_new_tokens": "9" * 9}, "max_new_tokens is 999999999"),
        ({"asks": f'[{{"task": "caption", "name": "{HALF}"}}]'}, "surrogates not allowed"),
        ({"asks": f'[{{"task": "caption", "{HALF}": 1}}]'}, "surrogates not allowed"),
        ({"asks": '[{"task": "caption", "search": {"beams": NaN}}]'}, "beams is nan"),
        ({"asks": '[{"task": "caption", "search": {"length_penalty": 1e999}}]'}, "length_penalty is inf"),
        ({"asks": f'[{{"task": "describe_region", "input": {"[" * 900}{"]" * 900}}}]'}, "a box is x1 y1 x2 y2"),
        ({"task": "describe_region", "input": "[NaN, 1, 2, 3]"}, "a box is x1 y1 x2 y2"),
        ({"task": "describe_region", "input": f"[1, 2, 3, {'9' * 400}]"}, "a box is x1 y1 x2 y2"),
        ({"task": "describe_region", "input": f"[1, 2, 3, {'9' * 5000}]"}, "input is not JSON"),
    ],
)
def test_numbers_and_texts_that_are_none_are_refused(server: Served, fields: dict[str, str], says: str) -> None:
    response = server.client.post("/v1/run", files={"image": png()}, data=fields)
    assert (response.status_code, says in response.json()["detail"]) == (422, True), response.text


def test_a_question_that_no_viewer_can_be_told_is_not_taken(server: Served) -> None:
    body = f'{{"task": "caption", "name": "{HALF}"}}'
    assert server.client.put("/v1/live/question", content=body).status_code == 422
    with server.events("GET", "/v1/live") as events:
        assert next(name for name, _ in events if name in ("answer", "trouble")) == "answer"


def raw(server: Served, head: bytes, body: bytes = b"") -> tuple[int, bytes, dict[str, str]]:
    """Sends bytes as they are; status, body and headers of the answer."""
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(30)
        client.sendall(head + length + b"Connection: close\r\n\r\n" + body)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    top, _, rest = answer.partition(b"\r\n\r\n")
    status, *lines = top.decode("latin-1").split("\r\n")
    return int(status.split()[1]), rest, dict(line.lower().split(": ", 1) for line in lines)


HOST = b"Host: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v1/info HTTP/1.1\r\n" + HOST + b"Origin: http://[::1\r\n", 403),
        (b"GET /v1/info HTTP/1.1\r\n" + HOST + b"Origin: http://\xff\xfe\r\n", 403),
        (b"GET /v1/info HTTP/1.1\r\nHost: \xff\xfe\r\n", 421),
        (b"GET /v1/info HTTP/1.0\r\n", 421),
        (b"GET /static/%ff%00 HTTP/1.1\r\n" + HOST, 404),
        (b"GET /static/..%2f..%2fapp.py HTTP/1.1\r\n" + HOST, 404),
    ],
)
def test_headers_and_paths_of_any_bytes_are_refused_like_others(server: Served, head: bytes, status: int) -> None:
    found, body, headers = raw(server, head)
    assert found == status == json.loads(body)["status"]
    assert {name.lower(): value for name, value in SECURITY_HEADERS.items()}.items() <= headers.items()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/info HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n" + HOST,
        b"POST /v1/run HTTP/1.1\r\n" + HOST + b"Content-Length: -5\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_http_ends_the_connection(server: Served, head: bytes) -> None:
    assert raw(server, head)[0] == 400


PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="\xff/../a"\r\n\r\n' + png() + b"\r\n--x\r\n"
FORM = PART + b'Content-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--x--\r\n'


@pytest.mark.parametrize(
    ("body", "charset", "status"),
    [
        (FORM % (b"task", b"caption"), b"", 200),
        (FORM % (b"task", b"caption"), b"; charset=nonsense", 200),
        (FORM % (b"task", b"\xff\xfe"), b"", 422),
        (FORM % (b"task", b"\\ud800"), b"; charset=unicode_escape", 422),
        (FORM % (b"\xff", b"x"), b"", 422),
        (PART + b"Content-Disposition: form-data\r\n\r\nx\r\n--x--\r\n", b"", 400),
        (PART[:60], b"", 422),
        (PART + b"A: b\r\n" * 5000 + b"\r\nx\r\n--x--\r\n", b"", 400),
        (PART + b'Content-Disposition: form-data; name="a"\r\n\r\nx\r\n--x\r\n' * 500, b"", 400),
    ],
)
def test_forms_of_any_bytes_are_answered_or_refused(server: Served, body: bytes, charset: bytes, status: int) -> None:
    head = b"POST /v1/run HTTP/1.1\r\n" + HOST + b"Content-Type: multipart/form-data; boundary=x" + charset + b"\r\n"
    found, answer, _ = raw(server, head, body)
    assert found == status, answer
    assert server.metric("places_taken") == 0


@pytest.mark.parametrize("live", [False, True])
def test_a_model_that_does_not_end_does_not_keep_a_server_from_stopping(bundle: Bundle, live: bool) -> None:
    backend = GatedBackend(bundle)  # never lets an answer through
    camera = ScriptedCamera("cam", [["frame", 0.05] * 4000])
    options = ServeOptions(grace_s=1.0)
    with served(Florence(bundle, backend), options, source=camera, ask=Ask("detect")) as server:
        client = socket.create_connection(("127.0.0.1", server.port)) if live else raw_upload(server.port)
        if live:
            client.sendall(b"GET /v1/live HTTP/1.1\r\n" + HOST + b"\r\n")
        until(lambda: backend.begun == 1)
        begun = time.monotonic()
    assert time.monotonic() - begun < 10
    client.close()
    backend.permits.release(10)
