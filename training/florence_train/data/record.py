"""What annotations are read into: an image with all its questions and answers, and the faults found on the way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Literal, Protocol

from PIL import Image

from florence_edge.errors import ImageError
from florence_edge.geometry import ImageSize
from florence_edge.images import is_sideways, load_image
from florence_edge.results import Detections
from florence_train.examples import Example

Check = Literal["header", "decode"]
"""How far an image is looked at when data is read: "header" finds missing files, "decode" also damaged ones.

PNG files are decoded either way: what turns them upright may stand behind their pixels.
"""


class Picture(Protocol):
    """An image that is read when it is needed."""

    def load(self) -> Image.Image:
        """The upright RGB image; `ImageError` when it cannot be read."""
        ...


@dataclass(frozen=True)
class FilePicture:
    """An image file."""

    path: Path

    def load(self) -> Image.Image:
        """The image; see `Picture`."""
        return load_image(self.path)


@dataclass(frozen=True)
class PackedPicture:
    """An image file inside an uncompressed archive: `length` bytes from `offset` on."""

    archive: Path
    offset: int
    length: int

    def load(self) -> Image.Image:
        """The image; see `Picture`."""
        return load_image(self.read())

    def read(self) -> bytes:
        """The bytes of the file."""
        try:
            with self.archive.open("rb") as stream:
                stream.seek(self.offset)
                return stream.read(self.length)
        except OSError as error:
            raise ImageError(f"{self.archive} cannot be read: {error}") from error


@dataclass(frozen=True, eq=False)
class Record:
    """An image and what is asked about it.

    `name` says which image it is, in reports and messages. `size` is that of the upright image. Examples that share
    task and input are several right answers to one question. `crowds` are boxes of groups that count neither as found
    nor as missed (COCO's `iscrowd`).
    """

    name: str
    picture: Picture
    size: ImageSize
    examples: tuple[Example, ...]
    crowds: Detections | None = None


@dataclass(frozen=True)
class Fault:
    """Something that cannot be used: in which file, where in it ("line 3", "annotations[17]"), and why."""

    file: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.place}: {self.message}" if self.place else f"{self.file}: {self.message}"


@dataclass(frozen=True, eq=False)
class Dataset:
    """The records that can be used, in the order of their file, and every fault found."""

    records: tuple[Record, ...]
    faults: tuple[Fault, ...] = ()

    def __len__(self) -> int:
        return len(self.records)


def upright_size(source: Path | bytes, check: Check) -> ImageSize:
    """Size of an image as `load_image` returns it, from its header alone with "header"; `ImageError` as there."""
    if check == "decode":
        return ImageSize(*load_image(source).size)
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            return ImageSize(*(image.size[::-1] if is_sideways(image) else image.size))
    except FileNotFoundError:
        raise ImageError(f"there is no image {str(source)!r}") from None
    except Exception as error:  # a damaged header makes Pillow's readers raise anything
        raise ImageError(f"this is no image that Pillow can read: {error}") from error


def tasks_of(records: Sequence[Record]) -> dict[str, int]:
    """Number of examples per upstream task token, in order of appearance."""
    counts: dict[str, int] = {}
    for record in records:
        for example in record.examples:
            counts[example.task] = counts.get(example.task, 0) + 1
    return counts


def asking(records: Iterable[Record], tasks: Collection[str]) -> Iterator[Record]:
    """The records with the examples of some tasks, all of them where none is named; those left without any go."""
    for record in records:
        kept = tuple(example for example in record.examples if not tasks or example.task in tasks)
        if kept:
            yield replace(record, examples=kept)
