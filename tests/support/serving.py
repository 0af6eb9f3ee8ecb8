"""A server on a real socket, in a thread of the test: what clients see is what clients get."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any

import httpx2 as httpx
from PIL import Image

from florence_edge.backends import Hypothesis, ImageFeatures
from florence_edge.bundle import Bundle
from florence_edge.geometry import Int64Array
from florence_edge.model import Florence
from florence_edge.options import SearchOptions
from florence_edge.serve.app import Application, Camera, create_app
from florence_edge.serve.options import ServeOptions
from florence_edge.serve.server import Server, address, listen
from florence_edge.stream import Ask, Source
from support.fake_backend import FakeStreamingBackend


def png(width: int = 48, height: int = 32, *, shade: int = 120) -> bytes:
    """A small picture as the bytes of a file."""
    packed = BytesIO()
    Image.new("RGB", (width, height), (shade, 90, 60)).save(packed, format="PNG")
    return packed.getvalue()


class GatedBackend(FakeStreamingBackend):
    """Answers when it may: every search waits for a `permit`, and takes `search_s` seconds; streams token by token."""

    def __init__(self, bundle: Bundle, *, open: bool = False, search_s: float = 0.0, token_s: float = 0.0) -> None:
        super().__init__(bundle)
        self.permits = threading.Semaphore(1_000_000 if open else 0)
        self.search_s, self.token_s = search_s, token_s
        self.begun = self.told = 0

    def generate(
        self,
        features: ImageFeatures,
        prompt_ids: Sequence[Int64Array],
        options: SearchOptions | None = None,
        image_of: Sequence[int] | None = None,
    ) -> list[Hypothesis]:
        self.begun += 1
        assert self.permits.acquire(timeout=60)
        time.sleep(self.search_s)
        return super().generate(features, prompt_ids, options, image_of)

    def stream(
        self, features: ImageFeatures, prompt_ids: Int64Array, options: SearchOptions | None = None
    ) -> Generator[Int64Array, None, Hypothesis]:
        steps = super().stream(features, prompt_ids, options)
        try:
            while True:
                time.sleep(self.token_s)
                self.told += 1
                yield next(steps)
        except StopIteration as end:
            hypothesis: Hypothesis = end.value
            return hypothesis


class Served:
    """A running server: its address, and a client of it."""

    def __init__(self, app: Application, server: Server, place: str) -> None:
        self.app, self.server, self.address = app, server, place
        self.port = int(place.rstrip("/").rpartition(":")[2])
        self.client = httpx.Client(base_url=place, timeout=60)

    def ask(self, task: str = "caption", image: bytes | None = None, /, **fields: str) -> httpx.Response:
        """POST /v1/run."""
        return self.client.post("/v1/run", files={"image": image or png()}, data={"task": task, **fields})

    @contextmanager
    def events(self, method: str, path: str, **request: Any) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
        """The events of a response, as they come."""
        with self.client.stream(method, path, **request) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield parse(response.iter_lines())

    def metric(self, name: str) -> float:
        """A number of /metrics, by its whole name with labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return next(
            (float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"florence_edge_{name} ")), 0.0
        )


@contextmanager
def served(
    model: Florence,
    options: ServeOptions | None = None,
    *,
    source: Source | None = None,
    ask: Ask | None = None,
    **more: Any,
) -> Iterator[Served]:
    """Runs a server for the block, on a free port."""
    options = replace(options or ServeOptions(), port=0)
    camera = None if source is None else Camera(source, ask or Ask("detect"))
    app = create_app(model, options, camera=camera, **more)
    server = Server(app, options)
    with listen(options) as listener:
        place = address(options, listener)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running = Served(app, server, place)
        try:
            until(lambda: server.started)
            yield running
        finally:
            running.client.close()
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Waits for something to become true."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def parse(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Server-sent events, as the living standard of HTML reads them."""
    name, data = "", ""
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data += value
        elif not line and data:
            yield name, json.loads(data)
            name, data = "", ""


def raw_upload(port: int, *, path: str = "/v1/run", image: bytes | None = None, task: str = "caption") -> socket.socket:
    """A connection on which a whole request was sent and nothing is read; the caller closes it."""
    client = socket.create_connection(("127.0.0.1", port))
    picture = image or png()
    body = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="/etc/passwd"\r\n\r\n' + picture + b"\r\n"
        b'--x\r\nContent-Disposition: form-data; name="task"\r\n\r\n' + task.encode() + b"\r\n--x--\r\n"
    )
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    client.sendall(head.encode() + body)
    return client
