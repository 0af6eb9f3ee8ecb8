"""Bags as sources: ROS 1, sqlite3 and MCAP, raw and compressed, whole and damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from florence_edge.errors import ImageError, InputError
from florence_edge.ros.messages import Header
from florence_edge.stream import uris
from florence_edge.stream.bags.source import BagSource
from florence_edge.stream.protocols import Frame, SourceError
from support.bags import (
    DELAY_NS,
    PERIOD_NS,
    START_NS,
    compressed_fields,
    jpeg,
    picture,
    raw_fields,
    recorded,
    write_bag,
)

KINDS = {"ros1": "in.bag", "sqlite3": "in", "mcap": "in"}
COUNT = 7


def made(folder: Path, kind: str, **topics: list[dict[str, Any]]) -> Path:
    return write_bag(folder / KINDS[kind], {f"/{name}": rows for name, rows in topics.items()}, kind=kind)


def raw(count: int = COUNT) -> list[dict[str, Any]]:
    return [raw_fields(picture(index), encoding="bgr8") for index in range(count)]


def compressed(count: int = COUNT) -> list[dict[str, Any]]:
    return [compressed_fields(jpeg(picture(index))) for index in range(count)]


def read(source: BagSource, start: int = 0) -> tuple[list[Frame], SourceError | None]:
    """The frames, and what ended them."""
    frames = []
    try:
        for frame in source.frames(start):
            frames.append(frame)
    except SourceError as error:
        return frames, error
    return frames, None


@pytest.mark.parametrize("kind", KINDS)
def test_raw_images_come_in_order_with_stamp_and_frame(tmp_path: Path, kind: str) -> None:
    source = uris.open_source(f"bag://{made(tmp_path, kind, camera=raw())}#left")
    frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(COUNT))
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, picture(index))
        stamp = START_NS + index * PERIOD_NS
        assert (frame.time_ns, frame.tag, frame.name) == (stamp, "left", "/camera")
        assert frame.header == Header(stamp, "camera", stamp + DELAY_NS)
    assert source.rate_hz == pytest.approx(1e9 / PERIOD_NS)
    assert not source.live


@pytest.mark.parametrize("kind", KINDS)
def test_compressed_images_are_read(tmp_path: Path, kind: str) -> None:
    frames, error = read(BagSource(made(tmp_path, kind, camera=compressed())))
    assert error is None
    assert len(frames) == COUNT
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, np.asarray(Image.open(BytesIO(jpeg(picture(index))))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [0, 3, COUNT, COUNT + 5])
def test_reading_may_begin_anywhere_and_be_repeated(tmp_path: Path, kind: str, start: int) -> None:
    source = BagSource(made(tmp_path, kind, camera=raw()))
    every, some = read(source)[0], read(source, start)[0]
    assert [(frame.index, frame.time_ns) for frame in some] == [(f.index, f.time_ns) for f in every[start:]]


def test_a_bare_storage_file_and_a_bag_in_parts_are_read(tmp_path: Path) -> None:
    bag = made(tmp_path, "mcap", camera=raw())
    (part,) = bag.glob("*.mcap")
    assert len(read(BagSource(part))[0]) == COUNT
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in (0, 2, 10):
        (folder / f"parts_{number}.mcap").write_bytes(part.read_bytes())
    frames, error = read(BagSource(folder))
    assert error is None
    assert [frame.index for frame in frames] == list(range(3 * COUNT))
    database = next(made(tmp_path / "two", "sqlite3", camera=raw()).glob("*.db3"))
    assert len(read(BagSource(database))[0]) == COUNT


def test_the_topic_must_be_named_where_there_are_several(tmp_path: Path) -> None:
    bag = made(tmp_path, "sqlite3", left=raw(2), right=compressed(3))
    with pytest.raises(InputError, match=r"name the topic with \?topic=/name; .*: /left, /right"):
        read(BagSource(bag))
    assert len(read(BagSource(bag, topic="/right"))[0]) == 3
    with pytest.raises(InputError, match="has no topic /rear; topics with images are: /left, /right"):
        read(BagSource(bag, topic="/rear"))


def test_the_identity_names_content_and_topic(tmp_path: Path) -> None:
    bag = made(tmp_path, "mcap", left=raw(2), right=raw(2))
    left = BagSource(bag, topic="/left").identity
    assert left == BagSource(bag, topic="/left").identity
    assert left != BagSource(bag, topic="/right").identity
    (part,) = bag.glob("*.mcap")
    part.touch()
    assert left != BagSource(bag, topic="/left").identity


@pytest.mark.parametrize("kind", KINDS)
def test_a_corrupt_jpeg_is_a_frame_with_an_error_and_the_rest_goes_on(tmp_path: Path, kind: str) -> None:
    rows = compressed()
    rows[2] = compressed_fields(jpeg(picture(2))[:150])
    rows[4] = compressed_fields(b"")
    frames, error = read(BagSource(made(tmp_path, kind, camera=rows)))
    assert error is None
    assert [frame.index for frame in frames] == list(range(COUNT))
    assert [index for index, frame in enumerate(frames) if frame.error is not None] == [2, 4]
    assert isinstance(frames[2].error, ImageError)
    assert frames[2].image.shape == (0, 0, 3)
    assert frames[2].time_ns == START_NS + 2 * PERIOD_NS


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_encoding_is_said_per_frame(tmp_path: Path, kind: str) -> None:
    rows = raw(3)
    rows[1]["encoding"] = "xyz12"
    frames, _ = read(BagSource(made(tmp_path, kind, camera=rows)))
    assert "unknown image encoding 'xyz12'; known are: rgb8" in str(frames[1].error)
    assert [frame.error is None for frame in frames] == [True, False, True]


def test_a_message_of_garbage_is_a_frame_with_an_error(tmp_path: Path) -> None:
    from mcap.writer import Writer

    path = tmp_path / "garbage.mcap"
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start("ros2", "test")
        schema = writer.register_schema("sensor_msgs/msg/Image", "ros2msg", b"")
        channel = writer.register_channel("/camera", "cdr", schema)
        writer.add_message(channel, 5, b"\0\1\0\0\xff\xff", 5)
        writer.finish()  # type: ignore[no-untyped-call]  # the library's own omission
    (frame,), error = read(BagSource(path))
    assert error is None
    assert "message 0 of /camera cannot be read" in str(frame.error)
    assert frame.time_ns == 5


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.999])
def test_an_mcap_cut_in_the_middle_gives_what_it_has_then_says_so(tmp_path: Path, part: float) -> None:
    path = recorded(made(tmp_path, "mcap", camera=raw(40)), tmp_path / "cut.mcap")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    frames, error = read(BagSource(path))
    assert error is not None
    assert "was cut short" in str(error)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert len(frames) >= 40 * part - 12
    for frame in frames:
        np.testing.assert_array_equal(frame.image, picture(frame.index))


@pytest.mark.parametrize("kind", ["ros1", "sqlite3"])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.95])
def test_other_bags_cut_in_the_middle_end_with_a_clear_message(tmp_path: Path, kind: str, part: float) -> None:
    bag = made(tmp_path, kind, camera=raw(40))
    file = bag if bag.is_file() else next(bag.glob("*.db3"))
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(SourceError, match="damaged, was cut short, or is no bag"):
        list(BagSource(bag).frames())


def test_what_is_no_bag_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no bag"):
        list_all(BagSource(tmp_path / "none.mcap"))
    with pytest.raises(SourceError, match=r"neither metadata\.yaml nor an \.mcap file"):
        list_all(BagSource(tmp_path))
    text = tmp_path / "text.mcap"
    text.write_text("hello")
    with pytest.raises(SourceError, match="is no MCAP file or nothing of it can be read"):
        list_all(BagSource(text))


@pytest.mark.parametrize("library", ["rosbags", "mcap"])
def test_a_missing_library_names_the_pip_line(library: str) -> None:
    script = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from florence_edge.errors import DependencyError\n"
        "from florence_edge.stream import uris\n"
        "try: uris.open_source('bag://x.mcap')\n"
        "except DependencyError as error: print(error)"
    )
    paths = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "pip install 'florence-edge[bags]'" in done.stdout, done.stderr


def list_all(source: BagSource) -> list[Frame]:
    return list(source.frames())
