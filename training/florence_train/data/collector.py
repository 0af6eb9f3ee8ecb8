"""Gathers examples by image while a file of annotations is read, and notes every fault instead of stopping at one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from florence_edge.errors import FlorenceError, InputError
from florence_edge.geometry import ImageSize
from florence_edge.results import Detections
from florence_train.examples import Example

from .record import Check, Dataset, Fault, FilePicture, Picture, Record, upright_size
from .turns import check_example


@dataclass
class _Seen:
    """An image that can be used, and what was gathered about it."""

    picture: Picture
    size: ImageSize
    examples: list[Example] = field(default_factory=list)
    crowds: Detections | None = None


class Collector:
    """What is known so far of one file; images are looked for in `images`, by default beside the file."""

    def __init__(self, file: Path, *, images: Path | None = None, check: Check = "decode") -> None:
        self.file, self.images, self.check = file, images or file.parent, check
        self._seen: dict[str, _Seen | None] = {}
        self._faults: list[Fault] = []

    def fault(self, place: str, message: str) -> None:
        """Notes something that cannot be used."""
        self._faults.append(Fault(str(self.file), place, message))

    def faults(self, place: str, messages: Iterable[str]) -> bool:
        """Notes several faults of one place; True if there was any."""
        before = len(self._faults)
        for message in messages:
            self.fault(place, message)
        return len(self._faults) > before

    def image(self, place: str, name: str) -> ImageSize | None:
        """The size of an image file, or None where it cannot be used; that is told at every place that names it."""
        path = self.images / name
        try:
            known = self._seen.get(name)
            if known is None:
                size = upright_size(path, self.check)
                self._seen[name] = known = _Seen(FilePicture(path), size)
            return known.size
        except FlorenceError as error:
            self._seen[name] = None
            self.fault(place, str(error))
            return None

    def pack(self, place: str, name: str, picture: Picture, data: bytes) -> ImageSize | None:
        """The same for an image inside an archive, whose bytes are `data`."""
        try:
            size = upright_size(data, self.check)
        except FlorenceError as error:
            self.fault(place, str(error))
            return None
        self._seen[name] = _Seen(picture, size)
        return size

    def add(self, place: str, name: str, example: Example) -> None:
        """Adds an example about an image that `image` gave a size for, or notes why it cannot be used."""
        known = self._seen.get(name)
        if known is None:
            return
        try:
            check_example(example, known.size)
        except InputError as error:
            self.fault(place, str(error))
        else:
            known.examples.append(example)

    def crowd(self, name: str, crowds: Detections) -> None:
        """Sets the groups of an image that count neither as found nor as missed."""
        known = self._seen.get(name)
        if known is not None:
            known.crowds = crowds

    def dataset(self) -> Dataset:
        """Everything gathered, images without an example left out."""
        records = tuple(
            Record(name, known.picture, known.size, tuple(known.examples), known.crowds)
            for name, known in self._seen.items()
            if known is not None and known.examples
        )
        return Dataset(records, tuple(self._faults))


def allowed_tasks(path: Path, tasks: Sequence[str], allowed: Sequence[str]) -> Sequence[str]:
    """The tasks to ask of a file, which may be some of those `allowed`; `InputError` names the others."""
    unknown = [task for task in tasks if task not in allowed]
    if unknown:
        raise InputError(f"{path} cannot ask {', '.join(unknown)}; it can ask {', '.join(allowed)}")
    return tasks


def read_json(file: Path) -> Any:
    """The value in a JSON file; `InputError` with the place when it is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{file}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from error
