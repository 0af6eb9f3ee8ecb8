"""What an object looks like before it has a place: kind, colours, pattern, text, and its mesh turned and scaled."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from . import lettering, vocabulary
from .scene import TabletopConfig
from .shapes import Mesh, box, mesh

T = TypeVar("T")
Float64Array = npt.NDArray[np.float64]
Rgb = tuple[float, float, float]

_FOOTPRINTS = {"bowl": 0.62, "ring": 0.54, "pyramid": 0.6, "cube": 0.52, "cone": 0.46, "bottle": 0.3, "cup": 0.42}
"""Radius of what an upright object of size 1 needs of the table; other kinds need what they cover."""

_BOOKS = ((0.66, 0.94, 0.16), (0.7, 1.0, 0.22), (0.74, 0.96, 0.26), (0.78, 1.06, 0.18), (0.8, 1.0, 0.2))
"""Width, height and thickness of books."""

_TWINS = 0.35
"""Chance of sharing kind or colour with another object, which makes relations and further attributes necessary."""

_LYING = {"cylinder": 0.2, "bottle": 0.15, "cone": 0.1}
"""Chance that an object lies on its side."""


@dataclass(frozen=True, eq=False)
class Item:
    """An object to be rendered.

    `points` [V, 3] and `normals` [V, 3] are the mesh in world coordinates; `rgb` and `rgb2` the sRGB colours of body
    and pattern; `shine` the strength of its highlights. `face` holds origin (top left), right and down vectors [3, 3]
    of the face with text, and `face_size` its width and height.
    """

    kind: str
    colour: str
    size: str
    texture: str
    row: int
    ground: tuple[float, float]
    shape: Mesh
    points: Float64Array
    normals: Float64Array
    rgb: Rgb
    rgb2: Rgb
    shine: float
    text: lettering.Print | None = None
    face: Float64Array | None = None
    face_size: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Draft:
    """An object before it has a place: mesh turned and scaled, standing on the table at the origin."""

    item: Item
    radius: float


def draft(rng: np.random.Generator, config: TabletopConfig, placed: list[Item], *, carrier: bool) -> Draft:
    """Draws an object; some take their kind or colour from one of those `placed`. A carrier has text on it."""
    kind, colour, texture, size = _look(rng, config, placed, carrier=carrier)
    rgb = _colour(rng, colour)
    text = _text(rng, kind, rgb) if carrier else None
    scale = float(rng.uniform(*vocabulary.SIZES[size])) * config.scale
    shape, face_size = _shape(rng, config, kind, text)
    turn, stands = _turn(rng, kind, carrier=carrier)
    points = shape.points @ turn.T * scale
    points[:, 1] -= points[:, 1].min()
    shine = float(rng.choice([0.0, 0.15, 0.5, 0.9], p=[0.25, 0.3, 0.3, 0.15]))
    item = Item(
        *(kind, colour, size, texture, 0, (0.0, 0.0), shape, points, shape.normals @ turn.T),
        *(rgb, _second(rng, colour, rgb, kind)),
        shine=shine * (0.2 if kind in ("card", "book") else 1),
        text=text,
        face=None if text is None else _face(shape, face_size, turn, scale),
        face_size=face_size,
    )
    reach = float(np.hypot(points[:, 0], points[:, 2]).max())
    return Draft(item, min(reach, _FOOTPRINTS.get(kind, 9.0) * scale) if stands else reach)


def _look(
    rng: np.random.Generator, config: TabletopConfig, placed: list[Item], *, carrier: bool
) -> tuple[str, str, str, str]:
    """Kind, colour, texture and size word."""
    kind = _pick(rng, vocabulary.KINDS[:-1])
    if carrier:
        kind = str(rng.choice(["card", "book", "cube"], p=[0.62, 0.24, 0.14]))
    colour = _pick(rng, tuple(vocabulary.COLOURS))
    if placed and rng.random() < _TWINS:
        twin = placed[int(rng.integers(len(placed)))]
        if rng.random() < 0.5 and not carrier and twin.kind != "card":
            kind = twin.kind
        else:
            colour = twin.colour
    if kind == "card":
        colour = _pick(rng, ("white", "white", "white", "yellow", "pink", "cyan", "orange", "green"))
    texture = "plain"
    if not carrier and rng.random() < config.patterns:
        texture = _pick(rng, tuple(vocabulary.TEXTURES)[1:])
    return kind, colour, texture, _pick(rng, ("large",) if kind == "cube" and carrier else tuple(vocabulary.SIZES))


def _face(shape: Mesh, size: tuple[float, float], turn: Float64Array, scale: float) -> Float64Array:
    """Origin, right and down vectors [3, 3] of the front face of a turned box that stands on the table."""
    width, height = size
    front = float(shape.points[:, 2].min())
    corner = np.array([[-width / 2, height, front], [width, 0, 0], [0, -height, 0]])
    face = np.asarray(corner @ turn.T * scale, np.float64)
    face[0, 1] -= float((shape.points @ turn[1]).min()) * scale
    return face


def _shape(
    rng: np.random.Generator, config: TabletopConfig, kind: str, text: lettering.Print | None
) -> tuple[Mesh, tuple[float, float]]:
    """The mesh of a kind, and the size of its front face where it has one."""
    if kind == "card" and text is not None:
        height = 0.42 if len(text.text) < 6 else 0.36
        # Rounded, so that cards share their meshes.
        width = round(height * (lettering.aspect(text.text, text.font) * text.fill + 0.5), 1)
        return box(width, height, 0.035, bevel=0.01), (width, height)
    if kind == "book":
        width, height, depth = _pick(rng, _BOOKS)
        return box(width, height, depth, bevel=0.02, pages=True), (width, height)
    largest = max(config.height, config.width)
    return mesh(kind, 24 if largest <= 320 else 40 if largest <= 560 else 72), (0.76, 0.76)


def _turn(rng: np.random.Generator, kind: str, *, carrier: bool) -> tuple[Float64Array, bool]:
    """A rotation [3, 3] for an object of a kind, and whether it stands upright."""
    yaw = float(rng.uniform(-np.pi, np.pi))
    if kind == "ball":
        return _about(1, yaw) @ _about(0, float(rng.uniform(0, np.pi))), True
    if kind in _LYING and rng.random() < _LYING[kind]:
        return _about(1, yaw) @ _about(2, np.pi / 2), False
    if kind == "cup":
        # The handle points to a side more often than towards or away from the camera.
        return _about(1, float(rng.choice([0, np.pi])) + float(rng.normal(0, 0.7))), True
    if kind == "cube":
        return _about(1, float(rng.uniform(-0.45, 0.45) if carrier else yaw)), True
    if kind == "card":
        flat = rng.random() < 0.3
        lean = np.pi / 2 if flat else float(rng.uniform(0.15, 0.6))
        return _about(1, float(rng.uniform(-0.8, 0.8) if flat else rng.uniform(-0.5, 0.5))) @ _about(0, lean), not flat
    if kind == "book":
        flat = rng.random() < (0.35 if carrier else 0.6)
        lean = np.pi / 2 if flat else 0.0
        return _about(1, float(rng.uniform(-0.7, 0.7))) @ _about(0, lean), not flat
    return _about(1, yaw), True


def _about(axis: int, angle: float) -> Float64Array:
    """Rotation about axis 0 (x: leaning back), 1 (y: turning) or 2 (z: rolling)."""
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = [i for i in range(3) if i != axis]
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = cos
    matrix[a, b], matrix[b, a] = -sin, sin
    return matrix


def _text(rng: np.random.Generator, kind: str, rgb: Rgb) -> lettering.Print:
    longest = {"card": vocabulary.LABEL_LENGTHS[1], "book": 5, "cube": 4}[kind]
    length = int(rng.integers(vocabulary.LABEL_LENGTHS[0], longest + 1))
    text = "".join(rng.choice(list(vocabulary.LABEL_ALPHABET), length))
    font = _pick(rng, lettering.FONTS)
    paper: Rgb | None = None
    if kind != "card" and rng.random() < 0.5:
        paper = (0.93, 0.92, 0.88)
    dark = _light(paper or rgb) > 0.3
    ink = _pick(rng, ((0.05, 0.05, 0.06), (0.08, 0.1, 0.35), (0.4, 0.05, 0.05))) if dark else (0.95, 0.95, 0.93)
    if 0.3 < _light(paper or rgb) < 0.6:
        ink = (0.04, 0.04, 0.05)
    turn = float(rng.normal(0, 0.05 if kind == "card" else 0.1))
    return lettering.Print(text, font, 0.8 if kind == "card" else 0.84, turn, ink, paper)


def _light(rgb: Rgb) -> float:
    """Relative luminance of an sRGB colour (gamma taken as 2)."""
    return 0.21 * rgb[0] ** 2 + 0.72 * rgb[1] ** 2 + 0.07 * rgb[2] ** 2


def _colour(rng: np.random.Generator, name: str) -> Rgb:
    ranges = vocabulary.COLOURS[name]
    hue, saturation, value = (float(rng.uniform(*r)) for r in (ranges.hue, ranges.saturation, ranges.value))
    return colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)


def _second(rng: np.random.Generator, name: str, rgb: Rgb, kind: str) -> Rgb:
    """The pattern's colour: a shade that leaves the name of the first one in no doubt."""
    if kind == "book" and rng.random() < 0.5:
        return (0.9, 0.87, 0.78)
    if name in ("white", "black"):
        grey = float(rng.uniform(0.45, 0.58) if name == "white" else rng.uniform(0.36, 0.46))
        return (grey, grey, grey)
    if rng.random() < 0.6:
        return (0.94, 0.94, 0.92)
    return (rgb[0] * 0.35, rgb[1] * 0.35, rgb[2] * 0.35)


def _pick(rng: np.random.Generator, choices: tuple[T, ...]) -> T:
    return choices[int(rng.integers(len(choices)))]
