"""Colours: one per class, always the same, chosen to stay apart for colour-blind eyes as well."""

from __future__ import annotations

import colorsys
from itertools import count

Colour = tuple[int, int, int]

INK: Colour = (22, 24, 29)
PAPER: Colour = (240, 242, 245)
_BLACK: Colour = (0, 0, 0)
_WHITE: Colour = (255, 255, 255)

# The set of Okabe and Ito, "Color Universal Design" (2008), without black; neighbours differ in lightness too.
_FIXED: tuple[Colour, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (213, 94, 0),  # vermilion
    (240, 228, 66),  # yellow
    (204, 121, 167),  # reddish purple
    (0, 114, 178),  # blue
)

_GOLDEN_RATIO = 0.6180339887498949
_TONES = ((0.75, 0.95), (0.55, 0.70), (0.40, 1.00))
"""Saturation and value of the colours past the fixed ones, in turn, so that near hues still differ."""


def colour(index: int) -> Colour:
    """The colour of class `index` (0 or more); past the fixed set the hue moves on by the golden ratio for ever."""
    if index < len(_FIXED):
        return _FIXED[index]
    step = index - len(_FIXED)
    saturation, value = _TONES[step % len(_TONES)]
    red, green, blue = colorsys.hsv_to_rgb((0.47 + step * _GOLDEN_RATIO) % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def contrast(first: Colour, second: Colour) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.1, relative luminance)."""
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever reads better: one of the two always has a contrast of 4.58 or more."""
    return max(_BLACK, _WHITE, key=lambda candidate: contrast(candidate, background))


def class_colours(labels: tuple[str, ...], class_ids: list[int]) -> list[Colour]:
    """One colour per item: its class's, or its own where nothing has a label.

    Labels of no known class (id -1) take the colours after the largest id.
    """
    if not any(labels):
        return [colour(index) for index in range(len(labels))]
    strangers = dict.fromkeys(label for label, class_id in zip(labels, class_ids, strict=True) if class_id < 0)
    after = dict(zip(strangers, count(max(class_ids) + 1)))
    return [
        colour(after[label] if class_id < 0 else class_id) for label, class_id in zip(labels, class_ids, strict=True)
    ]


def _luminance(value: Colour) -> float:
    """Relative luminance of an sRGB colour, 0 to 1."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (c / 255 for c in value)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
