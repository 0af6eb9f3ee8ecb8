"""WebDataset shards: tar files whose members share a key, `KEY.jpg` beside `KEY.json` with the turns about it.

The JSON is a list of `{"prefix": ..., "suffix": ...}` or one such object. Shards are indexed once, by the headers of
their members, and images are read by offset: unlike a stream this gives any image in any order, so a run that goes on
sees what an unbroken one would have seen. That needs plain tar files on a disk that can seek; compressed ones are
refused.
"""

from __future__ import annotations

import glob
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from florence_edge.errors import InputError
from florence_edge.images import IMAGE_SUFFIXES

from .collector import Collector
from .jsonl import KEYS, fields_of, turns
from .record import Check, Dataset, FilePicture, PackedPicture, Record
from .turns import read_turn


def read_shards(pattern: str | Path, *, check: Check = "decode") -> Dataset:
    """Reads the shards that a path or a pattern (`shards/*.tar`) names, in the order of their names."""
    files = [Path(name) for name in sorted(glob.glob(str(pattern)))]
    if not files:
        raise InputError(f"no shard matches {pattern}")
    parts = [_read_shard(file, check) for file in files]
    return Dataset(
        tuple(record for part in parts for record in part.records),
        tuple(fault for part in parts for fault in part.faults),
    )


def write_shards(records: Iterable[Record], folder: str | Path, *, per_shard: int = 1000) -> list[Path]:
    """Writes records as shards `000000.tar`, `000001.tar`, ... of `per_shard` images each; returns their paths.

    Image files go in as they are; pictures that are no files go in as PNG.
    """
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for number, part in enumerate(_parts(records, per_shard)):
        path = out / f"{number:06d}.tar"
        with tarfile.open(path, "w") as archive:
            for place, record in enumerate(part):
                key = f"{number * per_shard + place:09d}"
                suffix, data = _encoded(record)
                rows = [{name: turn[name] for name in KEYS[1:]} for turn in turns(record, "")]
                _put(archive, f"{key}{suffix}", data)
                _put(archive, f"{key}.json", json.dumps(rows, ensure_ascii=False).encode())
        written.append(path)
    return written


def _read_shard(file: Path, check: Check) -> Dataset:
    collector = Collector(file, check=check)
    pictures: dict[str, PackedPicture] = {}
    texts: dict[str, bytes] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                key, suffix = _key(member.name)
                if member.isfile() and suffix in IMAGE_SUFFIXES:
                    pictures[key] = PackedPicture(file, member.offset_data, member.size)
                elif member.isfile() and suffix == ".json":
                    stream = archive.extractfile(member)
                    texts[key] = stream.read() if stream else b""
    except (tarfile.TarError, OSError) as error:
        collector.fault("", f"cannot be read as an uncompressed tar file: {error}")
    for key in sorted(pictures.keys() ^ texts.keys()):
        collector.fault(key, "has no image" if key in texts else "has no .json with its turns")
    for key, picture in pictures.items():
        if key in texts:
            _read_sample(collector, key, picture, texts[key])
    return collector.dataset()


def _read_sample(collector: Collector, key: str, picture: PackedPicture, text: bytes) -> None:
    try:
        value = json.loads(text)
    except ValueError as error:
        collector.fault(f"{key}.json", f"not valid JSON: {error}")
        return
    size = collector.pack(key, key, picture, picture.read())
    if size is None:
        return
    for number, row in enumerate(value if isinstance(value, list) else [value]):
        place = f"{key}.json, turn {number}"
        turn, faults = fields_of(row, KEYS[1:])
        if collector.faults(place, faults):
            continue
        try:
            collector.add(place, key, read_turn(turn["prefix"], turn["suffix"], size))
        except InputError as error:
            collector.fault(place, str(error))


def _key(name: str) -> tuple[str, str]:
    """Key and suffix of a member: all before, and from, the first point of its file name, as WebDataset splits it."""
    folder, slash, base = name.rpartition("/")
    stem, point, suffix = base.partition(".")
    return folder + slash + stem, (point + suffix).lower()


def _encoded(record: Record) -> tuple[str, bytes]:
    """Suffix and bytes of a picture's file."""
    if isinstance(record.picture, FilePicture):
        return record.picture.path.suffix.lower(), record.picture.path.read_bytes()
    stream = io.BytesIO()
    record.picture.load().save(stream, "PNG")
    return ".png", stream.getvalue()


def _put(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _parts(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    part: list[Record] = []
    for record in records:
        part.append(record)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
