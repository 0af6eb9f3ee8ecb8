"""A soak of `watch` with the bundled model: does memory stay flat, is every frame accounted for, how old are answers?

    PYTHONPATH=sdk:tests python -m support.soak --frames 10000 --out soak.json

Frames of 640 x 480 come at 30 Hz whether the model is ready or not, as from a camera; the newest is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from florence_edge import __version__
from florence_edge.card import identity
from florence_edge.geometry import UInt8Array
from florence_edge.model import Florence
from florence_edge.stream import Ask, Event, Frame, StreamOptions, watch

RATE_HZ = 30.0
WIDTH, HEIGHT = 640, 480
TASKS = (Ask("detect"), Ask("caption", hz=1.0))
WARM_UP = 100
"""Answers, or a tenth of all if that is more, after which memory counts: by then every buffer has had a large one."""


@dataclass
class Panning:
    """A live source that pans over a picture, `count` frames at `rate_hz`.

    `late_ms` is how late the system woke this source for each frame: the part of every age that no program can help.
    """

    picture: UInt8Array
    count: int
    rate_hz: float = RATE_HZ
    tag: str = "cam"
    live: bool = True
    identity: str = "panning"
    late_ms: array[float] = field(default_factory=lambda: array("d"))

    def frames(self, start: int = 0) -> Iterator[Frame]:
        begun = time.monotonic()
        for index in range(start, self.count):
            due = begun + (index - start) / self.rate_hz
            time.sleep(max(0.0, due - time.monotonic()))
            self.late_ms.append((time.monotonic() - due) * 1e3)
            row, column = (self._swing(index, axis, size) for axis, size in enumerate((HEIGHT, WIDTH)))
            view = self.picture[row : row + HEIGHT, column : column + WIDTH].copy()
            yield Frame(view, time.time_ns(), index, self.tag)

    def _swing(self, index: int, axis: int, size: int) -> int:
        """To and fro over what the picture has more than a frame."""
        room = int(self.picture.shape[axis]) - size
        return room - abs(index * (3 - axis) % (2 * room) - room)


@dataclass
class Log:
    """What was seen of the events; eight bytes per number, so that the log itself does not grow noticeably."""

    age_ms: array[float] = field(default_factory=lambda: array("d"))
    model_ms: array[float] = field(default_factory=lambda: array("d"))
    resize_ms: array[float] = field(default_factory=lambda: array("d"))
    resident: array[int] = field(default_factory=lambda: array("q"))

    def add(self, event: Event) -> None:
        spent = event.timings_ms["vision"] + sum(result.timings_ms["search"] for result in event.results.values())
        self.age_ms.append(event.age_ms)
        self.model_ms.append(spent)
        self.resize_ms.append(event.timings_ms["preprocess"])
        self.resident.append(resident_bytes())


def resident_bytes() -> int:
    """What this process holds in memory of its own; pages of mapped files, the weights among them, are not counted."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def memory(resident: Sequence[int]) -> dict[str, float | None]:
    """Readings after the warm-up in MiB; growth is the median of the last tenth over that of the first.

    Growth is None where little more came than the warm-up.
    """
    settled = resident[max(WARM_UP, len(resident) // 10) :]
    tenth = len(settled) // 10
    enough = len(settled) >= WARM_UP
    return {
        "first": round(settled[0] / 2**20, 1) if settled else None,
        "last": round(settled[-1] / 2**20, 1) if settled else None,
        "highest": round(max(settled) / 2**20, 1) if settled else None,
        "readings": len(settled),
        "growth": round(float(np.median(settled[-tenth:]) / np.median(settled[:tenth])), 4) if enough else None,
    }


def soak(frames: int, *, sink: Path, threads: int | None = 1) -> dict[str, Any]:
    """Runs so many frames through `watch`; returns the measurements as plain values."""
    begun, spent = time.monotonic(), time.process_time()
    with Florence.load("tabletop", threads=threads) as model:
        size = (WIDTH * 5 // 4, HEIGHT * 5 // 4)
        picture = Image.open(model.bundle.folder / "demo.png").convert("RGB").resize(size)
        source, log = Panning(np.asarray(picture), frames), Log()
        with watch(model, source, TASKS, sinks=[str(sink)], options=StreamOptions()) as events:
            for event in events:
                log.add(event)
        counts, bundle = asdict(events.counts["cam"]), identity(model.bundle)
    waited = np.subtract(log.age_ms, log.model_ms)
    bound = 1e3 / RATE_HZ + np.asarray(log.resize_ms)
    return {
        "frames": frames,
        "rate_hz": RATE_HZ,
        "size": [WIDTH, HEIGHT],
        "tasks": [ask.task if ask.hz is None else f"{ask.task} at {ask.hz:g} Hz" for ask in TASKS],
        "bundle": bundle,
        "seconds": round(time.monotonic() - begun, 1),
        "cores_used": round((time.process_time() - spent) / (time.monotonic() - begun), 2),
        "counts": counts,
        "lines_written": sum(1 for _ in sink.open("rb")),
        "anonymous_mib": memory(log.resident),
        "age_ms": _percentiles(log.age_ms),
        "model_ms": _percentiles(log.model_ms),
        "model_hz": round(1e3 / float(np.median(log.model_ms)), 1),
        "resize_ms": _percentiles(log.resize_ms),
        "system_woke_late_ms": _percentiles(source.late_ms),
        "waited_ms": _percentiles(waited),
        "over_one_inference_one_frame_one_resizing_ms": _percentiles(waited - bound),
        "share_within": round(float((waited <= bound).mean()), 4),
    }


def _percentiles(values: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float]:
    names = ("p50", "p90", "p99", "p99.9", "max")
    found = np.percentile(np.asarray(values), (50, 90, 99, 99.9, 100))
    return {name: round(float(value), 2) for name, value in zip(names, found, strict=True)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Soaks and writes the measurements as JSON, with what they were taken on."""
    parser = argparse.ArgumentParser(prog="python -m support.soak")
    parser.add_argument("--frames", type=int, default=10_000, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of the engine")
    parser.add_argument("--machine", default=platform.machine(), help="what to call this machine in the result")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    given = parser.parse_args(arguments)
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        measured = soak(given.frames, sink=Path(folder) / "answers.jsonl", threads=given.threads)
    machine = {"name": given.machine, "python": platform.python_version(), "florence_edge": __version__}
    load = {"load_before": before, "load_after": os.getloadavg()[0], "nice": os.nice(0)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({**machine, **load, "threads": given.threads, **measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
