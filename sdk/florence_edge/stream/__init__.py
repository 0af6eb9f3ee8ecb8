"""Cameras and recordings in, typed and time-stamped answers out.

    from florence_edge.stream import watch
    for event in watch(model, "v4l2://0", [("detect", "red cube")]):
        print(event.age_ms, event.results["detect"].labels)

No codec, camera or network library is loaded before a URI asks for it.
"""

from __future__ import annotations

from .asks import Ask
from .events import Counts, Cut, Event, Spending
from .loop import StreamOptions, Watch, watch
from .protocols import Frame, Run, Sink, SinkError, Source, SourceError
from .pump import Reconnect
from .uris import open_sink, open_source

__all__ = [
    "Ask",
    "Counts",
    "Cut",
    "Event",
    "Frame",
    "Reconnect",
    "Run",
    "Sink",
    "SinkError",
    "Source",
    "SourceError",
    "Spending",
    "StreamOptions",
    "Watch",
    "open_sink",
    "open_source",
    "watch",
]
