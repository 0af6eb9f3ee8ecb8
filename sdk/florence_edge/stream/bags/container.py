"""The one module that knows the mcap library: MCAP files that can be continued, and reading of damaged ones.

A file is written in blocks, one MCAP chunk each, so that a kill loses at most the block being written. To continue a
file, its whole blocks are written once more through the same library, but only what the file does not hold yet reaches
the disk: what is there is compared instead. So a continued file is, byte for byte, the one an unbroken run writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from mcap.reader import NonSeekingReader, SeekingReader
from mcap.records import Channel, Chunk, Message, Metadata, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.summary import Summary
from mcap.writer import CompressionType, Writer

from florence_edge.ros.rosbags_library import Raw, Topic
from florence_edge.stream.protocols import SinkError, SourceError

_ONE_BLOCK = 1 << 62
"""A chunk size that is never reached: blocks end where we say."""

_RECORD = "florence_edge"
"""Name of the metadata record that says whose run a file belongs to."""

_ROSBAG2 = {"ROS_DISTRO": "humble"}
"""rosbag2's own metadata record: only with it do Jazzy and later read QoS in numbers, Humble's only form."""


@dataclass(frozen=True)
class ChannelSpec:
    """A topic of a file being written: `schema` is the definition as `encoding` writes it, `qos` rosbag2's YAML."""

    topic: str
    type: str
    encoding: str
    schema: bytes
    message_encoding: str = "cdr"
    qos: str = ""


@dataclass(frozen=True)
class Stored:
    """A message found in a file that is continued."""

    topic: str
    sequence: int
    data: bytes


class McapFile:
    """An MCAP file that is written block by block and may be continued."""

    def __init__(self, path: Path, *, run: str, profile: str, again: Callable[[Stored], None] | None = None) -> None:
        """Opens a file for a run.

        With `again`, a file that is there is continued, and its messages are handed over; without, one that is there is
        a `SinkError`. So is the file of another run, or of another version that writes other bytes.
        """
        self.path, self._run = path, run
        self._profile, self._broken = profile, False
        self._channels: dict[str, int] = {}
        self._schemas: dict[tuple[str, str], int] = {}
        try:
            self._stream = _Continued(path, fresh=again is None)
        except FileExistsError:
            raise SinkError(f"{path} is already there; continue its run, remove it, or name another file") from None
        try:
            self._begin()
            if again is not None:
                self._replay(again)
        except BaseException:
            self._stream.close()
            raise

    def add(self, spec: ChannelSpec, data: bytes, time_ns: int, sequence: int) -> None:
        """Adds a message to the block; `time_ns` is when it was recorded."""
        channel = self._channels.get(spec.topic)
        if channel is None:
            channel = self._register(spec)
        self._writer.add_message(channel, time_ns, data, time_ns, sequence)

    def end_block(self) -> None:
        """Writes the block; when this returns a kill cannot undo it. After an `OSError` the file ends before it."""
        with self._whole_or_nothing():
            self._writer.flush()

    def finish(self) -> None:
        """Completes the file with its index and closes it."""
        if self._broken:
            self._stream.close()
            McapFile(self.path, run=self._run, profile=self._profile, again=lambda _: None).finish()
            return
        try:
            with self._whole_or_nothing():
                self._writer.finish()
        finally:
            self._stream.close()

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        """Takes back what was half written; the library cannot go on from there, so neither can this object."""
        start = self._stream.tell()
        try:
            yield
        except OSError:
            self._broken = True
            self._stream.cut(start)
            raise

    def _begin(self) -> None:
        target = cast(IO[bytes], self._stream)  # which has what the writer calls: write, tell and flush
        self._writer: Any = Writer(target, chunk_size=_ONE_BLOCK, compression=CompressionType.ZSTD)
        self._writer.start(profile=self._profile, library="florence-edge")
        if _run_of(self.path) not in (None, self._run):
            raise SinkError(
                f"{self.path} holds another run's results (other tasks, model or recording); remove it or name another"
            )
        if self._profile == "ros2":
            self._writer.add_metadata("rosbag2", _ROSBAG2)
        self._writer.add_metadata(_RECORD, {"run": self._run})

    def _replay(self, again: Callable[[Stored], None]) -> None:
        """Writes the whole blocks of the file once more, then drops what comes behind them."""
        schemas: dict[int, int] = {}
        channels: dict[int, tuple[int, str]] = {}
        for chunk in _chunks(self.path):
            for record in breakup_chunk(chunk):
                if isinstance(record, Schema):
                    schemas[record.id] = self._schema(record.name, record.encoding, record.data)
                elif isinstance(record, Channel):
                    number = self._channel(record, schemas[record.schema_id])
                    channels[record.id] = number, record.topic
                elif isinstance(record, Message):
                    number, topic = channels[record.channel_id]
                    self._writer.add_message(number, record.log_time, record.data, record.publish_time, record.sequence)
                    again(Stored(topic, record.sequence, record.data))
            self._writer.flush()
        self._stream.cut(self._stream.tell())

    def _register(self, spec: ChannelSpec) -> int:
        schema = self._schema(spec.type, spec.encoding, spec.schema)
        metadata = {"offered_qos_profiles": spec.qos} if spec.qos else {}
        channel = Channel(
            id=0, topic=spec.topic, message_encoding=spec.message_encoding, schema_id=schema, metadata=metadata
        )
        return self._channel(channel, schema)

    def _schema(self, name: str, encoding: str, data: bytes) -> int:
        key = (name, encoding)
        number = self._schemas.get(key)
        if number is None:
            number = self._schemas[key] = int(self._writer.register_schema(name, encoding, data))
        return number

    def _channel(self, channel: Channel, schema: int) -> int:
        number: int = self._writer.register_channel(channel.topic, channel.message_encoding, schema, channel.metadata)
        self._channels[channel.topic] = number
        return number


