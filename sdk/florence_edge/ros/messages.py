"""Results as ROS messages, for any client library.

A `Library` makes the message objects (rosbags for files, rclpy for a live node), so bags and topics say the same. Boxes
are in pixels of the input image, centre based; the phrase itself is the class id; the header is that of the image, so
that consumers can synchronise exactly. Nothing found is an empty array, never silence.

Text (captions, answers, OCR) is a `vision_msgs/Classification`: of the standard types it alone has a full header, a
string and a score. `std_msgs/String` has no stamp and cannot be matched to its image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import atan2, isfinite
from typing import Any, Protocol

import numpy as np

from florence_edge.errors import InputError
from florence_edge.export import rings_to_mask
from florence_edge.geometry import AnyArray
from florence_edge.results import Detections, Polygons, Quads, Result, Text

from .definitions import CLASSIFICATION, DETECTIONS, DIAGNOSTICS, HEADER, IMAGE, LABEL_INFO, TIME

TOPICS: Mapping[str, str] = {
    "detections": DETECTIONS,
    "text": CLASSIFICATION,
    "mask": IMAGE,
    "label_info": LABEL_INFO,
}
"""The last part of every topic that answers are published on, and its type."""

LATCHED = frozenset({"label_info"})
"""Topics whose last message latecomers must get."""

UNLABELLED = 65535
"""The class id that `vision_msgs/LabelInfo` reserves; labels past the range of uint16 get it."""

OK, WARN, ERROR = 0, 1, 2
"""Levels of `diagnostic_msgs/DiagnosticStatus`."""


@dataclass(frozen=True)
class Header:
    """Stamp (nanoseconds) and frame of an image, and the time at which it was recorded."""

    stamp_ns: int
    frame_id: str
    recorded_ns: int = 0


def header_of(message: Any, recorded_ns: int = 0) -> Header:
    """The header of a message of any client library; one without a stamp gets the time of recording."""
    given = message.header
    stamp_ns = given.stamp.sec * 1_000_000_000 + given.stamp.nanosec
    return Header(stamp_ns or recorded_ns, given.frame_id, recorded_ns or stamp_ns)


class Library(Protocol):
    """Makes messages of one ROS client library."""

    def make(self, name: str, fields: Mapping[str, Any]) -> Any:
        """A message of type `name` ("package/msg/Type") with all its fields given."""
        ...

    def octets(self, data: AnyArray) -> Any:
        """The bytes of an array as a `uint8[]` field."""
        ...

    def level(self, value: int) -> Any:
        """A value as a `byte` field."""
        ...


class Labels:
    """Class ids of the labels that masks show, in order of first appearance; 0 is the background."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._ids = {name: index for index, name in enumerate(dict.fromkeys(("background", *names)))}
        self.news = bool(names)
        """Whether a label is there that no published `LabelInfo` has."""

    def id_of(self, label: str) -> int:
        """The id of a label, which becomes known."""
        if label not in self._ids:
            if len(self._ids) >= UNLABELLED:
                return UNLABELLED
            self._ids[label] = len(self._ids)
            self.news = True
        return self._ids[label]

    def names(self) -> tuple[str, ...]:
        """All labels by id."""
        return tuple(self._ids)


def header(library: Library, given: Header) -> Any:
    """A `std_msgs/Header`."""
    seconds, nanoseconds = divmod(given.stamp_ns, 1_000_000_000)
    stamp = library.make(TIME, {"sec": seconds, "nanosec": nanoseconds})
    return library.make(HEADER, {"stamp": stamp, "frame_id": given.frame_id})


def text(library: Library, given: Header, result: Text) -> Any:
    """A `vision_msgs/Classification` whose one hypothesis is the text."""
    results = [_hypothesis(library, result.text, result.score)]
    return library.make(CLASSIFICATION, {"header": header(library, given), "results": results})


def detections(library: Library, given: Header, result: Detections | Polygons | Quads) -> Any:
    """A `vision_msgs/Detection2DArray`: boxes, the boxes around polygons, or lines of text turned as they lie."""
    rows = zip(_boxes(result), _labels(result), result.scores.tolist(), strict=True)
    items = [_detection(library, given, *row) for row in rows]
    return library.make(DETECTIONS, {"header": header(library, given), "detections": items})


def mask(library: Library, given: Header, result: Detections | Polygons, labels: Labels) -> Any:
    """A mono16 `sensor_msgs/Image` of the input's size: the class id of each pixel, 0 where nothing is.

    Where instances overlap, the later one lies on top.
    """
    pixels = np.zeros((result.size.height, result.size.width), dtype="<u2")
    for rings, label in zip(result.polygons, result.labels, strict=True):
        pixels[rings_to_mask(rings, result.size)] = labels.id_of(label)
    fields = {
        "header": header(library, given),
        "height": result.size.height,
        "width": result.size.width,
        "encoding": "mono16",
        "is_bigendian": 0,
        "step": 2 * result.size.width,
        "data": library.octets(pixels),
    }
    return library.make(IMAGE, fields)


