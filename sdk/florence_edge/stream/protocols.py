"""What a source and a sink of frames must offer. It knows neither a file format, nor a camera, nor a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from florence_edge.errors import FlorenceError
from florence_edge.geometry import UInt8Array

if TYPE_CHECKING:
    from .events import Event


class SourceError(FlorenceError, OSError):
    """A source cannot be opened, or was lost: no such camera, a stream that ended, a file cut in the middle."""


class SinkError(FlorenceError, OSError):
    """A sink cannot take an event: full disk, no permission, a receiver that does not answer, another run's output."""


def message_time(time_ns: int) -> int:
    """A time as messages can carry it, whose seconds have 31 bits: a clock that is far off must not end a run."""
    return min(max(time_ns, 0), (2**31 - 1) * 10**9)


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    `image` is [H, W, 3] uint8 RGB, upright, in memory that the source does not use again; grey and RGBA are made so
    before any task or sink gets them, and the size may change from frame to frame. `time_ns` is the capture
    time: nanoseconds since the Unix epoch for cameras and bags (the header's stamp), since the first frame for video
    files, the time of change for image files. `index` counts the frames of its source from 0, those that were later
    dropped included. `tag` names the source. `name` is the file or topic within it. `header` is the source's own,
    handed through untouched to sinks that know it. `arrival_ns` is when it reached this process on the monotonic clock,
    which no time server sets.

    A frame that exists but cannot be read has an `error` and an empty image [0, 0, 3], so that it is accounted for.
    """

    image: UInt8Array
    time_ns: int
    index: int
    tag: str
    name: str = ""
    header: object = None
    error: FlorenceError | None = None
    arrival_ns: int = field(default_factory=time.monotonic_ns)


class Source(Protocol):
    """Where frames come from.

    `live` says whether the world goes on while nobody reads: then only the newest frame counts and a lost source is
    opened anew; otherwise every frame is read, in order. `identity` names the content (path, size, time of change,
    options that select frames): work is only resumed on the same content.
    """

    @property
    def tag(self) -> str:
        """The name of this source in events and in files; unique among the sources of one run."""
        ...

    @property
    def live(self) -> bool:
        """Whether frames pass unless they are taken."""
        ...

    @property
    def identity(self) -> str:
        """What the frames are frames of."""
        ...

    @property
    def rate_hz(self) -> float | None:
        """Frames per second as far as known, for the clock of an annotated video."""
        ...

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """Opens the source and yields its frames, blocking until there is one.

        A recording yields the frames with index `start` and up (earlier ones should not be decoded), the same ones with
        the same times in every run. A live source gives the index `start` to the first frame it captures. A single
        frame that cannot be read is yielded with its `error`; `SourceError` ends everything. Closing the iterator frees
        what it holds; calling `frames` again begins anew.
        """
        ...


@dataclass(frozen=True)
class Run:
    """What a sink may know of the run whose events it gets.

    `key` is a digest of everything that decides the results: bundle, tasks, inputs, search, and the identity of every
    recorded source. A sink that can be resumed stores it and refuses to mix two. `sources` maps tags to frame rates in
    Hz (None: unknown). `live` is True for cameras: events then carry age and timings, which no second run repeats.
    `resume` is False when the sink must start empty, and then refuse (`SinkError`) to overwrite what it already holds.
    """

    key: str
    sources: Mapping[str, float | None]
    live: bool
    resume: bool
    labels: tuple[str, ...] = ()
    """Class names that were asked for, over all tasks, in order; for formats that publish them once."""
    ending: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)
    """Set when the run is broken off: a sink that waits for somebody else should then not try again."""


class Sink(Protocol):
    """Where events go. One thread calls it: `open`, then `write` any number of times in order, then `close`."""

    def open(self, run: Run) -> Mapping[str, int] | None:
        """Opens the sink and says where to go on: per tag, the index after the last event it durably holds.

        A tag it holds nothing of may be absent. What a killed run left half written is removed here, so that the
        position comes from the output alone. None means that the sink cannot know (a network receiver): it then gets
        whatever the other sinks still need. Raises `SinkError` when it holds another run's events.
        """
        ...

    def write(self, event: Event) -> None:
        """Takes one event, and returns when a kill can no longer undo it; raises `SinkError`."""
        ...

    def close(self) -> None:
        """Completes the output so that every reader can open it. Called once, also after an error."""
        ...
