"""Bags made by rosbags, with pictures whose content is known, and events to write into bags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from mcap.reader import make_reader
from mcap.writer import Writer as McapWriter
from PIL import Image
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from florence_edge.geometry import UInt8Array
from florence_edge.stream.protocols import Run

START_NS = 1_700_000_000_123_456_789
PERIOD_NS = 33_333_333
DELAY_NS = 2_000_000
"""Between a picture's stamp and its recording."""

_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def picture(index: int, *, width: int = 24, height: int = 16) -> UInt8Array:
    """An RGB picture that says its number by its colours."""
    image = np.full((height, width, 3), (40 + 7 * index % 200, 90, 200 - 5 * index % 150), dtype=np.uint8)
    image[: height // 2, : width // 2] = (255, 255, 0)
    return image


def jpeg(image: UInt8Array) -> bytes:
    stream = BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=95)
    return stream.getvalue()


def raw_fields(image: UInt8Array, *, encoding: str = "rgb8", padding: int = 5) -> dict[str, Any]:
    """The fields of an `Image` without its header, rows padded."""
    pixels = image[:, :, ::-1] if encoding == "bgr8" else image
    rows = np.pad(pixels.reshape(len(image), -1), ((0, 0), (0, padding)), constant_values=9)
    height, width = image.shape[:2]
    return {
        "height": height,
        "width": width,
        "encoding": encoding,
        "is_bigendian": 0,
        "step": rows.shape[1],
        "data": rows.reshape(-1),
    }


def compressed_fields(data: bytes, *, format: str = "rgb8; jpeg compressed bgr8") -> dict[str, Any]:
    """The fields of a `CompressedImage` without its header."""
    return {"format": format, "data": np.frombuffer(data, np.uint8)}


def write_bag(path: Path, topics: Mapping[str, Sequence[Mapping[str, Any]]], *, kind: str) -> Path:
    """Writes a bag of `kind` "ros1", "sqlite3" or "mcap"; returns the path to read.

    A topic's messages are the fields of images; message i has stamp START_NS + i * PERIOD_NS and frame "camera".
    """
    ros1 = kind == "ros1"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    plugin = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
    writer: Any = Writer1(path) if ros1 else Writer2(path, version=8, storage_plugin=plugin)
    with writer:
        connections = {
            topic: writer.add_connection(topic, _type(rows[0]), typestore=store) for topic, rows in topics.items()
        }
        for topic, index, message in _in_order(topics, store):
            name = _type(topics[topic][0])
            data = store.serialize_ros1(message, name) if ros1 else store.serialize_cdr(message, name)
            writer.write(connections[topic], START_NS + index * PERIOD_NS + DELAY_NS, data)
    return path


def recorded(bag: Path, path: Path, *, chunk_size: int = 4000) -> Path:
    """A bag of kind "mcap" with one topic as a recorder would have written it: in chunks of a few messages."""
    (part,) = bag.glob("*.mcap")
    with part.open("rb") as source, path.open("wb") as target:
        writer = McapWriter(target, chunk_size=chunk_size)
        writer.start("ros2", "test")
        channels: dict[int, int] = {}
        for schema, channel, message in make_reader(source).iter_messages():
            assert schema is not None
            if channel.id not in channels:
                kind = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.id] = writer.register_channel(channel.topic, "cdr", kind)
            writer.add_message(channels[channel.id], message.log_time, message.data, message.publish_time)
        writer.finish()  # type: ignore[no-untyped-call]  # the library's own omission
    return path


def run_of(*, key: str = "run", resume: bool = False, tags: Sequence[str] = ("bag",), live: bool = False) -> Run:
    return Run(key=key, sources=dict.fromkeys(tags, 30.0), live=live, resume=resume)


def _type(fields: Mapping[str, Any]) -> str:
    return _COMPRESSED if "format" in fields else _IMAGE


def _in_order(topics: Mapping[str, Sequence[Mapping[str, Any]]], store: Any) -> Iterator[tuple[str, int, Any]]:
    for index in range(max(map(len, topics.values()))):
        for topic, rows in topics.items():
            if index < len(rows):
                sec, nanosec = divmod(START_NS + index * PERIOD_NS, 10**9)
                stamp = store.types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
                extra = {"seq": index} if "seq" in store.types["std_msgs/msg/Header"].__dataclass_fields__ else {}
                header = store.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera", **extra)
                yield topic, index, store.types[_type(rows[index])](header=header, **rows[index])
