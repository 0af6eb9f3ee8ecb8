"""The other end of a worker: starts it, asks it, and says what went wrong when it dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import florence_edge
from florence_edge.options import SearchConfig

from .contenders import Job, Question
from .errors import BenchmarkError
from .worker import Reply, Request, read

_SHOWN = 2000
_PATIENCE_SECONDS = 10.0


class Worker:
    """A contender in its own process; use it as a context manager.

    It is ended when it takes longer than `patience` seconds to open or to answer. `started_ns` is the instant just
    before the process was started, by `time.perf_counter_ns`.
    """

    def __init__(self, job: Job, patience: float) -> None:
        self.job = job
        self._patience, self._late = patience, False
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self.started_ns = time.perf_counter_ns()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "florence_bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env={**os.environ, "PYTHONPATH": _python_path()},
        )
        self._send(asdict(job))

    def opened(self) -> float:
        """Waits until the weights are loaded; the milliseconds that took inside the process."""
        milliseconds: float = self._receive()["opened_ms"]
        return milliseconds

    def ask(self, image: Path, questions: Sequence[Question], search: SearchConfig) -> Reply:
        """Answers questions about an image file."""
        self._send(asdict(Request(str(image), tuple(questions), search)))
        return read(Reply, self._receive())

    def close(self) -> None:
        """Ends the process; twice is allowed."""
        if self._process.stdin and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._complaints.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, document: dict[str, Any]) -> None:
        stream = self._process.stdin
        try:
            if stream is not None:
                stream.write(json.dumps(document) + "\n")
                stream.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._died() from error

    def _receive(self) -> dict[str, Any]:
        watch = threading.Timer(self._patience, self._give_up)
        watch.start()
        line = self._process.stdout.readline() if self._process.stdout else ""
        watch.cancel()
        if not line:
            raise self._died()
        values: dict[str, Any] = json.loads(line)
        if "error" in values:
            raise BenchmarkError(f"{self.job.kind} ({self.job.folder}): {values['error']}")
        return values

    def _give_up(self) -> None:
        self._late = True
        self._process.kill()

    def _died(self) -> BenchmarkError:
        code = self._process.wait()
        if self._late:
            return BenchmarkError(
                f"{self.job.kind} ({self.job.folder}) took longer than {self._patience:g} s to open or to answer; "
                "give it more with --patience"
            )
        self._complaints.seek(0)
        said = self._complaints.read().decode(errors="replace").strip()[-_SHOWN:]
        return BenchmarkError(
            f"the worker of {self.job.kind} ({self.job.folder}) ended with code {code}; it said:\n{said}"
        )


def _python_path() -> str:
    """This process' own search path, so that the worker finds the same packages, installed or not."""
    own = [str(Path(__file__).parents[1]), str(Path(florence_edge.__file__).parents[1])]
    given = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(dict.fromkeys([*own, *(given.split(os.pathsep) if given else [])]))
