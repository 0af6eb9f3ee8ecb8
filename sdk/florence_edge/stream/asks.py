"""What is asked about the frames of a stream, and which frames are asked about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import floor, isfinite
from typing import Any

import numpy as np

from florence_edge.errors import InputError, listing
from florence_edge.options import SearchOptions
from florence_edge.prompts import ANY_SIZE, TaskInput, class_names, prompt_for
from florence_edge.tasks import InputKind, Task, find

from .protocols import Frame

TICK_SLACK = 0.05
"""Part of a period by which a frame may be early: containers round times, and 33 ms is the second frame at 30 fps."""


@dataclass(frozen=True)
class Ask:
    """One task to run on a stream.

    `task` and `input` are those of `Florence.run`. It runs on every `every`-th captured frame (of a camera: on the
    first one worked on of every so many), or with `hz` at most that many times per second of capture time; not both.
    `search` changes how its answers are searched for. `name` is its key in `Event.results`, by default the task as it
    was given.
    """

    task: str
    input: TaskInput = None
    every: int = 1
    hz: float | None = None
    search: SearchOptions | None = None
    name: str = ""

    def __post_init__(self) -> None:
        prompt_for(self.row, self.input, ANY_SIZE)
        if self.every < 1:
            raise InputError(f"{self.task}: every is {self.every}; it must be 1 or more")
        if self.hz is not None and self.every != 1:
            raise InputError(f"{self.task}: every is {self.every} and hz is {self.hz}; give one of them")
        if self.hz is not None:
            check_rate(f"{self.task}: hz", self.hz)

    @property
    def row(self) -> Task:
        """The task's row in the table."""
        return find(self.task, with_input=self.input is not None)

    def labels(self) -> tuple[str, ...]:
        """The class names that are asked for, where the task takes some."""
        return class_names(self.input) if self.row.input is InputKind.CLASSES else ()

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides the answers, as plain values."""
        given = np.asarray(self.input).tolist() if self.input is not None else None
        rate = {"every": self.every, "hz": self.hz}
        return {"name": self.name, "task": self.row.token, "input": given, **rate, "search": asdict(self.search or _NO)}


_NO = SearchOptions()


def as_asks(tasks: Iterable[Ask | str | Sequence[Any]]) -> tuple[Ask, ...]:
    """Tasks as users write them (an `Ask`, a name, or `(name, input)`), every name unique; lists all faults at once."""
    given = [tasks] if isinstance(tasks, (str, Ask)) else list(tasks)
    asks: list[Ask] = []
    faults: list[str] = []
    for item in given:
        try:
            ask = item if isinstance(item, Ask) else Ask(item) if isinstance(item, str) else Ask(*item)
        except InputError as error:
            faults.append(str(error))
            continue
        asks.append(replace(ask, name=_fresh(ask.name or ask.task.strip("<>").lower(), asks)))
    if not given:
        faults.append("no task is given; name at least one, such as 'detect'")
    if faults:
        raise InputError(listing("these tasks cannot be run:", faults))
    return tuple(asks)


def check_rate(what: str, value: float) -> None:
    """Raises `InputError` unless a rate, or another amount, is a finite number above 0."""
    if not (isfinite(value) and value > 0):
        raise InputError(f"{what} is {value}; it must be a number above 0")


class Schedule:
    """Decides per source which frames are looked at and by which tasks.

    A decision depends on two frames alone, the one at hand and the last one that was taken before it; every frame in
    between was due to nothing, so any of them decides alike. That is how a resumed run decides as an unbroken one.
    `fps` thins a source to that many frames per second of capture time, None keeps all. Threads may ask while another
    one takes.
    """

    def __init__(self, asks: Sequence[Ask], *, fps: float | None = None) -> None:
        if fps is not None:
            check_rate("fps", fps)
        self._asks, self._fps = tuple(asks), fps
        self._last: dict[str, tuple[int, float]] = {}

    def take(self, frame: Frame) -> None:
        """Remembers a frame that is worked on, or was in an earlier run."""
        self._last[frame.tag] = self._tick(frame)

    def due(self, frame: Frame) -> tuple[Ask, ...]:
        """The tasks to run on a frame, none to skip it."""
        last = self._last.get(frame.tag)
        if last is None:
            return self._asks
        tick, clock = self._tick(frame)
        last_tick, last_clock = last
        if tick == last_tick:
            return ()
        return tuple(
            ask
            for ask in self._asks
            if (ask.hz is None and tick // ask.every != last_tick // ask.every)
            or (ask.hz is not None and floor(clock * ask.hz + TICK_SLACK) != floor(last_clock * ask.hz + TICK_SLACK))
        )

    def _tick(self, frame: Frame) -> tuple[int, float]:
        """Number of the frame in the thinned stream, and its time there in seconds."""
        seconds = frame.time_ns / 1e9
        if self._fps is None:
            return frame.index, seconds
        tick = floor(seconds * self._fps + TICK_SLACK)
        return tick, tick / self._fps


def _fresh(name: str, asks: Sequence[Ask]) -> str:
    """The name, or with `-2`, `-3`, ... behind it when others have it."""
    taken, number, free = {ask.name for ask in asks}, 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free
