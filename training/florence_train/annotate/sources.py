"""Images to label: the recordings that `florence-edge watch` takes, and WebDataset shards, their labels unread."""

from __future__ import annotations

import glob
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from florence_edge.errors import FlorenceError, InputError
from florence_edge.files import state_of, writing
from florence_edge.geometry import UInt8Array
from florence_edge.images import IMAGE_SUFFIXES
from florence_edge.stream import Frame, Source, SourceError, open_source
from florence_edge.stream.pictures import NO_IMAGE, Pictures, expand
from florence_edge.stream.uris import parse, tag_of
from florence_train.data.record import FilePicture, PackedPicture

IMAGES = "images"
"""The folder of pictures that are no files of their own."""


class Shards:
    """A recorded source of the images in uncompressed tar files, shard by shard."""

    live = False
    rate_hz = None

    def __init__(self, pattern: str) -> None:
        self._files = [Path(name) for name in sorted(glob.glob(pattern))]
        if not self._files:
            raise InputError(f"no shard matches {pattern}")
        self.tag = tag_of(parse(f"images://{pattern}", "source"), "shards")

    @property
    def identity(self) -> str:
        """A digest over the shards' paths, sizes and times of change."""
        return state_of(self._files)

    def pictures(self) -> Iterator[tuple[str, PackedPicture]]:
        """Every image with its name; `SourceError` for a shard that cannot be read."""
        for file in self._files:
            try:
                with tarfile.open(file, "r:") as archive:
                    for member in archive:
                        if member.isfile() and Path(member.name).suffix.lower() in IMAGE_SUFFIXES:
                            yield (
                                f"{file}/{member.name}",
                                PackedPicture(file.resolve(), member.offset_data, member.size),
                            )
            except (tarfile.TarError, OSError) as error:
                raise SourceError(f"{file} cannot be read as an uncompressed tar file: {error}") from error

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """As in `Source`."""
        for index, (name, picture) in enumerate(self.pictures()):
            if index < start:
                continue
            try:
                yield Frame(np.array(picture.load()), 0, index, self.tag, name=name)
            except FlorenceError as error:
                yield Frame(NO_IMAGE, 0, index, self.tag, name=name, error=error)


def open_images(text: str) -> Source:
    """The recorded source that a text means: `*.tar`, or anything `florence-edge watch` takes but cameras."""
    if text.endswith(".tar"):
        return Shards(text)
    source = open_source(text)
    if source.live:
        raise InputError(f"{text} is a camera; record it first (florence-edge watch), so that labels can be repeated")
    return source


@dataclass(frozen=True)
class Numbered:
    """An image that can be read without those before it: as the frame that the source would give."""

    index: int
    name: str
    time_ns: int
    picture: FilePicture | PackedPicture

    def image(self) -> UInt8Array:
        """The pixels where no file of its own holds them, else none."""
        return NO_IMAGE if isinstance(self.picture, FilePicture) else np.array(self.picture.load())


def by_number(text: str) -> list[Numbered]:
    """The images of a source any of which can be read alone, in order; `InputError` for another source."""
    if text.endswith(".tar"):
        return [Numbered(index, name, 0, picture) for index, (name, picture) in enumerate(Shards(text).pictures())]
    uri = parse(text, "source")
    if uri.scheme != "images":
        raise InputError(f"{text}: frames of {uri.scheme}:// are read in order; over several machines give image files")
    return [
        Numbered(index, str(path), path.stat().st_mtime_ns, FilePicture(path.absolute()))
        for index, path in enumerate(expand([uri.target]))
    ]


def image_file(source: Source, frame: Frame, folder: Path) -> str:
    """How training data in `folder` names the image of a frame; one that is no file of its own is written there."""
    if isinstance(source, Pictures):
        path = Path(frame.name).resolve()
        return str(path.relative_to(folder.resolve()) if path.is_relative_to(folder.resolve()) else path)
    name = f"{IMAGES}/{frame.tag}-{frame.index:08d}.png"
    path = folder / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as stream:
            Image.fromarray(frame.image).save(stream, "PNG")
    return name
