"""ROS bags as sources and sinks, without ROS: `bag://PATH?topic=...`.

Read are ROS 1 bags, ROS 2 bags in sqlite3 and MCAP files; written are MCAP files.
"""

from __future__ import annotations

from .sink import BagSink, open_sink
from .source import BagSource, open_source

__all__ = ["BagSink", "BagSource", "open_sink", "open_source"]
