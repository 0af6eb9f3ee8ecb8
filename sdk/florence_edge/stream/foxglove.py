"""The one module that knows the Foxglove SDK: results as image annotations, and a live server for Foxglove.

Pixel (0, 0) of an annotation is the upper left corner of the upper left pixel, as in results; texts hang at their lower
left corner. Stamps are those of the image, which is what Foxglove synchronises by.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import foxglove
from foxglove.channels import CompressedImageChannel, ImageAnnotationsChannel
from foxglove.messages import (
    Color,
    CompressedImage,
    ImageAnnotations,
    KeyValuePair,
    Point2,
    PointsAnnotation,
    PointsAnnotationType,
    TextAnnotation,
    Timestamp,
)
from foxglove.websocket import WebSocketServer
from PIL import Image

from florence_edge.drawing.palette import Colour, class_colours, colour, text_colour
from florence_edge.errors import InputError
from florence_edge.geometry import AnyArray
from florence_edge.results import Detections, Polygons, Quads, Result, Text

from .events import Event
from .protocols import Run, SinkError, message_time
from .uris import Uri

_THICKNESS, _FONT = 2.0, 14.0
"""Line width and text height in pixels of the image."""

_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:/]*)(:(?P<port>\d{1,5}))?/?")


@dataclass(frozen=True)
class Shape:
    """What is drawn for one item: closed lines [M, 2] in pixels, a text at a point, and the colour of both."""

    rings: tuple[AnyArray, ...]
    text: str
    at: tuple[float, float]
    colour: Colour


def image_annotations(result: Result, time_ns: int) -> ImageAnnotations:
    """A result as `foxglove.ImageAnnotations`, stamped with its image's time; task and raw answer are metadata."""
    stamp = _stamp(time_ns)
    points, texts = [], []
    for shape in shapes(result):
        points += [
            PointsAnnotation(
                timestamp=stamp,
                type=PointsAnnotationType.LineLoop,
                points=[Point2(x=x, y=y) for x, y in ring.tolist()],
                outline_color=_colour(shape.colour),
                thickness=_THICKNESS,
            )
            for ring in shape.rings
        ]
        if shape.text:
            texts.append(
                TextAnnotation(
                    timestamp=stamp,
                    position=Point2(x=shape.at[0], y=shape.at[1]),
                    text=shape.text,
                    font_size=_FONT,
                    text_color=_colour(text_colour(shape.colour)),
                    background_color=_colour(shape.colour),
                )
            )
    about = {"task": result.task, "finish": result.finish, "raw": result.raw}
    pairs = [KeyValuePair(key=key, value=value) for key, value in about.items()]
    return ImageAnnotations(timestamp=stamp, points=points, texts=texts, metadata=pairs)


def annotations_schema() -> tuple[str, str, bytes]:
    """Name, encoding and content of the annotations' schema."""
    schema = ImageAnnotations.get_schema()
    return schema.name, schema.encoding, schema.data


def shapes(result: Result) -> list[Shape]:
    """What is drawn for a result, one shape per item."""
    if isinstance(result, Text):
        return [Shape((), result.text, (0.0, _FONT * 1.5), colour(0))]
    if isinstance(result, Quads):
        return _shapes([(quad,) for quad in result.quads], result.texts, list(map(colour, range(len(result)))))
    if isinstance(result, Polygons):
        return _shapes(result.polygons, result.labels, list(map(colour, range(len(result)))))
    if isinstance(result, Detections):
        polygons = result.polygons or ((),) * len(result)
        rings = [own or (_corners(box),) for own, box in zip(polygons, result.boxes, strict=True)]
        texts = [_scored(*pair) for pair in zip(result.labels, result.scores.tolist(), strict=True)]
        return _shapes(rings, texts, class_colours(result.labels, result.class_ids.tolist()))
    raise InputError(f"a result of type {type(result).__name__} cannot be drawn")


