"""Counts for Prometheus, in its text format 0.0.4."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[Mapping[str, str], float]
"""Labels and a value."""


class Metrics:
    """Answers by route and status, and the time spent per stage; threads may count at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[tuple[str, int]] = Counter()
        self._spent_s: dict[str, float] = {}
        self._times: Counter[str] = Counter()

    def answered(self, route: str, status: int) -> None:
        """Counts an answer; 499 stands for a client that left before it."""
        with self._lock:
            self._answers[route, status] += 1

    def spent(self, timings_ms: Mapping[str, float]) -> None:
        """Adds the times of the stages of one answer."""
        with self._lock:
            for stage, milliseconds in timings_ms.items():
                self._spent_s[stage] = self._spent_s.get(stage, 0.0) + milliseconds / 1e3
                self._times[stage] += 1

    def text(self, gauges: Mapping[str, tuple[str, float]], frames: Mapping[str, int]) -> str:
        """Everything; `gauges` maps names to a help text and a value, `frames` what became of a camera's frames."""
        with self._lock:
            answers = [
                ({"route": route, "status": str(status)}, count) for (route, status), count in self._answers.items()
            ]
            sums = [({"stage": stage}, seconds) for stage, seconds in self._spent_s.items()]
            counts = [({"stage": stage}, count) for stage, count in self._times.items()]
        lines = [*_family("requests_total", "counter", "Answers by route and HTTP status.", answers)]
        lines += _family("stage_seconds", "summary", "Time per stage of an answer.", sums, suffix="_sum")
        lines += _samples("florence_edge_stage_seconds_count", counts)
        for name, (about, value) in gauges.items():
            lines += _family(name, "gauge", about, [({}, value)])
        became = [({"outcome": outcome}, count) for outcome, count in frames.items()]
        if became:
            lines += _family("frames_total", "counter", "What became of the frames of the source.", became)
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, about: str, samples: Iterable[Sample], *, suffix: str = "") -> Iterator[str]:
    full = f"florence_edge_{name}"
    yield f"# HELP {full} {about}"
    yield f"# TYPE {full} {kind}"
    yield from _samples(full + suffix, samples)


def _samples(name: str, samples: Iterable[Sample]) -> Iterator[str]:
    for labels, value in samples:
        inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
        yield f"{name}{{{inside}}} {value:g}" if inside else f"{name} {value:g}"
