"""Cameras that follow a script, a model without weights, and videos that a test writes."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from florence_edge.bundle import Bundle
from florence_edge.geometry import Float32Array, UInt8Array
from florence_edge.model import Florence
from florence_edge.stream import Event, Frame, Run, SourceError
from support.fake_backend import FakeBackend, FakeFeatures, Script, plausible

Step = str | float
"""One step of a camera's script: "frame", "lost" (the source fails), or seconds to wait."""


def picture(index: int, *, size: tuple[int, int] = (48, 32)) -> UInt8Array:
    """A picture that tells its number by its colour."""
    image = np.empty((size[1], size[0], 3), np.uint8)
    image[:] = (index * 7) % 256, (index // 256) % 256, 90
    return image


@dataclass
class ScriptedCamera:
    """A live source. Every call of `frames` follows the next script; the last one is followed again and again."""

    tag: str
    scripts: Sequence[Iterable[Step]]
    live: bool = True
    rate_hz: float | None = None
    identity: str = "scripted"
    opened: list[int] = field(default_factory=list)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        script = self.scripts[min(len(self.opened), len(self.scripts) - 1)]
        self.opened.append(start)
        index = start
        for step in script:
            if step == "lost":
                raise SourceError(f"{self.tag}: unplugged")
            if isinstance(step, float):
                time.sleep(step)
                continue
            yield Frame(picture(index), time.time_ns(), index, self.tag)
            index += 1


@dataclass
class Recording:
    """A recorded source of `count` frames at `rate_hz`."""

    tag: str
    count: int
    rate_hz: float | None = 10.0
    live: bool = False
    read: list[int] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return f"{self.count} frames"

    def frames(self, start: int = 0) -> Iterator[Frame]:
        for index in range(start, self.count):
            self.read.append(index)
            yield Frame(picture(index), round(index / (self.rate_hz or 1.0) * 1e9), index, self.tag)


class SlowBackend(FakeBackend):
    """Takes its time, like a real engine: seconds per image and per token."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        vision_s: float = 0.0,
        token_s: Callable[[int], float] | None = None,
        script: Script = plausible,
    ) -> None:
        super().__init__(bundle, script)
        self.vision_s, self.token_s = vision_s, token_s

    def encode_image(self, pixels: Float32Array) -> FakeFeatures:
        time.sleep(self.vision_s * pixels.shape[-1] / 32)
        return super().encode_image(pixels)


class Memory:
    """A sink that keeps events in memory."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = 0
        self.run: Run | None = None

    def open(self, run: Run) -> None:
        self.run = run

    def write(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1


def model_of(bundle: Bundle, script: Script = plausible) -> Florence:
    """A model with the scripted engine."""
    return Florence(bundle, FakeBackend(bundle, script))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def full_after(count: int) -> Iterator[None]:
    """A disk that is full once `count` files have been made safe."""
    left = iter(range(count))

    def fsync(file: int) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("florence_edge.files.os.fsync", fsync)
        yield


def write_video(path: Path, count: int, *, rate_hz: float = 30.0, size: tuple[int, int] = (64, 48)) -> Path:
    """A Motion JPEG video whose frames tell their number by their colour."""
    from florence_edge.stream.opencv import Recorder

    recorder = Recorder(path, size, rate_hz)
    for index in range(count):
        recorder.write(picture(index, size=size))
    recorder.close()
    return path