def open_sink(uri: Uri) -> FoxgloveSink:
    """`foxglove://HOST:PORT?namespace=/florence`; without a host 127.0.0.1, without a port 8765."""
    found = _ADDRESS.fullmatch(uri.target)
    port = int(found["port"] or 8765) if found else 65536
    if found is None or port > 65535:
        raise InputError(f"{uri.text}: {uri.target!r} is no address; give HOST:PORT, such as 127.0.0.1:8765")
    namespace = uri.only("namespace").get("namespace", "/florence")
    return FoxgloveSink((found["host"] or "127.0.0.1").strip("[]"), port, namespace=namespace)


class FoxgloveSink:
    """A WebSocket server that Foxglove connects to: the picture and the annotations of every task, as they come.

    Nothing is kept: who connects late sees what comes next, and a slow viewer loses pictures rather than holding up the
    stream. The protocol knows no password, so the server listens on this machine alone unless another host is named.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 8765, *, namespace: str = "/florence") -> None:
        self._host, self._port, self._namespace = host, port, namespace.rstrip("/")
        self._server: WebSocketServer | None = None

    @property
    def port(self) -> int:
        """Where the server listens; what was asked for until it is open (0: any free port)."""
        return self._port

    def open(self, run: Run) -> None:
        """Starts the server; `SinkError` when it cannot listen there."""
        self._several = len(run.sources) > 1
        self._context = foxglove.Context()
        self._images: dict[str, CompressedImageChannel] = {}
        self._drawings: dict[str, ImageAnnotationsChannel] = {}
        try:
            self._server = foxglove.start_server(
                name="florence-edge", host=self._host, port=self._port, context=self._context, message_backlog_size=64
            )
        except Exception as error:  # the SDK raises a bare RuntimeError or OSError, by version
            raise SinkError(
                f"foxglove://{self._host}:{self._port} cannot be served: {error}; name a free port"
            ) from error
        self._port = self._server.port

    def write(self, event: Event) -> None:
        """Sends the picture, where somebody looks at it, and what was found in it."""
        frame = event.frame
        if frame.error is not None:
            return
        topic = "/".join([self._namespace, *([frame.tag] if self._several else [])])
        if topic not in self._images:
            self._images[topic] = CompressedImageChannel(f"{topic}/image", context=self._context)
        if self._images[topic].has_sinks():
            picture = CompressedImage(
                timestamp=_stamp(frame.time_ns), frame_id=frame.tag, data=_jpeg(frame.image), format="jpeg"
            )
            self._images[topic].log(picture, log_time=message_time(frame.time_ns))
        for name, result in event.results.items():
            drawn = f"{topic}/{name}/annotations"
            if drawn not in self._drawings:
                self._drawings[drawn] = ImageAnnotationsChannel(drawn, context=self._context)
            drawing = image_annotations(result, frame.time_ns)
            self._drawings[drawn].log(drawing, log_time=message_time(frame.time_ns))

    def close(self) -> None:
        """Stops the server."""
        if self._server is not None:
            self._server.stop()
            self._server = None


def _shapes(rings: Sequence[Sequence[AnyArray]], texts: Sequence[str], colours: Sequence[Colour]) -> list[Shape]:
    """Each text at the upper left corner of its item."""
    made = []
    for own, text, tint in zip(rings, texts, colours, strict=True):
        left, top = (min(float(ring[:, axis].min()) for ring in own) for axis in (0, 1))
        made.append(Shape(tuple(own), text, (left, max(top, _FONT)), tint))
    return made


def _scored(label: str, score: float) -> str:
    return f"{label} {score:.2f}".strip() if score == score else label  # NaN: not known


def _corners(box: AnyArray) -> AnyArray:
    return box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)


def _colour(value: Colour) -> Color:
    red, green, blue = (part / 255 for part in value)
    return Color(r=red, g=green, b=blue, a=1.0)


def _stamp(time_ns: int) -> Timestamp:
    seconds, nanoseconds = divmod(message_time(time_ns), 1_000_000_000)
    return Timestamp(sec=seconds, nsec=nanoseconds)


def _jpeg(image: AnyArray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=85)
    return stream.getvalue()