def label_info(library: Library, given: Header, labels: Labels) -> Any:
    """A `vision_msgs/LabelInfo`: what the values of masks mean. To be latched."""
    classes = [
        library.make("vision_msgs/msg/VisionClass", {"class_id": index, "class_name": name})
        for index, name in enumerate(labels.names())
    ]
    labels.news = False
    return library.make(LABEL_INFO, {"header": header(library, given), "class_map": classes, "threshold": 0.0})


def diagnostics(
    library: Library, given: Header, *, source: str, level: int, message: str, values: Mapping[str, object]
) -> Any:
    """A `diagnostic_msgs/DiagnosticArray` with one status."""
    pairs = [
        library.make("diagnostic_msgs/msg/KeyValue", {"key": key, "value": str(value)}) for key, value in values.items()
    ]
    status = {
        "level": library.level(level),
        "name": "florence_edge",
        "message": message,
        "hardware_id": source,
        "values": pairs,
    }
    made = library.make("diagnostic_msgs/msg/DiagnosticStatus", status)
    return library.make(DIAGNOSTICS, {"header": header(library, given), "status": [made]})


@dataclass(frozen=True)
class Outgoing:
    """One message on its way out, and the last part of its topic: a key of `TOPICS`."""

    topic: str
    message: Any

    @property
    def type(self) -> str:
        """The message's type."""
        return TOPICS[self.topic]

    @property
    def latched(self) -> bool:
        """Whether latecomers must get it."""
        return self.topic in LATCHED


def outgoing(library: Library, given: Header, result: Result, labels: Labels) -> list[Outgoing]:
    """Everything that is published about a result, the meaning of a mask before the mask."""
    if isinstance(result, Text):
        return [Outgoing("text", text(library, given, result))]
    if not isinstance(result, (Detections, Polygons, Quads)):
        raise InputError(f"a result of type {type(result).__name__} has no message")
    found = [Outgoing("detections", detections(library, given, result))]
    if isinstance(result, Polygons) or (isinstance(result, Detections) and any(result.polygons)):
        pixels = Outgoing("mask", mask(library, given, result, labels))
        if labels.news:
            found.append(Outgoing("label_info", label_info(library, given, labels)))
        found.append(pixels)
    return found


Box = tuple[float, float, float, float, float]
"""Centre x and y, width and height in pixels, and the angle in radians (x right, y down: positive is clockwise)."""


def _boxes(result: Detections | Polygons | Quads) -> list[Box]:
    if isinstance(result, Quads):
        return [_turned(quad) for quad in result.quads.astype(np.float64)]
    boxes = result.boxes if isinstance(result, Detections) else result.boxes()
    corners = boxes.astype(np.float64).reshape(-1, 2, 2)
    centres, sizes = corners.mean(axis=1), corners[:, 1] - corners[:, 0]
    return [(*centre, *size, 0.0) for centre, size in zip(centres.tolist(), sizes.tolist(), strict=True)]


def _turned(quad: AnyArray) -> Box:
    """The rectangle with the quad's mean corner and mean sides, turned as its upper and lower sides are on average."""
    along = (quad[1] - quad[0] + quad[2] - quad[3]) / 2
    down = (quad[3] - quad[0] + quad[2] - quad[1]) / 2
    x, y = quad.mean(axis=0).tolist()
    return x, y, float(np.hypot(*along)), float(np.hypot(*down)), atan2(along[1], along[0])


def _labels(result: Detections | Polygons | Quads) -> tuple[str, ...]:
    return result.texts if isinstance(result, Quads) else result.labels


def _detection(library: Library, given: Header, box: Box, label: str, score: float) -> Any:
    x, y, width, height, theta = box
    position = library.make("vision_msgs/msg/Point2D", {"x": x, "y": y})
    centre = library.make("vision_msgs/msg/Pose2D", {"position": position, "theta": theta})
    bounds = library.make("vision_msgs/msg/BoundingBox2D", {"center": centre, "size_x": width, "size_y": height})
    posed = {"hypothesis": _hypothesis(library, label, score), "pose": _no_pose(library)}
    results = [library.make("vision_msgs/msg/ObjectHypothesisWithPose", posed)]
    fields = {"header": header(library, given), "results": results, "bbox": bounds, "id": ""}
    return library.make("vision_msgs/msg/Detection2D", fields)


def _hypothesis(library: Library, label: str, score: float) -> Any:
    """Scores are 0..1 by convention of the type; one that is not known is 0, as NaN breaks comparisons and JSON."""
    known = float(score) if isfinite(score) else 0.0
    return library.make("vision_msgs/msg/ObjectHypothesis", {"class_id": label, "score": known})


def _no_pose(library: Library) -> Any:
    """The identity pose with zero covariance: a picture says nothing about places in space."""
    point = library.make("geometry_msgs/msg/Point", {"x": 0.0, "y": 0.0, "z": 0.0})
    turn = library.make("geometry_msgs/msg/Quaternion", {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0})
    pose = library.make("geometry_msgs/msg/Pose", {"position": point, "orientation": turn})
    return library.make("geometry_msgs/msg/PoseWithCovariance", {"pose": pose, "covariance": np.zeros(36)})
