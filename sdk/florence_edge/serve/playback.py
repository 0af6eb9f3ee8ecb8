"""A recording looked at as if it were a camera: at its own pace, from the beginning again when it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from florence_edge.stream import Frame, Source, SourceError

STILL_S = 1.5
"""How long a picture is shown where a recording has no pace of its own, as a folder of images has none."""


class Playback:
    """A live `Source` made of a recorded one."""

    live = True

    def __init__(self, recording: Source) -> None:
        self._recording = recording
        self.tag, self.identity, self.rate_hz = recording.tag, recording.identity, recording.rate_hz

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """As in `Source`."""
        period_s, index, due = 1.0 / self.rate_hz if self.rate_hz else STILL_S, start, time.monotonic()
        while True:
            begun = index
            for frame in self._recording.frames():
                yield replace(frame, index=index, arrival_ns=time.monotonic_ns())
                index += 1
                due = max(due + period_s, time.monotonic() - period_s)  # a slow disk delays, it does not hurry the rest
                time.sleep(max(0.0, due - time.monotonic()))
            if index == begun:
                raise SourceError(f"{self.tag}: the recording holds no frame")


def as_camera(source: Source) -> Source:
    """The source itself where it is live."""
    return source if source.live else Playback(source)
