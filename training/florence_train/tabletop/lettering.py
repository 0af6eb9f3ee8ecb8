"""Printed text: the fonts, and a face of a box with text on it, as a picture and as geometry.

The fonts are those that Matplotlib ships, so that a scene looks the same on every machine that has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from florence_edge.errors import missing

FONTS: tuple[str, ...] = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "STIXGeneral",
    "STIXGeneralBol",
    "cmss10",
    "cmtt10",
)
"""Font files, without their ending."""

UInt8Array = npt.NDArray[np.uint8]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Print:
    """Text printed on a face. `fill` is the share of the face's width or height it spans, `turn` its rotation in
    radians (clockwise on the face); `ink` and `paper` are sRGB in 0..1, `paper` None when the text sits on the face
    itself.
    """

    text: str
    font: str
    fill: float
    turn: float
    ink: tuple[float, float, float]
    paper: tuple[float, float, float] | None


@lru_cache(maxsize=1)
def font_folder() -> Path:
    """Where the font files are. Raises `DependencyError` without Matplotlib."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise missing("matplotlib", extra="train", needed_for="the fonts of printed labels")
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_folder() / f"{name}.ttf"), size)


@lru_cache(maxsize=4096)
def aspect(text: str, font: str) -> float:
    """Width of a text divided by its height, both of the ink."""
    left, top, right, bottom = _font(font, 48).getbbox(text)
    return float((right - left) / max(1.0, bottom - top))


@lru_cache(maxsize=4096)
def places(text: str, font: str) -> tuple[float, ...]:
    """Where the centre of each character lies along the width of the ink, 0 to 1."""
    face = _font(font, 48)
    left, _, right, _ = face.getbbox(text)
    starts = [face.getlength(text[:end]) for end in range(len(text) + 1)]
    centres = (sum(pair) / 2 for pair in pairwise(starts))
    return tuple(float((centre - left) / max(1.0, right - left)) for centre in centres)


def _extent(text: Print, width: float, height: float) -> tuple[float, float]:
    """Width and height of the unturned ink, so that the turned text spans at most `fill` of the face."""
    ratio = aspect(text.text, text.font)
    cos, sin = abs(np.cos(text.turn)), abs(np.sin(text.turn))
    tall = min(text.fill * width / (ratio * cos + sin), text.fill * height / (ratio * sin + cos))
    return ratio * tall, tall


def ink_quad(text: Print, width: float, height: float) -> Float64Array:
    """Corners [4, 2] of the ink on a face `width` x `height` (x right, y down), clockwise from the text's top left."""
    wide, tall = _extent(text, width, height)
    corners = np.array([[-wide, -tall], [wide, -tall], [wide, tall], [-wide, tall]]) / 2
    cos, sin = np.cos(text.turn), np.sin(text.turn)
    return np.asarray(corners @ np.array([[cos, sin], [-sin, cos]]) + [width / 2, height / 2], np.float64)


def paint(text: Print, width: float, height: float, resolution: float) -> UInt8Array:
    """The face as [H, W, 2] uint8: cover by paper and by ink, at `resolution` pixels per unit."""
    size = (max(2, round(width * resolution)), max(2, round(height * resolution)))
    wide, tall = _extent(text, width, height)
    # Drawn twice as large, then turned and shrunk in one go: cheap antialiasing at any angle.
    font = _font(text.font, max(8, int(np.ceil(tall * resolution * 2))))
    left, top, right, bottom = font.getbbox(text.text)
    ink = Image.new("L", (int(right - left), int(bottom - top)), 0)
    ImageDraw.Draw(ink).text((-left, -top), text.text, fill=255, font=font)
    cos, sin = np.cos(text.turn), np.sin(text.turn)
    scale = (ink.width / (wide * resolution), ink.height / (tall * resolution))
    cx, cy = size[0] / 2, size[1] / 2
    inverse = (
        *(cos * scale[0], sin * scale[0], ink.width / 2 - (cos * cx + sin * cy) * scale[0]),
        *(-sin * scale[1], cos * scale[1], ink.height / 2 - (-sin * cx + cos * cy) * scale[1]),
    )
    face = np.zeros((size[1], size[0], 2), np.uint8)
    face[..., 1] = np.asarray(ink.transform(size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR))
    if text.paper is not None:
        margin = max(1, round(min(size) * 0.06))
        face[margin:-margin, margin:-margin, 0] = 255
    return face
