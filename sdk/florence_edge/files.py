"""Writing files so that nobody, and no power cut, ever sees a half of one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Writes a file in one step, its bytes on the disk first; a failure (a full disk) leaves what was there before."""
    scratch = path.with_name(f".{path.name}.part")
    try:
        with scratch.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise
