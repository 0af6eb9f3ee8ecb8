"""Results as an MCAP file of ROS 2 messages: `bag://out.mcap`.

Every event is one block of the file, closed by a status message, so the file itself says how far a run came. A file
depends on the results alone; written twice it is the same to the byte, also when the first run was killed on the way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from florence_edge.errors import InputError, missing
from florence_edge.results import Result
from florence_edge.ros import messages as ros
from florence_edge.ros.definitions import DIAGNOSTICS, LABEL_INFO
from florence_edge.ros.rosbags_library import RosbagsLibrary
from florence_edge.stream.events import Event
from florence_edge.stream.protocols import Run, SinkError, message_time
from florence_edge.stream.uris import Uri

from .container import ChannelSpec, McapFile, Stored

_LATCHED = """\
- history: 1
  depth: 1
  reliability: 1
  durability: 1
  deadline: {sec: 9223372036, nsec: 854775807}
  lifespan: {sec: 9223372036, nsec: 854775807}
  liveliness: 1
  liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}
  avoid_ros_namespace_conventions: false
"""
"""KEEP_LAST 1, RELIABLE, TRANSIENT_LOCAL as rosbag2 wrote it until Iron; later versions read it too."""

Draw = Callable[[str, Result, int], tuple[ChannelSpec, bytes]]


def open_sink(uri: Uri) -> BagSink:
    """`bag://out.mcap?namespace=/florence&annotations=foxglove`; both options may be left out."""
    options = uri.only("namespace", "annotations")
    path = Path(uri.target).expanduser()
    if path.suffix != ".mcap":
        raise InputError(f"{uri.text}: bags are written as MCAP; name a file that ends in .mcap")
    kind = options.get("annotations", "none")
    if kind not in ("none", "foxglove"):
        raise InputError(f"{uri.text}: annotations is {kind!r}; it must be foxglove or none")
    return BagSink(path, namespace=options.get("namespace", "/florence"), annotations=kind == "foxglove")


class BagSink:
    """Writes `vision_msgs` detections, text, masks and a status per frame (see docs/ros.md for the topics).

    `namespace` begins every topic. With `annotations` the file also holds `foxglove.ImageAnnotations` for Foxglove's
    image panel; readers that know ROS alone (rosbags) refuse such a mixed file.
    """

    def __init__(self, path: Path, *, namespace: str = "/florence", annotations: bool = False) -> None:
        self.path, self._namespace, self._annotations = path, namespace.rstrip("/"), annotations
        self._library = RosbagsLibrary()
        self._channels: dict[str, ChannelSpec] = {}

    def open(self, run: Run) -> Mapping[str, int]:
        """Begins the file, or goes on with it when the run resumes; raises `SinkError`, `InputError` for bad names."""
        self._run = run
        self._labels = ros.Labels(run.labels)
        self._draw: Draw | None = _drawer() if self._annotations else None
        self._status = {self._topic(tag, "status"): tag for tag in run.sources}
        if len(self._status) < len(run.sources):
            raise InputError(f"the sources {', '.join(run.sources)} differ only in characters that ROS names lack")
        self._held: dict[str, int] = {}
        again = self._again if run.resume else None
        self._file = McapFile(self.path, run=run.key, profile="" if self._annotations else "ros2", again=again)
        return self._held

    def write(self, event: Event) -> None:
        """Writes one event as one block; raises `SinkError`."""
        frame = event.frame
        header = frame.header if isinstance(frame.header, ros.Header) else None
        header = header or ros.Header(message_time(frame.time_ns), frame.tag, message_time(frame.time_ns))
        for channel, data in list(self._messages(event, header)):  # all of them or, should one fail, none
            self._file.add(channel, data, header.recorded_ns, frame.index)
        try:
            self._file.end_block()
        except OSError as error:
            raise SinkError(f"{self.path} cannot take frame {frame.index} of {frame.tag}: {error}") from error

    def close(self) -> None:
        """Completes the file with its index; without room for that it stays readable and can be resumed."""
        try:
            self._file.finish()
        except OSError as error:
            raise SinkError(
                f"{self.path} could not be completed: {error}; what it holds is whole: make room and resume"
            ) from error

    def _messages(self, event: Event, header: ros.Header) -> Iterator[tuple[ChannelSpec, bytes]]:
        """All messages of an event, the status last."""
        tag = event.frame.tag
        for name, result in event.results.items():
            for out in ros.outgoing(self._library, header, result, self._labels):
                topic = self._topic("", out.topic) if out.latched else self._topic(tag, name, out.topic)
                yield self._ros(topic, out.type, out.message, latched=out.latched)
            if self._draw is not None:
                yield self._draw(self._topic(tag, name, "annotations"), result, header.stamp_ns)
        if self._labels.news:
            info = ros.label_info(self._library, header, self._labels)
            yield self._ros(self._topic("", "label_info"), LABEL_INFO, info, latched=True)
        status = status_of(self._library, header, event, live=self._run.live)
        yield self._ros(self._topic(tag, "status"), DIAGNOSTICS, status)

    def _ros(self, topic: str, name: str, message: Any, *, latched: bool = False) -> tuple[ChannelSpec, bytes]:
        if topic not in self._channels:
            definition = self._library.definition(name).encode("utf-8")
            self._channels[topic] = ChannelSpec(topic, name, "ros2msg", definition, qos=_LATCHED if latched else "")
        return self._channels[topic], self._library.serialise(message, name)

    def _topic(self, tag: str, *parts: str) -> str:
        """A topic's name; the source is part of it only where there are several."""
        several = len(self._run.sources) > 1
        named = [re.sub(r"[^A-Za-z0-9_]", "_", part) for part in ((tag if several else ""), *parts) if part]
        return "/".join([self._namespace, *named])

    def _again(self, stored: Stored) -> None:
        """Learns from a message that is already in the file."""
        if stored.topic in self._status:
            self._held[self._status[stored.topic]] = stored.sequence + 1
        elif stored.topic == self._topic("", "label_info"):
            message = self._library.deserialise(stored.data, LABEL_INFO)
            self._labels = ros.Labels([entry.class_name for entry in message.class_map])
            self._labels.news = False


