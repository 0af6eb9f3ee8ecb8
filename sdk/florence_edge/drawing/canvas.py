"""Paint: antialiased shapes and text on a picture, with line and letter sizes that follow the picture's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from florence_edge.geometry import Float32Array

from . import fonts
from .layout import Rect
from .palette import INK, Colour, text_colour

_SUPERSAMPLED_PIXELS = 1 << 24
"""A shape is drawn enlarged and averaged down while its enlargement has no more pixels than this."""

_CASING = 0.45
"""Opacity of the dark seam along lines that keeps them visible on any background."""


class Canvas:
    """A copy of an RGB picture to draw on.

    `line` is the width of lines and `letter` the size of letters, both in pixels.
    """

    def __init__(self, image: Image.Image) -> None:
        self.image = image.copy()
        self.size = image.size
        side = sum(image.size) / 2
        self.line = max(1 if side < 160 else 2, round(side * 0.0035))
        self.letter = max(11, round(side * 0.026))

    def box(self, rect: Rect, colour: Colour) -> None:
        """The outline of a box, within it."""
        thickness = max(1, min(self.line, rect.width // 4, rect.height // 4))
        seam = max(1, round(thickness * 0.4))
        for side in _sides(_grown(rect, seam), thickness + 2 * seam):
            self._tint(side, INK, _CASING)
        for side in _sides(rect, thickness):
            self._tint(side, colour, 1.0)

    def area(self, rings: Sequence[Float32Array], colour: Colour, opacity: float) -> None:
        """The union of rings [M, 2], tinted."""

        def shape(brush: ImageDraw.ImageDraw, scale: float, origin: Float32Array) -> None:
            for ring in rings:
                brush.polygon([tuple(point) for point in ((ring - origin) * scale).tolist()], fill=255)

        self._stamp(np.concatenate(rings), 1, colour, opacity, shape)

    def outline(self, ring: Float32Array, colour: Colour) -> None:
        """The closed outline of a ring [M, 2], with its dark seam."""
        seam = max(1, round(self.line * 0.4))
        for width, paint, opacity in ((self.line + 2 * seam, INK, _CASING), (self.line, colour, 1.0)):
            self._stroke(ring, width, paint, opacity)

    def label(self, rect: Rect, lines: Sequence[str], font: fonts.Font, colour: Colour) -> None:
        """A label: lines of text on a rounded background of the class's colour."""
        corners = np.array([rect[:2], rect[2:]], dtype=np.float32)
        radius = min(rect.height / 5, self.letter * 0.3)

        def shape(brush: ImageDraw.ImageDraw, scale: float, origin: Float32Array) -> None:
            (left, top), (right, bottom) = ((corners - origin) * scale).tolist()
            brush.rounded_rectangle((left, top, right - 1, bottom - 1), radius * scale, fill=255)

        self._stamp(corners, 0, colour, 1.0, shape)
        across, down = label_padding(font)
        write(self.image, (rect.left + across, rect.top + down), lines, font, text_colour(colour))

    def _stroke(self, ring: Float32Array, width: int, colour: Colour, opacity: float) -> None:
        """A closed line with round joints."""
        closed = np.concatenate([ring, ring[:2]])

        def shape(brush: ImageDraw.ImageDraw, scale: float, origin: Float32Array) -> None:
            points = [tuple(point) for point in ((closed - origin) * scale).tolist()]
            brush.line(points, fill=255, width=max(1, round(width * scale)), joint="curve")

        self._stamp(ring, width, colour, opacity, shape)

    def _stamp(
        self,
        points: Float32Array,
        margin: int,
        colour: Colour,
        opacity: float,
        shape: Callable[[ImageDraw.ImageDraw, float, Float32Array], None],
    ) -> None:
        """Paints a shape through an antialiased mask over `points` and a margin, as far as that is in the picture."""
        low, high = points.min(axis=0) - margin - 1, points.max(axis=0) + margin + 2
        frame = _clipped(Rect(*(math.floor(value) for value in (*low, *high))), self.size)
        if frame.width <= 0 or frame.height <= 0:
            return
        scale = next((s for s in (4, 2) if frame.width * frame.height * s * s <= _SUPERSAMPLED_PIXELS), 1)
        mask = Image.new("L", (frame.width * scale, frame.height * scale))
        shape(ImageDraw.Draw(mask), scale, np.array(frame[:2], dtype=np.float32))
        mask = mask.reduce(scale)
        if opacity < 1.0:
            mask = mask.point([round(value * opacity) for value in range(256)])
        self.image.paste(colour, frame, mask)

    def _tint(self, rect: Rect, colour: Colour, opacity: float) -> None:
        """Mixes a colour into a rectangle, as far as it is in the picture."""
        inside = _clipped(rect, self.size)
        if inside.width <= 0 or inside.height <= 0:
            return
        mask = Image.new("L", (inside.width, inside.height), round(255 * opacity))
        self.image.paste(colour, inside, mask)


def write(image: Image.Image, corner: tuple[int, int], lines: Sequence[str], font: fonts.Font, colour: Colour) -> None:
    """Writes lines of text below each other; `corner` is the top left of the first."""
    brush = ImageDraw.Draw(image)
    for index, line in enumerate(lines):
        brush.text((corner[0], corner[1] + index * fonts.line_height(font)), line, font=font, fill=colour)


def label_padding(font: fonts.Font) -> tuple[int, int]:
    """Pixels between a label's text and its edge, across and down."""
    return max(2, round(font.size * 0.35)), max(1, round(font.size * 0.12))


def _sides(rect: Rect, thickness: int) -> list[Rect]:
    """The four strips of a rectangle's outline, which share no pixel."""
    left, top, right, bottom = rect
    upper, lower = min(top + thickness, bottom), max(bottom - thickness, top)
    return [
        Rect(left, top, right, upper),
        Rect(left, max(lower, upper), right, bottom),
        Rect(left, upper, min(left + thickness, right), lower),
        Rect(max(right - thickness, left + thickness), upper, right, lower),
    ]


def _grown(rect: Rect, by: int) -> Rect:
    """A rectangle with `by` pixels more on every side."""
    return Rect(rect.left - by, rect.top - by, rect.right + by, rect.bottom + by)


def _clipped(rect: Rect, size: tuple[int, int]) -> Rect:
    """The part of a rectangle that lies in the picture."""
    return Rect(max(rect.left, 0), max(rect.top, 0), min(rect.right, size[0]), min(rect.bottom, size[1]))
