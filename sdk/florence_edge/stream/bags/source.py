"""A topic of a bag as frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np

from florence_edge.errors import FlorenceError, ImageError, InputError
from florence_edge.files import state_of
from florence_edge.ros.definitions import COMPRESSED_IMAGE, IMAGE
from florence_edge.ros.encodings import decode_message
from florence_edge.ros.messages import Header, header_of
from florence_edge.ros.rosbags_library import BagReader, Raw, Topic, decode
from florence_edge.stream.protocols import Frame, SourceError
from florence_edge.stream.uris import Uri, tag_of

from .container import McapReader

_TYPES = (IMAGE, COMPRESSED_IMAGE)


def open_source(uri: Uri) -> BagSource:
    """`bag://PATH?topic=/camera/image_raw#tag`; the topic may be left out where the bag has one with images."""
    path = Path(uri.target).expanduser()
    return BagSource(path, topic=uri.only("topic").get("topic"), tag=tag_of(uri, path.stem))


class BagSource:
    """The images of one topic: `sensor_msgs/Image` or `CompressedImage` of ROS 1, ROS 2 sqlite3 or MCAP.

    `path` is a `.bag`, `.mcap` or `.db3` file or the folder of a ROS 2 bag. A frame's time is the header's stamp, or
    that of recording where the stamp is zero; its `header` is a `ros.messages.Header`. An image that cannot be decoded
    is a frame with an error. A bag that was cut short gives what it has and then a `SourceError`.
    """

    live = False

    def __init__(self, path: Path, *, topic: str | None = None, tag: str = "") -> None:
        self._path, self._wanted, self._tag = path, topic, tag or path.stem

    @property
    def tag(self) -> str:
        """The name of this source."""
        return self._tag

    @property
    def identity(self) -> str:
        """A digest over the files' paths, sizes and times of change, and the topic."""
        return f"{state_of(self._files)} {self._topic.name}"

    @property
    def rate_hz(self) -> float | None:
        """Images per second on average."""
        return self._topic.rate_hz

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """The images from number `start`; earlier ones are not decoded."""
        topic = self._topic
        index = 0
        for file in self._files:
            with _opened(file) as reader:
                for raw in reader.messages(topic.name):
                    if index >= start:
                        yield self._frame(raw, index, topic)
                    index += 1

    def _frame(self, raw: Raw, index: int, topic: Topic) -> Frame:
        header = Header(raw.recorded_ns, "", raw.recorded_ns)
        image, error = np.zeros((0, 0, 3), dtype=np.uint8), None
        try:
            message = decode(raw, topic.type)
            header = header_of(message, raw.recorded_ns)
            image = decode_message(message, compressed=topic.type == COMPRESSED_IMAGE)
        except FlorenceError as fault:
            error = fault
        except Exception as fault:  # a message whose bytes do not fit its type: rosbags' errors, NumPy's and others
            error = ImageError(f"message {index} of {topic.name} cannot be read: {fault}")
        return Frame(image, header.stamp_ns, index, self._tag, topic.name, header, error)

    @cached_property
    def _files(self) -> list[Path]:
        """The files to read in turn: the parts of a folder of MCAP files, else the bag itself."""
        if not self._path.exists():
            raise SourceError(f"there is no bag {self._path}")
        if not self._path.is_dir():
            return [self._path]
        parts = sorted(self._path.glob("*.mcap"), key=_natural)
        if not parts and not (self._path / "metadata.yaml").is_file():
            raise SourceError(f"{self._path} is no bag: it holds neither metadata.yaml nor an .mcap file")
        return parts or [self._path]

    @cached_property
    def _topic(self) -> Topic:
        with _opened(self._files[0]) as reader:
            topics = {topic.name: topic for topic in reader.topics()}
        pictures = [name for name, topic in topics.items() if topic.type in _TYPES]
        has = f"topics with images are: {', '.join(sorted(pictures)) or 'none'}"
        if self._wanted in topics:
            if self._wanted in pictures:
                return topics[self._wanted]
            raise InputError(f"{self._path}: {self._wanted} holds {topics[self._wanted].type}, not images; {has}")
        if self._wanted is not None:
            raise InputError(f"{self._path} has no topic {self._wanted}; {has}")
        if len(pictures) != 1:
            raise InputError(f"{self._path}: name the topic with ?topic=/name; {has}")
        return topics[pictures[0]]


@contextmanager
def _opened(file: Path) -> Iterator[McapReader | BagReader]:
    """The reader of a file; everything but our own errors becomes a `SourceError`."""
    try:
        with McapReader(file) if file.suffix == ".mcap" else BagReader(file) as reader:
            yield reader
    except FlorenceError:
        raise
    except Exception as error:  # rosbags', sqlite's and the decompressors' errors share no base
        what = str(error) or type(error).__name__
        remedy = "rosbag" if file.suffix == ".bag" else "ros2 bag"
        raise SourceError(
            f"{file} is damaged, was cut short, or is no bag: {what}; `{remedy} reindex` may mend it"
        ) from error


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts part 10 after part 9."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", path.name)]
