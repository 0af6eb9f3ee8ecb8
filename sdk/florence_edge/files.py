"""Writing files so that nobody, and no power cut, ever sees a half of one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
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
