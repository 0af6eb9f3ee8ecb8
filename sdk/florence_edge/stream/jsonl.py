"""A file of JSON lines: one answered frame per line, in order."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .events import Event, document
from .protocols import Run, SinkError
from .uris import Uri


def open_sink(uri: Uri) -> JsonLines:
    """The file to write."""
    uri.only()
    return JsonLines(Path(uri.target).expanduser())


class JsonLines:
    """A `Sink` whose complete lines are what it holds.

    A line is handed to the system in one piece. Whatever follows the last complete line (after a kill, a power cut) is
    cut off when the run goes on; when the disk is full, at once. What `document` makes of an event has at least `run`,
    `source` and `frame`.
    """

    def __init__(self, path: Path, *, document: Callable[[Event, Run], dict[str, Any]] = document) -> None:
        self._path, self._document = path, document
        self._file = -1
        self._size = self._lines = 0

    def open(self, run: Run) -> Mapping[str, int]:
        """As in `Sink`."""
        self._run = run
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not run.resume and self._path.exists() and self._path.stat().st_size:
            raise SinkError(f"{self._path} already holds answers; go on with --resume, or move it away")
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            positions = self._read()
        except SinkError:
            self.close()
            raise
        os.ftruncate(self._file, self._size)
        os.lseek(self._file, self._size, os.SEEK_SET)
        return positions

    def write(self, event: Event) -> None:
        """As in `Sink`."""
        line = json.dumps(self._document(event, self._run), ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
        try:
            sent = 0
            while sent < len(line):
                sent += os.write(self._file, line[sent:])
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise SinkError(
                f"{self._path}: {error.strerror or error}; the {self._lines} answers written so far are complete: make "
                "room and go on with --resume"
            ) from error
        self._size += len(line)
        self._lines += 1

    def close(self) -> None:
        """As in `Sink`."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)

    def _read(self) -> dict[str, int]:
        """Where each source goes on; remembers where the last complete line ends."""
        positions: dict[str, int] = {}
        with self._path.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                tag, index = self._place(line)
                positions[tag] = index + 1
                self._size += len(line)
                self._lines += 1
        return positions

    def _place(self, line: bytes) -> tuple[str, int]:
        """Source and frame of one line, once it is known to be of this run."""
        try:
            values = json.loads(line)
            key, place = values["run"], (str(values["source"]), int(values["frame"]))
        except (ValueError, KeyError, TypeError):
            raise SinkError(f"{self._path}: line {self._lines + 1} is no answer of a stream; write elsewhere") from None
        if key != self._run.key:
            raise SinkError(other_run(self._path))
        return place


def other_run(path: Path) -> str:
    """Why a sink cannot be gone on with."""
    return (
        f"{path} holds the answers of another run: the bundle, the tasks, their rates, the sources or the sink's own "
        "options differ; write elsewhere, or give what was given then"
    )
