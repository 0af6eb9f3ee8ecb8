"""A dark band below a picture, for what does not fit on it: a text, or a numbered list of lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from . import fonts
from .canvas import write
from .palette import INK, PAPER, colour

NARROWEST = 320
"""Text is never set narrower than this; a narrower picture gets a margin."""

_SMALLEST = 13
_COLUMN_GAP = 1.6
"""Between columns, in letter sizes."""


def with_text(picture: Image.Image, heading: str, text: str) -> Image.Image:
    """A new picture with the text below, broken into lines."""
    size = _letter(picture)
    font, text = fonts.fit(text, size)
    return _with_columns(picture, heading, font, [fonts.wrap(text, font, _room(picture, size))])


def with_list(picture: Image.Image, heading: str, entries: Sequence[str], ends: Sequence[str]) -> Image.Image:
    """A new picture with numbered entries below, in as many columns as fit.

    Every entry has one line, and is cut where that is too short for it; its end (a score, or nothing) never is.
    """
    size = max(_SMALLEST, round(_letter(picture) * 0.75))
    room = _room(picture, size)
    font, text = fonts.fit("\n".join(" ".join(entry.split()) for entry in entries), size)
    lines = [
        fonts.wrap(f"{number}. {entry}", font, room, max_lines=1, end=end)[0]
        for number, (entry, end) in enumerate(zip(text.split("\n"), ends, strict=True), 1)
    ]
    gap = _COLUMN_GAP * size
    widest = max(font.getlength(line) for line in lines)
    rows = math.ceil(len(lines) / max(1, int((room + gap) // (widest + gap))))
    return _with_columns(picture, heading, font, [lines[start : start + rows] for start in range(0, len(lines), rows)])


def _with_columns(
    picture: Image.Image, heading: str, font: fonts.Font, columns: Sequence[Sequence[str]]
) -> Image.Image:
    """The picture, a heading in small letters, and columns of lines."""
    size = round(font.size)
    margin, room = _margin(size), _room(picture, size)
    small, heading = fonts.fit(heading, max(10, round(size * 0.72)))
    headings = fonts.wrap(heading, small, room)
    top = picture.height + round(margin * 0.7)
    middle = top + len(headings) * fonts.line_height(small) + round(size * 0.35)
    bottom = middle + max(len(lines) for lines in columns) * fonts.line_height(font) + round(margin * 0.8)
    sheet = Image.new("RGB", (room + 2 * margin, bottom), INK)
    sheet.paste(picture, ((sheet.width - picture.width) // 2, 0))
    write(sheet, (margin, top), headings, small, colour(0))
    left = margin
    for lines in columns:
        write(sheet, (left, middle), lines, font, PAPER)
        left += math.ceil(max((font.getlength(line) for line in lines), default=0) + _COLUMN_GAP * size)
    return sheet


def _letter(picture: Image.Image) -> int:
    """The size of the letters in pixels."""
    width = max(picture.width, NARROWEST)
    return max(_SMALLEST, round(min(0.03 * (width + picture.height) / 2, 0.045 * width)))


def _margin(size: int) -> int:
    """Pixels left and right of the text."""
    return round(size * 0.9)


def _room(picture: Image.Image, size: int) -> int:
    """Pixels across which text may run."""
    return max(picture.width, NARROWEST) - 2 * _margin(size)
