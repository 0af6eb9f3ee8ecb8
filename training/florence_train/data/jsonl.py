"""JSONL: one turn a line, `{"image": ..., "prefix": ..., "suffix": ...}`; other keys are left alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from florence_edge.errors import InputError

from .collector import Collector
from .record import Check, Dataset, FilePicture, Record
from .turns import read_turn, write_turn

KEYS = ("image", "prefix", "suffix")


def read_jsonl(file: str | Path, *, images: Path | None = None, check: Check = "decode") -> Dataset:
    """Reads the turns of a file; image paths are relative to `images`, by default the file's folder."""
    path = Path(file)
    collector = Collector(path, images=images, check=check)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            _read_line(collector, f"line {number}", line)
    return collector.dataset()


def write_jsonl(records: Iterable[Record], file: str | Path) -> int:
    """Writes the turns of records whose pictures are files; returns their number.

    Image paths are written relative to the file's folder where they lie below it.
    """
    path = Path(file)
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for record in records:
            for turn in turns(record, _name(record, path.parent)):
                stream.write(json.dumps(turn, ensure_ascii=False) + "\n")
                count += 1
    return count


def turns(record: Record, image: str) -> Iterator[dict[str, str]]:
    """The turns of a record as the values of one line each, the image by the name given."""
    for example in record.examples:
        prefix, suffix = write_turn(example, record.size)
        yield dict(zip(KEYS, (image, prefix, suffix), strict=True))


def fields_of(value: Any, keys: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The strings under some keys of a JSON value, and what is wrong with it."""
    if not isinstance(value, dict):
        return {}, [f"expected an object with {', '.join(keys)}; got {value!r:.80}"]
    faults = [
        f"the key {key!r} is missing" if key not in value else f"{key!r} must be a string; got {value[key]!r:.80}"
        for key in keys
        if not isinstance(value.get(key), str)
    ]
    return {key: value[key] for key in keys if isinstance(value.get(key), str)}, faults


def _read_line(collector: Collector, place: str, line: bytes) -> None:
    try:
        value = json.loads(line)
    except ValueError as error:
        collector.fault(place, f"not valid JSON: {error}")
        return
    turn, faults = fields_of(value, KEYS)
    if collector.faults(place, faults):
        return
    size = collector.image(place, turn["image"])
    if size is None:
        return
    try:
        example = read_turn(turn["prefix"], turn["suffix"], size)
    except InputError as error:
        collector.fault(place, str(error))
        return
    collector.add(place, turn["image"], example)


def _name(record: Record, folder: Path) -> str:
    if not isinstance(record.picture, FilePicture):
        raise InputError(f"{record.name} is no image file; write such records as shards")
    path = record.picture.path
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path.resolve())
