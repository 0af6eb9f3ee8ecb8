"""Image files as a recording: one file, a folder, a pattern, or a list of files."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from florence_edge.errors import FlorenceError, ImageError, InputError, listing
from florence_edge.files import state_of
from florence_edge.images import IMAGE_SUFFIXES, load_image

from .protocols import Frame
from .uris import IMAGE_LIST, Uri, tag_of

NO_IMAGE = np.zeros((0, 0, 3), np.uint8)
"""The picture of a frame that could not be read."""


def open_source(uri: Uri) -> Pictures:
    """The images that a URI means; raises `InputError` when there are none."""
    uri.only()
    return Pictures(expand([uri.target]), tag_of(uri, Path(uri.target).stem if "*" not in uri.target else "images"))


def expand(names: Iterable[str]) -> list[Path]:
    """The files in the order given, each once; a folder stands for its images by name, a pattern for what it matches.

    Patterns are those of the shell, with `**` for any depth. A list (`.txt`) stands for what its lines name. Raises
    `InputError` that lists every name without a file.
    """
    faults: list[str] = []
    found = {path: None for name in names for path in _files(name, faults)}
    if faults:
        raise InputError(listing("nothing to work on:" if not found else "some images were not found:", faults))
    return list(found)


class Pictures:
    """A `Source` of image files; the time of a frame is when its file was last changed."""

    live = False
    rate_hz = None

    def __init__(self, files: Sequence[Path], tag: str) -> None:
        self._files, self.tag = tuple(files), tag

    @property
    def identity(self) -> str:
        """A digest over the files' paths, sizes and times of change."""
        return state_of(self._files)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """As in `Source`."""
        for index in range(start, len(self._files)):
            yield self._frame(index)

    def _frame(self, index: int) -> Frame:
        path = self._files[index]
        error: FlorenceError | None = None
        image, time_ns = NO_IMAGE, 0
        try:
            time_ns = path.stat().st_mtime_ns
            image = np.array(load_image(path))
        except OSError as fault:
            error = ImageError(f"{path} cannot be read: {fault}")
        except FlorenceError as fault:
            error = fault
        return Frame(image, time_ns, index, self.tag, name=str(path), error=error)


def _files(name: str, faults: list[str]) -> Iterator[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        images = sorted(child for child in path.iterdir() if child.suffix.lower() in IMAGE_SUFFIXES and child.is_file())
        if not images:
            known = ", ".join(sorted(IMAGE_SUFFIXES))
            faults.append(f"{name} is a folder without images ({known}); for its subfolders: {name}/**")
        yield from images
    elif path.suffix.lower() == IMAGE_LIST and path.is_file():
        yield from _listed(path, faults)
    elif path.exists():
        yield path
    elif glob.has_magic(name):
        matches = (Path(match) for match in sorted(glob.glob(str(path), recursive=True)))
        images = [match for match in matches if match.is_file() and match.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            faults.append(f"{name} matches no image")
        yield from images
    else:
        faults.append(f"{name} does not exist")


def _listed(path: Path, faults: list[str]) -> Iterator[Path]:
    """The files that a list names."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{path} cannot be read as a list of images: {error}")
        return
    named = [path.parent / line for line in lines if line and not line.startswith("#")]
    if not named:
        faults.append(f"{path} lists no image")
    for image in named:
        if image.is_file():
            yield image
        else:
            faults.append(f"{image} (in {path}) does not exist")
