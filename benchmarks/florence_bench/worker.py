"""A contender in a process of its own: `python -m florence_bench.worker`, one JSON document per line in and out.

Its own process gives a contender its own peak memory and cold start, and keeps the threads of one library from slowing
the next. The first line is the job, every further one a request; `serve` has the words. Nothing heavy is imported
before the contender's own module.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO, TypeVar

from florence_edge.errors import FlorenceError, listing
from florence_edge.options import SearchConfig
from florence_edge.schema import decode

from .contenders import Job, Question, load
from .errors import BenchmarkError
from .memory import peak_resident
from .power.nvml import Nvml, own_device_bytes

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """Answer these questions about the image file at `image`."""

    image: str
    questions: tuple[Question, ...]
    search: SearchConfig


@dataclass(frozen=True)
class Reply:
    """The ids of every answer, the milliseconds all of them took from image bytes to ids, and memory so far."""

    ids: tuple[tuple[int, ...], ...]
    milliseconds: float
    peak_resident_bytes: int
    device_bytes: int | None


def main() -> int:
    """Serves standard input until it ends; what libraries print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        serve(sys.stdin, replies)
    except FlorenceError as error:
        _send(replies, {"error": str(error)})
        return 1
    return 0


def serve(requests: TextIO, replies: TextIO) -> None:
    """Opens the job of the first line, says what it runs with, and answers every further line."""
    job = read(Job, json.loads(requests.readline()))
    start = time.perf_counter_ns()
    contender = load(job.kind).open_contender(job)
    _send(replies, {"opened_ms": (time.perf_counter_ns() - start) / 1e6})
    try:
        for line in requests:
            request = read(Request, json.loads(line))
            with open(request.image, "rb") as stream:
                image = stream.read()
            start = time.perf_counter_ns()
            ids = contender.answer(image, request.questions, request.search)
            spent = (time.perf_counter_ns() - start) / 1e6
            with Nvml.open() as nvml:
                device = own_device_bytes(nvml)
            _send(
                replies,
                {"ids": ids, "milliseconds": spent, "peak_resident_bytes": peak_resident(), "device_bytes": device},
            )
    finally:
        contender.close()


def read(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass of a line; `BenchmarkError` for anything else, an error of the other side included."""
    if "error" in values:
        raise BenchmarkError(str(values["error"]))
    faults: list[str] = []
    made = decode(kind, values, faults=faults)
    if made is None:
        raise BenchmarkError(listing(f"the line is no {kind.__name__}:", faults))
    return made


def _send(stream: TextIO, document: Mapping[str, Any]) -> None:
    stream.write(json.dumps(document) + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
