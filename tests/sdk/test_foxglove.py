"""Foxglove: annotations read back with protobuf's own decoder, and the live server with a client of another make."""

from __future__ import annotations

import json
import socket
import struct
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("foxglove")
pytest.importorskip("mcap_protobuf")
pytest.importorskip("websockets")

import foxglove
from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from florence_edge.errors import InputError
from florence_edge.geometry import ImageSize
from florence_edge.results import Detections, Polygons, Quads, Result, Text
from florence_edge.stream import uris
from florence_edge.stream.bags.sink import BagSink
from florence_edge.stream.events import Event
from florence_edge.stream.foxglove import FoxgloveSink, image_annotations
from florence_edge.stream.protocols import Frame, SinkError
from support.bags import START_NS, picture, run_of

SIZE = ImageSize(64, 48)
RING = np.array([[4, 4], [20, 4], [20, 24]], np.float32)
BOXES = np.array([[1.5, 2, 11, 12], [20, 30, 63.25, 40]], np.float32)
RESULTS: dict[str, Result] = {
    "detect": Detections(
        "<OD>",
        SIZE,
        np.array([0.75, np.nan], np.float32),
        boxes=BOXES,
        labels=("red cube", "Ball ☕"),
        class_ids=np.array([0, 1]),
        raw="raw answer",
    ),
    "caption": Text("<CAPTION>", SIZE, np.array([0.5], np.float32), text="a cube", finish="length"),
    "segment": Polygons(
        "<REFERRING_EXPRESSION_SEGMENTATION>",
        SIZE,
        np.array([0.5], np.float32),
        polygons=((RING, RING + 20),),
        labels=("it",),
    ),
    "lines": Quads(
        "<OCR_WITH_REGION>",
        SIZE,
        np.array([0.5], np.float32),
        quads=BOXES[:1][:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(1, 4, 2),
        texts=("OPEN",),
    ),
    "nothing": Detections(
        "<OD>",
        SIZE,
        np.zeros(0, np.float32),
        boxes=np.zeros((0, 4), np.float32),
        labels=(),
        class_ids=np.zeros(0, np.int64),
    ),
}


def event(index: int = 0) -> Event:
    return Event(Frame(picture(index), START_NS + index, index, "bag"), RESULTS)


def decoded(path: Path) -> dict[str, Any]:
    """The annotations of a file by task, as the schema in the file itself says they are to be read."""
    with path.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        found = reader.iter_decoded_messages(topics=[f"/florence/{name}/annotations" for name in RESULTS])
        rows = [(schema, channel, message, value) for schema, channel, message, value in found]
    assert {schema.name for schema, *_ in rows if schema} == {"foxglove.ImageAnnotations"}
    assert {message.log_time for _, _, message, _ in rows} == {START_NS}
    return {channel.topic.split("/")[2]: value for _, channel, _, value in rows}


def points_of(annotation: Any) -> list[list[tuple[float, float]]]:
    assert all(shape.type == 2 for shape in annotation.points)  # LINE_LOOP
    return [[(point.x, point.y) for point in shape.points] for shape in annotation.points]


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Any]:
    sink = BagSink(tmp_path / "out.mcap", annotations=True)
    sink.open(run_of())
    sink.write(event())
    sink.close()
    return decoded(tmp_path / "out.mcap")


def test_every_task_has_annotations_stamped_like_its_image(written: dict[str, Any]) -> None:
    assert written.keys() == RESULTS.keys()
    for name, annotation in written.items():
        stamp = annotation.timestamp
        assert stamp.seconds * 10**9 + stamp.nanos == START_NS
        metadata = {pair.key: pair.value for pair in annotation.metadata}
        result = RESULTS[name]
        assert metadata == {"task": result.task, "finish": result.finish, "raw": result.raw}