def status_of(library: ros.Library, header: ros.Header, event: Event, *, live: bool) -> Any:
    """The `diagnostic_msgs/DiagnosticArray` about an event; ages and times only of a live source."""
    frame = event.frame
    values: dict[str, object] = {"frame": frame.index, "name": frame.name}
    for name, result in event.results.items():
        values |= {f"{name}.items": len(result), f"{name}.tokens": result.tokens, f"{name}.finish": result.finish}
    if event.spending is not None and event.spending.cuts:
        values["cuts"] = "; ".join(map(str, event.spending.cuts))
    if live:
        values |= {"age_ms": f"{event.age_ms:.1f}", "dropped": event.dropped}
        for name, result in event.results.items():
            values |= {f"{name}.{stage}_ms": f"{spent:.1f}" for stage, spent in result.timings_ms.items()}
    faults = [f"{name}: {error}" for name, error in event.errors.items()]
    if frame.error is not None:
        faults.insert(0, str(frame.error))
    level = ros.ERROR if faults else ros.OK
    return ros.diagnostics(
        library, header, source=frame.tag, level=level, message="; ".join(faults) or "ok", values=values
    )


def _drawer() -> Draw:
    """What draws a result for Foxglove on a topic, stamped with a time; `DependencyError` without its library."""
    try:
        from florence_edge.stream.foxglove import annotations_schema, image_annotations
    except ModuleNotFoundError as error:
        raise missing("foxglove-sdk", extra="foxglove", needed_for="annotations=foxglove") from error
    name, encoding, schema = annotations_schema()

    def draw(topic: str, result: Result, time_ns: int) -> tuple[ChannelSpec, bytes]:
        channel = ChannelSpec(topic, name, encoding, schema, message_encoding="protobuf")
        return channel, image_annotations(result, time_ns).encode()

    return draw
