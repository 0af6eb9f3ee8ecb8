"""A folder of answers: a JSON document and an annotated picture per frame."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from io import BytesIO
from pathlib import Path

from florence_edge.errors import InputError
from florence_edge.files import write

from .drawing import drawn
from .events import Event, document
from .jsonl import other_run
from .protocols import Frame, Run, SinkError
from .uris import Uri

_SWITCH = {"yes": True, "no": False}
_STEM = re.compile(r"(.+)-(\d{8,})")


def stem(frame: Frame) -> str:
    """What the files about a frame are called, without suffix."""
    return f"{frame.tag}-{frame.index:08d}"


def newest(folder: Path, suffix: str, tags: Container[str]) -> dict[str, tuple[int, Path]]:
    """Per source the last frame that `folder` holds a file of, and that file."""
    found: dict[str, tuple[int, Path]] = {}
    for path in folder.iterdir():
        named = _STEM.fullmatch(path.stem)
        if named and path.suffix == suffix and named[1] in tags:
            found[named[1]] = max(found.get(named[1], (-1, path)), (int(named[2]), path))
    return found


def open_sink(uri: Uri) -> Folder:
    """The folder to write into; `?pictures=no` leaves out the pictures."""
    wanted = uri.only("pictures").get("pictures", "yes")
    if wanted not in _SWITCH:
        raise InputError(f"{uri.text}: pictures is {wanted!r}; it must be yes or no")
    return Folder(Path(uri.target).expanduser(), pictures=_SWITCH[wanted])


class Folder:
    """A `Sink` of files named by source and frame.

    A document is written after its picture and each in one step, so where there is a document everything before it is
    complete.
    """

    def __init__(self, folder: Path, *, pictures: bool = True) -> None:
        self._folder, self._pictures = folder, pictures

    def open(self, run: Run) -> Mapping[str, int]:
        """As in `Sink`."""
        self._run = run
        self._folder.mkdir(parents=True, exist_ok=True)
        held = newest(self._folder, ".json", run.sources)
        if held and not run.resume:
            raise SinkError(f"{self._folder} already holds answers; go on with --resume, or write elsewhere")
        for _, path in held.values():
            self._check(path)
        return {tag: index + 1 for tag, (index, _) in held.items()}

    def write(self, event: Event) -> None:
        """As in `Sink`."""
        path = self._folder / f"{stem(event.frame)}.json"
        values = document(event, self._run)
        try:
            if self._pictures and event.frame.error is None:
                picture = BytesIO()
                drawn(event).save(picture, format="JPEG", quality=92)
                write(path.with_suffix(".jpg"), picture.getvalue())
            write(path, json.dumps(values, ensure_ascii=False, allow_nan=False, indent=1).encode("utf-8"))
        except OSError as error:
            raise SinkError(
                f"{path}: {error.strerror or error}; what was written before is complete; --resume goes on"
            ) from error

    def close(self) -> None:
        """As in `Sink`: every file is complete already."""

    def _check(self, path: Path) -> None:
        """Raises `SinkError` unless a document is of this run."""
        try:
            key = json.loads(path.read_text(encoding="utf-8"))["run"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SinkError(f"{path} is no answer of a stream; write elsewhere") from error
        if key != self._run.key:
            raise SinkError(other_run(self._folder))