class _Continued:
    """A file that takes bytes it already holds without writing them, once they prove to be the same."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | (os.O_EXCL if fresh else 0)
        self._file: BinaryIO = os.fdopen(os.open(path, flags, 0o644), "r+b", buffering=0)
        self._held = os.fstat(self._file.fileno()).st_size
        self._position = 0

    def write(self, data: bytes) -> int:
        """Compares what is held, writes the rest; `SinkError` where they differ."""
        known = max(min(self._held - self._position, len(data)), 0)
        if known and self._file.read(known) != data[:known]:
            raise SinkError(
                f"{self._path} differs at byte {self._position} from what would be written: it is no result file, or "
                "other options or another version of florence-edge or its libraries began it; remove it or name another"
            )
        rest = memoryview(data)[known:]
        while rest:
            rest = rest[self._file.write(rest) :]
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        """How much has been taken."""
        return self._position

    def flush(self) -> None:
        """Nothing is buffered here."""

    def cut(self, size: int) -> None:
        """Ends the file at `size` and goes on from there."""
        self._file.truncate(size)
        self._file.seek(size)
        self._held, self._position = min(self._held, size), size

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _run_of(path: Path) -> str | None:
    """The run that a file says it belongs to; None where it is too short to say."""
    try:
        with path.open("rb") as stream:
            for record in StreamReader(stream, emit_chunks=True).records:
                if isinstance(record, Metadata) and record.name == _RECORD:
                    return str(record.metadata.get("run"))
                if isinstance(record, Chunk):
                    break
    except Exception:  # damage surfaces as whatever the record readers and decompressors raise
        return None
    return ""


def _chunks(path: Path) -> Iterator[Chunk]:
    """The whole chunks of a file, up to the first damage."""
    with path.open("rb") as stream:
        records = StreamReader(stream, emit_chunks=True).records
        while True:
            try:
                record = next(records)
                if isinstance(record, Chunk):
                    breakup_chunk(record, validate_crc=True)
            except Exception:  # the end, or damage: as above
                return
            if isinstance(record, Chunk):
                yield record


class McapReader:
    """Reads MCAP files in recording order, with or without an index; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> McapReader:
        self._stream = self._path.open("rb")
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def topics(self) -> list[Topic]:
        """What was recorded; of a file without an index what can be read of it."""
        summary = self._summary()
        if summary is None:
            return self._scan()
        statistics = summary.statistics
        seconds = (statistics.message_end_time - statistics.message_start_time) / 1e9 if statistics else 0.0
        counts = statistics.channel_message_counts if statistics else {}
        topics = []
        for channel in summary.channels.values():
            schema = summary.schemas.get(channel.schema_id)
            count = counts.get(channel.id, 0)
            rate = (count - 1) / seconds if count > 1 and seconds > 0 else None
            topics.append(Topic(channel.topic, _ros2_name(schema.name if schema else ""), count, rate))
        return topics

    def messages(self, topic: str) -> Iterator[Raw]:
        """The messages of a topic; `SourceError` where the file is damaged, after all that comes before the damage."""
        indexed = self._summary() is not None
        self._stream.seek(0)
        count = 0
        try:
            reader = (SeekingReader if indexed else NonSeekingReader)(self._stream, validate_crcs=True)
            for _, channel, message in reader.iter_messages(topics=[topic], log_time_order=False):
                yield Raw(message.log_time, message.data, channel.message_encoding == "ros1")
                count += 1
        except Exception as error:  # as above
            raise SourceError(
                f"{self._path} is damaged or was cut short after {count} messages of {topic} ({_said(error)}); they "
                "were read, what follows cannot be: see `mcap recover`"
            ) from error

    def _summary(self) -> Summary | None:
        """The index; None where there is none or it cannot be read."""
        self._stream.seek(0)
        try:
            summary = SeekingReader(self._stream).get_summary()
        except Exception:  # as above
            return None
        return summary if summary is not None and summary.channels else None

    def _scan(self) -> list[Topic]:
        self._stream.seek(0)
        schemas: dict[int, str] = {}
        topics: dict[str, Topic] = {}
        try:
            for record in StreamReader(self._stream).records:
                if isinstance(record, Schema):
                    schemas[record.id] = _ros2_name(record.name)
                elif isinstance(record, Channel):
                    topics[record.topic] = Topic(record.topic, schemas.get(record.schema_id, ""), 0)
        except Exception as error:  # as above
            if not topics:
                raise SourceError(
                    f"{self._path} is no MCAP file or nothing of it can be read: {_said(error)}"
                ) from error
        return list(topics.values())


def _ros2_name(name: str) -> str:
    """A type's name in ROS 2 form, as ROS 1 writes it without `msg`."""
    package, _, rest = name.partition("/")
    return name if not rest or "/" in rest else f"{package}/msg/{rest}"


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
