"""What a run says on its way: lines of JSON, TensorBoard events, and the caller's report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from florence_edge.errors import missing

LOG, EVENTS = "log.jsonl", "tensorboard"
Line = dict[str, float]
Report = Callable[[Line], None]


class Log:
    """The log of a run in `folder` from `step` on; a process that is not `main` says nothing.

    What an earlier run wrote beyond `step` is dropped: those steps are computed again.
    """

    def __init__(
        self, folder: Path, *, step: int, report: Report | None = None, tensorboard: bool = False, main: bool = True
    ) -> None:
        self._path, self._report, self._main = folder / LOG, report, main
        self._started, self._window = time.monotonic(), list[Line]()
        self._events: Any = None
        if main:
            _trim(self._path, step)
            self._events = open_events(folder / EVENTS, step) if tensorboard else None

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events is not None:
            self._events.close()

    def add(self, line: Line) -> None:
        """Takes the numbers of one step."""
        self._window.append(line)

    def flush(self, step: int) -> None:
        """Says the means of the steps since the last time, and how many images a second they took."""
        seconds = time.monotonic() - self._started
        keys = self._window[-1].keys() - {"images"}
        line = {key: _mean([entry[key] for entry in self._window]) for key in sorted(keys)}
        images = sum(entry["images"] for entry in self._window)
        self.say({**line, "step": float(step), "images_per_second": images / seconds})
        self._started, self._window = time.monotonic(), []

    def say(self, line: Line) -> None:
        """Writes one line, which holds its step."""
        if not self._main:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._events is not None:
            for key in line.keys() - {"step"}:
                self._events.add_scalar(key, line[key], int(line["step"]))
        if self._report:
            self._report(line)


def open_events(folder: Path, step: int) -> Any:
    """A writer of TensorBoard events; events of an earlier run beyond `step` are hidden by it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise missing("tensorboard", extra="tensorboard", needed_for="output.tensorboard") from error
    return SummaryWriter(str(folder), purge_step=step + 1)


def _trim(path: Path, step: int) -> None:
    """Leaves the lines up to a step; a line that a kill cut short is dropped."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")