def test_boxes_polygons_quads_and_texts_are_where_the_result_says(written: dict[str, Any]) -> None:
    corners = BOXES[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(2, 4, 2).astype(float)
    np.testing.assert_array_equal(points_of(written["detect"]), corners)
    np.testing.assert_array_equal(points_of(written["segment"]), [RING, RING + 20])
    np.testing.assert_array_equal(points_of(written["lines"]), corners[:1])
    assert [text.text for text in written["detect"].texts] == ["red cube 0.75", "Ball ☕"]
    assert [text.text for text in written["segment"].texts] == ["it"]
    assert [text.text for text in written["lines"].texts] == ["OPEN"]
    assert [text.text for text in written["caption"].texts] == ["a cube"]
    assert not points_of(written["caption"])
    assert not written["nothing"].points
    assert not written["nothing"].texts
    first, second = written["detect"].texts
    assert (first.position.x, second.position.x, second.position.y) == (1.5, 20.0, 30.0)
    assert 0 < first.position.y <= 14  # as near to the box as the picture allows
    colours = [(shape.outline_color.r, shape.outline_color.g) for shape in written["detect"].points]
    assert len(set(colours)) == 2


def test_the_sdk_writes_the_same_bytes_into_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "sdk.mcap"
    context = foxglove.Context()
    with foxglove.open_mcap(path, context=context):
        for name, result in RESULTS.items():
            channel = foxglove.channels.ImageAnnotationsChannel(f"/florence/{name}/annotations", context=context)
            channel.log(image_annotations(result, START_NS), log_time=START_NS)
    sink = BagSink(tmp_path / "ours.mcap", annotations=True)
    sink.open(run_of())
    sink.write(event())
    sink.close()
    theirs, ours = decoded(path), decoded(tmp_path / "ours.mcap")
    for name in RESULTS:
        assert theirs[name].SerializeToString() == ours[name].SerializeToString()


def test_files_with_annotations_are_the_same_bytes_again_and_can_be_continued(tmp_path: Path) -> None:
    def write(path: Path, events: list[Event], resume: bool = False) -> bytes:
        sink = BagSink(path, annotations=True)
        sink.open(run_of(resume=resume))
        for one in events:
            sink.write(one)
        sink.close()
        return path.read_bytes()

    whole = write(tmp_path / "a.mcap", [event(0), event(1)])
    write(tmp_path / "b.mcap", [event(0)])
    assert write(tmp_path / "b.mcap", [event(1)], resume=True) == whole


def receive(client: Any, wanted: int) -> dict[str, bytes]:
    """Subscribes to everything that is advertised and returns one message per topic."""
    topics: dict[int, str] = {}
    found: dict[str, bytes] = {}
    while len(found) < wanted:
        message = client.recv(timeout=10)
        if isinstance(message, bytes):
            opcode, subscription, _ = struct.unpack("<BIQ", message[:13])
            assert opcode == 1  # message data
            found[topics[subscription]] = message[13:]
            continue
        document = json.loads(message)
        if document["op"] == "advertise":
            for channel in document["channels"]:
                topics[channel["id"]] = channel["topic"]
                wish = {"id": channel["id"], "channelId": channel["id"]}
                client.send(json.dumps({"op": "subscribe", "subscriptions": [wish]}))
    return found


def test_a_viewer_gets_the_picture_and_the_annotations_as_they_come() -> None:
    sink = uris.open_sink("foxglove://127.0.0.1:0")
    assert isinstance(sink, FoxgloveSink)
    sink.open(run_of())
    try:
        sink.write(event())  # nobody looks yet: nothing may wait for a viewer
        address, protocol = f"ws://127.0.0.1:{sink.port}", Subprotocol("foxglove.sdk.v1")
        with connect(address, subprotocols=[protocol], close_timeout=0.1) as client:
            stop = threading.Event()

            def keep_writing() -> None:
                while not stop.wait(0.02):
                    sink.write(event())

            thread = threading.Thread(target=keep_writing)
            thread.start()
            try:
                found = receive(client, 1 + len(RESULTS))
            finally:
                stop.set()
                thread.join()
    finally:
        sink.close()
    assert found.keys() == {"/florence/image", *(f"/florence/{name}/annotations" for name in RESULTS)}
    assert found["/florence/detect/annotations"] == image_annotations(RESULTS["detect"], START_NS).encode()
    start = found["/florence/image"].index(b"\xff\xd8")
    shown = np.asarray(Image.open(BytesIO(found["/florence/image"][start:])).convert("RGB")).astype(int)
    assert np.abs(shown - picture(0)).mean() < 10


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SinkError, match=f"foxglove://127.0.0.1:{port} cannot be served"):
            uris.open_sink(f"foxglove://127.0.0.1:{port}").open(run_of())


@pytest.mark.parametrize("target", ["host:port", "host:99999", "a/b"])
def test_a_bad_address_is_said(target: str) -> None:
    with pytest.raises(InputError, match=r"give HOST:PORT, such as 127\.0\.0\.1:8765"):
        uris.open_sink(f"foxglove://{target}")
