"""What a stream gives for one frame, and how it is written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from florence_edge.errors import FlorenceError
from florence_edge.results import Result

from .protocols import Frame, Run


@dataclass(frozen=True)
class Cut:
    """Something a time budget took away: `task` is the name of the task, empty where all are meant.

    `what` is "tokens" (the limit of an answer), "beams" or "resolution" (the side of the picture in pixels).
    """

    task: str
    what: Literal["tokens", "beams", "resolution"]
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.task + ' ' if self.task else ''}{self.what} {self.before} -> {self.after}"


@dataclass(frozen=True)
class Spending:
    """What a budget of `limit_ms` did for one frame: its cuts, what the engine took, and whether that was enough."""

    limit_ms: float
    took_ms: float
    cuts: tuple[Cut, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether the frame stayed within the budget."""
        return self.took_ms <= self.limit_ms


@dataclass(frozen=True)
class Counts:
    """What became of the frames of one source; `captured` is the sum of the others once a stream has ended.

    `done` frames gave an event (`failed` counts those among them with an error), `dropped` ones were overtaken by a
    newer frame or still waiting at the end, `skipped` ones were not due by `fps` and the tasks' rates.
    """

    captured: int = 0
    done: int = 0
    dropped: int = 0
    skipped: int = 0
    failed: int = 0


@dataclass(frozen=True, eq=False)
class Event:
    """The answers about one frame.

    `results` maps the names of the tasks that ran on this frame to their results, `errors` those that failed on it; a
    frame that could not be read has `frame.error` and neither. `age_ms` is how long ago the frame reached this process
    when the event was made. `dropped` counts the frames of this source that were overtaken so far. `spending` tells
    what the budget did, None without one. `timings_ms` is what the tasks shared: `load`, `preprocess` and `vision`; the
    results have their own.
    """

    frame: Frame
    results: Mapping[str, Result] = field(default_factory=dict)
    errors: Mapping[str, FlorenceError] = field(default_factory=dict)
    age_ms: float = 0.0
    dropped: int = 0
    spending: Spending | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `json` can write, times of this run included."""
        values = self.outcome()
        values["results"] = {name: result.to_dict() for name, result in self.results.items()}
        spending = {"spending": asdict(self.spending)} if self.spending else {}
        times = {"age_ms": self.age_ms, "timings_ms": dict(self.timings_ms)}
        return {**values, **times, "dropped": self.dropped, **spending}

    def outcome(self) -> dict[str, Any]:
        """The part of `to_dict` that two runs over the same recording agree on: no age, no timings."""
        frame, errors = self.frame, {name: str(error) for name, error in self.errors.items()}
        if frame.error is not None:
            errors[""] = str(frame.error)
        return {
            "source": frame.tag,
            "frame": frame.index,
            "name": frame.name,
            "time_ns": frame.time_ns,
            "results": {name: _timeless(result) for name, result in self.results.items()},
            **({"errors": errors} if errors else {}),
            **({"cuts": [asdict(cut) for cut in self.spending.cuts]} if self.spending and self.spending.cuts else {}),
        }


def document(event: Event, run: Run) -> dict[str, Any]:
    """What a sink writes about an event: of a recording only what a second run would write again, to the letter."""
    return {"run": run.key, **(event.to_dict() if run.live else event.outcome())}


def _timeless(result: Result) -> dict[str, Any]:
    values = result.to_dict()
    del values["timings_ms"]
    return values
