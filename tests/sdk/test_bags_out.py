"""Bags as sinks: what is written, read back with readers of other people and compared field by field."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from math import nan, pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap_ros2")

from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability

from florence_edge.errors import BackendError, ImageError, InputError
from florence_edge.geometry import ImageSize
from florence_edge.results import Detections, Polygons, Quads, Result, Text
from florence_edge.ros.messages import Header, Labels
from florence_edge.stream import uris
from florence_edge.stream.bags.sink import BagSink
from florence_edge.stream.events import Cut, Event, Spending
from florence_edge.stream.protocols import Frame, SinkError
from support.bags import PERIOD_NS, START_NS, run_of

SIZE = ImageSize(64, 48)


def scores(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(values, dtype=np.float32)


def detections(index: int) -> Detections:
    """No box in frame 0, one in frame 1, two in frame 2, ..."""
    count = index % 3
    boxes = np.array([[1.5, 2, 11, 12], [20, 8, 63.25, 40]], np.float32)[:count]
    return Detections(
        "<OD>",
        SIZE,
        scores(0.75, nan)[:count],
        boxes=boxes,
        labels=("red cube", "Ball ☕")[:count],
        class_ids=np.arange(count),
        tokens=9,
    )


def text(index: int) -> Text:
    return Text("<CAPTION>", SIZE, scores(0.5), text=f"Café number {index}", timings_ms={"search": 5.0 + index})


def polygons(index: int) -> Polygons:
    ring = np.array([[4, 4], [20, 4], [20, 24], [4, 24]], np.float32)
    rings = ((ring,), (ring + 10,))
    labels = ("the cube", "a ball") if index else ("the cube",)
    count = len(labels)
    return Polygons(
        "<REFERRING_EXPRESSION_SEGMENTATION>", SIZE, scores(0.9, 0.8)[:count], polygons=rings[:count], labels=labels
    )


def quads(index: int) -> Quads:
    """A rectangle of 10 by 4 around (30, 20), turned clockwise by a quarter of a right angle per frame."""
    angle = index * pi / 8
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = np.array([[-5, -2], [5, -2], [5, 2], [-5, 2]]) @ turn + (30, 20)
    return Quads("<OCR_WITH_REGION>", SIZE, scores(0.25), quads=corners[None].astype(np.float32), texts=("OPEN",))


MAKERS = {"detect": detections, "caption": text, "segment": polygons, "read-regions": quads}


def frame_of(index: int, *, tag: str = "bag", error: ImageError | None = None) -> Frame:
    stamp = START_NS + index * PERIOD_NS
    image = np.zeros((SIZE.height, SIZE.width, 3), np.uint8)
    return Frame(image, stamp, index, tag, "/camera", Header(stamp, "optical", stamp + 1000), error)


def event_of(index: int, *, tag: str = "bag", tasks: Sequence[str] = tuple(MAKERS), age_ms: float = 1.0) -> Event:
    results: dict[str, Result] = {name: MAKERS[name](index) for name in tasks}
    return Event(frame_of(index, tag=tag), results, age_ms=age_ms * index)


def write(path: Path, events: Sequence[Event], **options: Any) -> Path:
    run = options.pop("run", run_of())
    sink = BagSink(path, **options)
    sink.open(run)
    for event in events:
        sink.write(event)
    sink.close()
    return path


def read_mcap(path: Path) -> list[tuple[str, str, int, Any]]:
    """Topic, type, time and message, with the mcap library and mcap-ros2-support."""
    with path.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()], validate_crcs=True)
        decoded = reader.iter_decoded_messages(log_time_order=False)
        return [
            (channel.topic, schema.name, message.log_time, ros) for schema, channel, message, ros in decoded if schema
        ]


def read_rosbags(path: Path) -> list[tuple[str, str, int, Any]]:
    """The same with rosbags, which knows the types by the definitions in the file alone."""
    with AnyReader([path]) as reader:
        found = reader.messages()
        return [(con.topic, con.msgtype, time, reader.deserialize(raw, con.msgtype)) for con, time, raw in found]


READERS = {"mcap-ros2-support": read_mcap, "rosbags": read_rosbags}


@pytest.fixture(params=READERS)
def messages(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, list[tuple[str, int, Any]]]:
    """Topics to (type, time, message) of four events, by each reader."""
    path = write(tmp_path / "out.mcap", [event_of(index) for index in range(4)])
    topics: dict[str, list[tuple[str, int, Any]]] = {}
    for topic, type, time, message in READERS[request.param](path):
        topics.setdefault(topic, []).append((type, time, message))
    return topics


def check_header(header: Any, index: int) -> None:
    stamp = START_NS + index * PERIOD_NS
    assert (header.stamp.sec, header.stamp.nanosec, header.frame_id) == (stamp // 10**9, stamp % 10**9, "optical")


Messages = dict[str, list[tuple[str, int, Any]]]


def test_the_topics_are_the_documented_ones(messages: Messages) -> None:
    assert {topic: (rows[0][0], len(rows)) for topic, rows in messages.items()} == {
        "/florence/detect/detections": ("vision_msgs/msg/Detection2DArray", 4),
        "/florence/caption/text": ("vision_msgs/msg/Classification", 4),
        "/florence/segment/detections": ("vision_msgs/msg/Detection2DArray", 4),
        "/florence/segment/mask": ("sensor_msgs/msg/Image", 4),
        "/florence/read_regions/detections": ("vision_msgs/msg/Detection2DArray", 4),
        "/florence/label_info": ("vision_msgs/msg/LabelInfo", 2),
        "/florence/status": ("diagnostic_msgs/msg/DiagnosticArray", 4),
    }
    for rows in messages.values():
        for _, time, message in rows:
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            assert time == stamp + 1000  # the time of recording, not the stamp


def test_detections_are_centre_based_with_phrase_and_score_and_empty_ones_are_there(messages: Messages) -> None:
    for index, (_, _, message) in enumerate(messages["/florence/detect/detections"]):
        expected = detections(index)
        check_header(message.header, index)
        assert len(message.detections) == len(expected)
        for item, box, label, score in zip(
            message.detections, expected.boxes.astype(float), expected.labels, expected.scores, strict=True
        ):
            check_header(item.header, index)
            assert item.bbox.center.position.x - item.bbox.size_x / 2 == box[0]
            assert item.bbox.center.position.y - item.bbox.size_y / 2 == box[1]
            assert item.bbox.center.position.x + item.bbox.size_x / 2 == box[2]
            assert item.bbox.center.position.y + item.bbox.size_y / 2 == box[3]
            assert item.bbox.center.theta == 0
            (hypothesis,) = item.results
            assert hypothesis.hypothesis.class_id == label
            assert hypothesis.hypothesis.score == (0.0 if np.isnan(score) else score)
            assert not np.any(hypothesis.pose.covariance)
            assert hypothesis.pose.pose.orientation.w == 1
            assert item.id == ""


def test_text_has_the_images_header_and_the_score(messages: Messages) -> None:
    for index, (_, _, message) in enumerate(messages["/florence/caption/text"]):
        check_header(message.header, index)
        (hypothesis,) = message.results
        assert (hypothesis.class_id, hypothesis.score) == (f"Café number {index}", 0.5)


def test_lines_of_text_keep_their_place_size_and_angle(messages: Messages) -> None:
    for index, (_, _, message) in enumerate(messages["/florence/read_regions/detections"]):
        (item,) = message.detections
        box = item.bbox
        found = (box.center.position.x, box.center.position.y, box.size_x, box.size_y, box.center.theta)
        assert found == pytest.approx((30, 20, 10, 4, index * pi / 8), abs=1e-5)
        assert item.results[0].hypothesis.class_id == "OPEN"


def test_masks_hold_the_ids_that_label_info_names(messages: Messages) -> None:
    names = [[entry.class_name for entry in message.class_map] for _, _, message in messages["/florence/label_info"]]
    assert names == [["background", "the cube"], ["background", "the cube", "a ball"]]
    ids = [[entry.class_id for entry in message.class_map] for _, _, message in messages["/florence/label_info"]]
    assert ids == [[0, 1], [0, 1, 2]]
    for index, (_, _, message) in enumerate(messages["/florence/segment/mask"]):
        check_header(message.header, index)
        assert (message.width, message.height, message.encoding, message.step) == (64, 48, "mono16", 128)
        assert message.is_bigendian == 0
        pixels = np.frombuffer(bytes(message.data), "<u2").reshape(48, 64)
        first, *others = polygons(index).to_masks()
        covered = others[0] if others else np.zeros_like(first)
        np.testing.assert_array_equal(pixels == 2, covered)
        np.testing.assert_array_equal(pixels == 1, first & ~covered)
        assert int(pixels.max()) == 1 + len(others)


def test_the_status_tells_what_was_done(messages: Messages) -> None:
    for index, (_, _, message) in enumerate(messages["/florence/status"]):
        (status,) = message.status
        assert (status.name, status.message, status.hardware_id) == ("florence_edge", "ok", "bag")
        values = {pair.key: pair.value for pair in status.values}
        assert values["frame"] == str(index)
        assert values["detect.items"] == str(index % 3)
        assert values["detect.finish"] == "eos"
        assert not any(key.endswith("_ms") for key in values)


def test_labels_are_latched_for_both_generations_of_rosbag2(tmp_path: Path) -> None:
    path = write(tmp_path / "out.mcap", [event_of(0)])
    with AnyReader([path]) as reader:
        offers = {con.topic: con.ext.offered_qos_profiles for con in reader.connections}  # type: ignore[union-attr]
    (qos,) = offers["/florence/label_info"]
    assert (qos.durability, qos.reliability) == (QosDurability.TRANSIENT_LOCAL, QosReliability.RELIABLE)
    assert qos.depth == 1
    with path.open("rb") as stream:
        metadata = {record.name: record.metadata for record in make_reader(stream).iter_metadata()}
    assert metadata == {"rosbag2": {"ROS_DISTRO": "humble"}, "florence_edge": {"run": "run"}}


def test_class_names_that_were_asked_for_are_published_at_once(tmp_path: Path) -> None:
    run = replace(run_of(), labels=("cup", "red cube"))
    path = write(tmp_path / "out.mcap", [event_of(index, tasks=["detect"]) for index in range(3)], run=run)
    infos = [message for topic, _, _, message in read_rosbags(path) if topic == "/florence/label_info"]
    assert [[entry.class_name for entry in info.class_map] for info in infos] == [["background", "cup", "red cube"]]


def test_several_sources_get_topics_of_their_own(tmp_path: Path) -> None:
    events = [event_of(0, tag="left-1", tasks=["detect"]), event_of(0, tag="right", tasks=["detect"])]
    path = write(tmp_path / "out.mcap", events, run=run_of(tags=["left-1", "right"]), namespace="/robot/")
    assert {topic for topic, *_ in read_mcap(path)} == {
        f"/robot/{tag}/{rest}" for tag in ("left_1", "right") for rest in ("detect/detections", "status")
    }
    with pytest.raises(InputError, match="differ only in characters"):
        BagSink(tmp_path / "other.mcap").open(run_of(tags=["left-1", "left_1"]))


def test_failures_are_in_the_status_and_nowhere_else(tmp_path: Path) -> None:
    unread = Event(frame_of(0, error=ImageError("damaged")))
    failed = Event(
        frame_of(1),
        {"caption": text(1)},
        {"detect": BackendError("not finite")},
        spending=Spending(5.0, 4.0, (Cut("caption", "beams", 3, 1),)),
    )
    found = read_mcap(write(tmp_path / "out.mcap", [unread, failed]))
    assert [topic for topic, *_ in found] == ["/florence/status", "/florence/caption/text", "/florence/status"]
    statuses = [message.status[0] for topic, *_, message in found if topic.endswith("status")]
    assert [(status.level, status.message) for status in statuses] == [(2, "damaged"), (2, "detect: not finite")]
    assert {pair.key: pair.value for pair in statuses[1].values}["cuts"] == "caption beams 3 -> 1"


def test_live_runs_say_age_drops_and_timings(tmp_path: Path) -> None:
    event = replace(event_of(2, tasks=["caption"]), dropped=4)
    found = read_mcap(write(tmp_path / "out.mcap", [event], run=run_of(live=True)))
    (status,) = [message.status[0] for topic, *_, message in found if topic.endswith("status")]
    values = {pair.key: pair.value for pair in status.values}
    assert (values["age_ms"], values["dropped"], values["caption.search_ms"]) == ("2.0", "4", "7.0")


def test_the_same_results_are_the_same_bytes_whatever_they_cost(tmp_path: Path) -> None:
    first = write(tmp_path / "a.mcap", [event_of(index, age_ms=1) for index in range(5)])
    second = write(tmp_path / "b.mcap", [event_of(index, age_ms=7) for index in range(5)])
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("done", [0, 1, 3, 6])
@pytest.mark.parametrize("closed", [False, True])
def test_a_run_goes_on_where_its_file_ends(tmp_path: Path, done: int, closed: bool) -> None:
    events = [event_of(index) for index in range(6)]
    whole = write(tmp_path / "whole.mcap", events).read_bytes()
    path = tmp_path / "parts.mcap"
    sink = BagSink(path)
    sink.open(run_of())
    for event in events[:done]:
        sink.write(event)
    if closed:
        sink.close()
    again = BagSink(path)
    assert again.open(run_of(resume=True)) == ({"bag": done} if done else {})
    for event in events[done:]:
        again.write(event)
    again.close()
    assert path.read_bytes() == whole


def test_a_file_cut_at_any_byte_is_continued_to_the_same_bytes(tmp_path: Path) -> None:
    events = [event_of(index, tasks=["detect", "segment"]) for index in range(3)]
    whole = write(tmp_path / "whole.mcap", events).read_bytes()
    path = tmp_path / "cut.mcap"
    for size in [*range(0, len(whole), 211), len(whole) - 1, len(whole)]:
        path.write_bytes(whole[:size])
        sink = BagSink(path)
        done = sink.open(run_of(resume=True)).get("bag", 0)
        for event in events[done:]:
            sink.write(event)
        sink.close()
        assert path.read_bytes() == whole, f"cut at {size}, resumed at {done}"


def test_what_is_not_ours_is_never_touched(tmp_path: Path) -> None:
    path = write(tmp_path / "out.mcap", [event_of(0)])
    before = path.read_bytes()
    with pytest.raises(SinkError, match="is already there"):
        BagSink(path).open(run_of())
    with pytest.raises(SinkError, match="holds another run's results"):
        BagSink(path).open(run_of(key="other", resume=True))
    assert path.read_bytes() == before
    path.write_bytes(b"a photograph, say")
    with pytest.raises(SinkError, match="it is no result file"):
        BagSink(path).open(run_of(resume=True))
    assert path.read_bytes() == b"a photograph, say"


def test_a_full_disk_keeps_what_was_whole_and_the_run_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [event_of(index) for index in range(4)]
    whole = write(tmp_path / "whole.mcap", events).read_bytes()
    path = tmp_path / "full.mcap"
    sink = BagSink(path)
    sink.open(run_of())
    sink.write(events[0])
    sink.write(events[1])
    held = path.stat().st_size
    inner = sink._file._stream._file

    class Full:
        """Takes ten more bytes."""

        left = 10

        def write(self, data: memoryview) -> int:
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken = inner.write(data[: self.left])
            self.left -= taken
            return taken

        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

    monkeypatch.setattr(sink._file._stream, "_file", Full())
    with pytest.raises(SinkError, match=r"cannot take frame 2 of bag: .*No space left"):
        sink.write(events[2])
    assert path.stat().st_size == held
    sink.close()  # there is room for the index again
    assert len([topic for topic, *_ in read_rosbags(path) if topic == "/florence/status"]) == 2
    again = BagSink(path)
    assert again.open(run_of(resume=True)) == {"bag": 2}
    for event in events[2:]:
        again.write(event)
    again.close()
    assert path.read_bytes() == whole


def test_more_labels_than_a_mask_can_hold_are_unlabelled() -> None:
    labels = Labels([f"label {number}" for number in range(65534)])
    assert labels.id_of("label 65533") == 65534
    assert labels.id_of("one too many") == 65535
    assert len(labels.names()) == 65535


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("bag://out.db3", "bags are written as MCAP"),
        ("bag://out.mcap?annotations=yes", "it must be foxglove or none"),
        ("bag://out.mcap?topic=/x", "unknown option topic"),
    ],
)
def test_a_bad_uri_is_said(uri: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        uris.open_sink(uri)
