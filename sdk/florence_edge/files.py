"""Files: written so that nobody, and no power cut, ever sees a half of one, and told apart without reading them."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file in one step when the block ends, its bytes on the disk first.

    A block that raises, or a full disk, leaves what was there before.
    """
    scratch = path.with_name(f".{path.name}.part")
    try:
        with scratch.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise


def write(path: Path, data: bytes) -> None:
    """Writes a file as `writing` does."""
    with writing(path) as stream:
        stream.write(data)


def cache_folder(name: str) -> Path:
    """A folder of what only saves time and may be deleted: in `FLORENCE_CACHE`, else in `~/.cache/florence-edge`."""
    return Path(os.environ.get("FLORENCE_CACHE") or Path.home() / ".cache" / "florence-edge") / name


def state_of(files: Iterable[Path]) -> str:
    """A digest over the files' paths, sizes and times of change, in hex; those that are gone count for nothing."""
    digest = hashlib.sha256()
    for path in files:
        with contextlib.suppress(OSError):
            state = path.stat()
            digest.update(f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()
