"""The images of a run: files that were given, or a drawn scene."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from florence_edge.drawing.scene import scene
from florence_edge.errors import ImageError
from florence_edge.images import load_image

DRAWN = "drawn scene"
"""Name of the picture that is used when none is given: 640 x 480 pixels, a JPEG of quality 90."""


@dataclass(frozen=True)
class Picture:
    """An image that was asked about; results of other images are not compared."""

    name: str
    sha256: str
    bytes: int
    width: int
    height: int


def read_pictures(paths: Sequence[Path]) -> tuple[list[bytes], list[Picture]]:
    """The bytes of every image and what is noted about it; `ImageError` for one that cannot be used."""
    named: list[tuple[str, bytes]] = []
    for path in paths:
        try:
            named.append((path.name, path.read_bytes()))
        except OSError as error:
            raise ImageError(f"{str(path)!r} cannot be read: {error.strerror}; give image files that exist") from error
    if not paths:
        drawn = BytesIO()
        scene().save(drawn, format="JPEG", quality=90)
        named.append((DRAWN, drawn.getvalue()))
    return [data for _, data in named], [_picture(name, data) for name, data in named]


def _picture(name: str, data: bytes) -> Picture:
    width, height = load_image(data).size
    return Picture(name, hashlib.sha256(data).hexdigest(), len(data), width, height)
