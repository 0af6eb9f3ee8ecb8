"""The words of the tabletop world: what can stand on the table, how it can look, and on what.

Every word that a truth can contain comes from these tables. Colours are ranges in HSV, so that no two objects of one
colour are alike, and the ranges of two colours never touch.
"""

from __future__ import annotations

from dataclasses import dataclass

KINDS: tuple[str, ...] = (
    "cube",
    "ball",
    "cylinder",
    "cone",
    "pyramid",
    "ring",
    "cup",
    "bowl",
    "bottle",
    "book",
    "card",
)
"""Category names. A card exists to carry printed text; cubes and books may carry some too."""

TEXTURES: dict[str, str] = {"plain": "", "stripes": "striped", "dots": "dotted", "checks": "checkered"}
"""Pattern on an object -> its adjective; a plain object is not called plain."""

SIZES: dict[str, tuple[float, float]] = {"small": (0.66, 0.8), "large": (1.06, 1.28)}
"""Size word -> range of the factor on the kind's own dimensions; the gap keeps the words apart."""

ROWS: tuple[str, ...] = ("in the front", "in the middle", "at the back")
"""Depth rows of the table, nearest first; "behind" and "in front of" compare them."""

COLUMNS: tuple[str, ...] = ("left", "centre", "right")
"""Thirds of the picture in which the centre of a visible box lies."""

TABLES: dict[str, str] = {
    "wood": "wooden table",
    "cloth": "tablecloth",
    "tile": "tiled table",
    "stone": "stone table",
    "plain": "plain table",
}
"""Table surface -> what captions call it."""

WALLS: dict[str, str] = {"plain": "plain wall", "brick": "brick wall", "tile": "tiled wall", "panel": "panelled wall"}
"""Wall surface -> what captions call it."""

NUMBERS: tuple[str, ...] = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
"""Counts in words."""

LABEL_ALPHABET = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"
"""Characters of printed labels; I, O and Q are left out, as on number plates, because they look like 1 and 0."""

LABEL_LENGTHS: tuple[int, int] = (3, 8)
"""Fewest and most characters of a printed label."""


@dataclass(frozen=True)
class Colour:
    """A named colour as closed ranges: hue in degrees (may pass 360), saturation and value in 0..1, sRGB."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]


COLOURS: dict[str, Colour] = {
    "red": Colour((354, 364), (0.78, 0.95), (0.62, 0.9)),
    "orange": Colour((21, 30), (0.82, 1.0), (0.88, 1.0)),
    "yellow": Colour((48, 56), (0.72, 0.95), (0.88, 1.0)),
    "green": Colour((105, 142), (0.55, 0.9), (0.4, 0.72)),
    "cyan": Colour((178, 189), (0.55, 0.85), (0.7, 0.95)),
    "blue": Colour((216, 230), (0.72, 0.95), (0.45, 0.9)),
    "purple": Colour((268, 282), (0.5, 0.78), (0.42, 0.75)),
    "pink": Colour((326, 342), (0.36, 0.55), (0.92, 1.0)),
    "white": Colour((0, 360), (0.0, 0.04), (0.92, 1.0)),
    "black": Colour((0, 360), (0.0, 0.15), (0.07, 0.14)),
}
"""Colour name -> its ranges."""
