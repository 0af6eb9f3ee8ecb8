"""Text: a font that has the characters, line breaks, and shortening.

Labels are set in the scalable font that ships with Pillow (Aileron), so a picture looks the same on every machine. That
font knows ASCII and little else; a text it cannot show is set in the first installed font of `_INSTALLED` that covers
most of it. What that does not cover either loses its accents where this helps, and otherwise shows as an empty box.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont

_BUILT_IN = ""
_INSTALLED = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "DroidSansFallbackFull.ttf",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "arial.ttf",
    "msyh.ttc",
)
"""File names that Pillow looks up in the folders of the operating system."""

_NEVER_ASSIGNED = "\uffff"


def fit(text: str, size: int) -> tuple[Font, str]:
    """The font in which most of the text can be shown, and the text as it should be written in it."""
    tidy = unicodedata.normalize("NFC", text)
    best, fewest = _BUILT_IN, len(tidy) + 1
    for name in (_BUILT_IN, *_INSTALLED):
        absent = sum(not _covers(name, character) for character in tidy)
        if absent < fewest:
            best, fewest = name, absent
        if fewest == 0:
            break
    font = _load(best, size)
    assert font is not None  # the built-in font always loads, and no other covers a character it does not have
    return font, "".join(_shown(best, character) for character in tidy)


def line_height(font: Font) -> int:
    """Pixels from one baseline to the next."""
    ascent, descent = font.getmetrics()
    return ascent + descent


def wrap(text: str, font: Font, width: float, *, max_lines: int | None = None, end: str = "") -> list[str]:
    """Breaks text into lines of at most `width` pixels, between words where that is possible.

    Line breaks in the text stay. `end` is a last word that is always whole; where the text needs more than `max_lines`,
    it is cut with an ellipsis before that.
    """
    lines = _lines(f"{text} {end}", font, width)
    if max_lines is None or len(lines) <= max_lines:
        return lines
    kept = _lines(text, font, width)
    rest = " ".join(kept[max_lines - 1 :])
    tail = f" {end}" if end else ""
    return [*kept[: max_lines - 1], (shorten(rest, font, width - font.getlength(tail)) + tail).strip()]


def _lines(text: str, font: Font, width: float) -> list[str]:
    """All the lines."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            candidate = f"{line} {word}" if line else word
            if font.getlength(candidate) <= width:
                line = candidate
                continue
            if line:
                lines.append(line)
            *whole, line = _pieces(word, font, width)
            lines += whole
        lines.append(line)
    return lines


def shorten(text: str, font: Font, width: float) -> str:
    """The longest beginning of the text that fits `width` pixels with an ellipsis; the text itself if it fits."""
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle].rstrip() + "…") <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…" if low else ""


def _pieces(word: str, font: Font, width: float) -> list[str]:
    """A word cut into parts that fit; one character at least in each."""
    parts = [""]
    for character in word:
        if parts[-1] and font.getlength(parts[-1] + character) > width:
            parts.append("")
        parts[-1] += character
    return parts


@lru_cache(maxsize=64)
def _load(name: str, size: int) -> Font | None:
    """A font by file name, or the built-in one; None where it is not installed."""
    if name == _BUILT_IN:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)  # with a size Pillow gives this or raises
        return font
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _covers(name: str, character: str) -> bool:
    """Whether a font can show a character: its picture differs from the one for missing characters."""
    if character.isspace() or character == "…":
        return True
    font = _load(name, 16)
    return font is not None and _picture(font, character) != _picture(font, _NEVER_ASSIGNED)


def _picture(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    """A character as the font draws it."""
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def _shown(name: str, character: str) -> str:
    """A character as the font can show it: itself, or its base letter where only the accent is missing."""
    if _covers(name, character):
        return " " if character.isspace() and character != "\n" else character
    bare = "".join(part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part))
    return bare if bare and all(_covers(name, part) for part in bare) else character
