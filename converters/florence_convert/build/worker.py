"""Runs the builder's process, follows its progress, and tells why it failed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from florence_edge.errors import BuildError, listing

from .memory import cures
from .settings import Job

COMMAND = (sys.executable, "-m", "florence_convert.build.plan_builder")
_LAST_LINES = 12


class PlanBuilder(Protocol):
    """What makes an engine of a job."""

    def build(self, job: Job, on_progress: Callable[[float], None]) -> None:
        """Writes the plan to `job.out`; `on_progress` is called with the share that is done. Raises `BuildError`."""
        ...


class WorkerBuilder:
    """Builds in a process of its own."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = tuple(command)

    def build(self, job: Job, on_progress: Callable[[float], None]) -> None:
        """Builds one engine; see `PlanBuilder`. Its process ends with this one."""
        with tempfile.TemporaryDirectory(prefix="florence-build-") as folder:
            path, log = Path(folder) / "job.json", Path(folder) / "log.txt"
            job.save(path)
            with log.open("wb") as errors:
                process = subprocess.Popen([*self._command, str(path)], stdout=subprocess.PIPE, stderr=errors)
                try:
                    said = _follow(process, on_progress)
                    code = process.wait()
                finally:
                    process.kill()
                    process.wait()
            if code != 0:
                raise BuildError(_reason(job, code, said, log))


def remove(folder: Path) -> None:
    """Removes what a build left, if there is anything."""
    shutil.rmtree(folder, ignore_errors=True)


def _follow(process: subprocess.Popen[bytes], on_progress: Callable[[float], None]) -> str | None:
    """Passes progress on until the process is through; what it said went wrong, if anything."""
    said = None
    assert process.stdout is not None
    for line in process.stdout:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict):
            said = message.get("error", said)
            if "done" in message:
                on_progress(float(message["done"]))
    return said


def _reason(job: Job, code: int, said: str | None, log: Path) -> str:
    """Why a build failed, with the last lines of TensorRT's log."""
    title = f"{Path(job.graph).name} could not be built: "
    if said:
        title += said
    elif code == -signal.SIGKILL:
        title += (
            f"its process was killed, as Linux does when memory runs out; {cures(job.settings)}. What was built so far "
            "is kept: run the same command again"
        )
    else:
        title += f"its process ended with {_ending(code)}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    return listing(f"{title}. The end of its log:", lines) if lines else title


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
