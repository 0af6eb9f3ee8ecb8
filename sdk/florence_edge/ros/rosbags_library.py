"""The one module that knows rosbags: message classes and their bytes (CDR and ROS 1), and bags other than MCAP.

Importing it needs the library; `stream.uris` turns its absence into the pip line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag2 import Reader as Reader2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from florence_edge.geometry import AnyArray

from .definitions import VISION_MSGS


def _humble() -> Typestore:
    """ROS 2 types as of Humble, which those used here have kept since, with vision_msgs."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, definition in VISION_MSGS.items():
        store.register(get_types_from_msg(definition, name))
    return store


@dataclass(frozen=True)
class RosbagsLibrary:
    """Makes rosbags' messages (`messages.Library`) and turns them into bytes and back."""

    store: Typestore = field(default_factory=_humble)

    def make(self, name: str, fields: Mapping[str, Any]) -> Any:
        """A message with all its fields given."""
        return self.store.types[name](**fields)

    def octets(self, data: AnyArray) -> Any:
        """The bytes of an array."""
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)

    def level(self, value: int) -> Any:
        """A `byte`."""
        return value

    def definition(self, name: str) -> str:
        """The definition of a type and of all it is made of, in the form that MCAP files carry."""
        text, _ = self.store.generate_msgdef(name, ros_version=2)
        return text

    def serialise(self, message: Any, name: str) -> bytes:
        """CDR, little endian."""
        return bytes(self.store.serialize_cdr(message, name))

    def deserialise(self, data: bytes, name: str) -> Any:
        """The inverse of `serialise`."""
        return self.store.deserialize_cdr(data, name)


@dataclass(frozen=True)
class Topic:
    """A topic of a bag."""

    name: str
    type: str
    count: int
    rate_hz: float | None = None


@dataclass(frozen=True)
class Raw:
    """A message as recorded: when, and its bytes, in ROS 1 form or CDR."""

    recorded_ns: int
    data: bytes
    ros1: bool


class BagReader:
    """Reads a ROS 1 bag or a ROS 2 bag in sqlite3; a context manager. Raises rosbags' and sqlite's own errors."""

    def __init__(self, path: Path) -> None:
        self._ros1 = path.suffix == ".bag"
        self._reader: Any = Reader1(path) if self._ros1 else Reader2(path)

    def __enter__(self) -> BagReader:
        self._reader.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def topics(self) -> list[Topic]:
        """What was recorded."""
        reader = self._reader
        seconds = reader.duration / 1e9
        counts: dict[tuple[str, str], int] = {}
        for connection in reader.connections:
            key = (connection.topic, connection.msgtype)
            counts[key] = counts.get(key, 0) + connection.msgcount
        return [
            Topic(name, type, count, (count - 1) / seconds if count > 1 and seconds > 0 else None)
            for (name, type), count in counts.items()
        ]

    def messages(self, topic: str) -> Iterator[Raw]:
        """The messages of a topic in recording order."""
        reader = self._reader
        connections = [connection for connection in reader.connections if connection.topic == topic]
        for _, recorded_ns, data in reader.messages(connections=connections):
            yield Raw(recorded_ns, bytes(data), self._ros1)


_ROS1 = get_typestore(Stores.ROS1_NOETIC)
_ROS2 = get_typestore(Stores.ROS2_HUMBLE)


def decode(raw: Raw, name: str) -> Any:
    """A message of a type that both ROS generations have, such as `sensor_msgs/msg/Image`; raises rosbags' errors."""
    if raw.ros1:
        return _ROS1.deserialize_ros1(raw.data, name)
    return _ROS2.deserialize_cdr(raw.data, name)
