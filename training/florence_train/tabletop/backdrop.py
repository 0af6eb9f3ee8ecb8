"""Everything behind the objects: the table, the wall, what hangs on the wall and lies flat on the table.

Flat things (pens, coins, cables, paper, pictures) have no name in the vocabulary: they are there to be ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import imaging, surfaces, vocabulary
from .camera import Camera
from .lighting import EXTENT, Light, ShadowMap, contact

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]

SHADOW_DETAIL = 0.16
"""Pixels of the shadow map per table unit, as a share of the picture's width."""

LEAST_WALL = 0.02
"""Share of the picture that a wall must fill to be spoken of."""


@dataclass(frozen=True, eq=False)
class Backdrop:
    """A painted background: `colour` [H, W, 3] linear light; `ground` [3] is the table's mean colour."""

    colour: Float32Array
    ground: Float32Array
    table: str
    wall: str | None


def paint(
    rng: np.random.Generator, camera: Camera, light: Light, size: tuple[int, int], clutter: float
) -> tuple[Float32Array, Backdrop]:
    """The wall's mask [H, W, 1] float32 and the backdrop without light; `size` is (width, height)."""
    table, wall = (str(rng.choice(list(names))) for names in (vocabulary.TABLES, vocabulary.WALLS))
    back = float(rng.uniform(2.9, 4.6))
    side = 512 if max(size) <= 400 else 1024
    colours = surfaces.palette(rng, table)
    frame = _plane(rng, camera, table, colours, size, side)
    behind = _wall_mask(camera, back, size)
    if behind.any():
        _hang(rng, camera, frame, behind, wall, (back, clutter, side))
    if rng.random() < clutter:
        _scatter(rng, camera, frame, int(rng.integers(1, 6)), back)
    ground = colours[120:150].mean(0) * (light.sun * np.float32(light.direction[1]) + light.sky)
    return behind, Backdrop(frame, ground.astype(np.float32), table, wall if behind.mean() > LEAST_WALL else None)


def _plane(
    rng: np.random.Generator, camera: Camera, material: str, colours: Float32Array, size: tuple[int, int], side: int
) -> Float32Array:
    """The table's texture seen by the camera, in linear light without shading."""
    grey = surfaces.pattern(material, int(rng.integers(surfaces.VARIANTS)), side)
    turn = float(rng.choice([0, np.pi / 2]) + rng.normal(0, 0.25))
    unit = surfaces.PERIOD * float(rng.uniform(0.75, 1.3)) / side
    u = np.array([np.cos(turn), 0, np.sin(turn)]) * unit
    v = np.array([np.sin(turn), 0, -np.cos(turn)]) * unit
    matrix = camera.homography([rng.uniform(0, 4), 0, rng.uniform(0, 4)], u, v)
    return np.asarray(colours[imaging.warp_tiles(grey, matrix, *size)], np.float32)


def _wall_mask(camera: Camera, back: float, size: tuple[int, int]) -> Float32Array:
    """[H, W, 1] float32: 1 above the line where the table ends at z = `back`."""
    (x1, y1), (x2, y2) = camera.project([[-1.0, 0, back], [1.0, 0, back]])[0]
    edge = y1 + (np.arange(size[0]) + 0.5 - x1) * (y2 - y1) / (x2 - x1)
    above = np.clip(edge[None] - np.arange(size[1])[:, None], 0, 1)
    return np.asarray(above[..., None], np.float32)


def _hang(
    rng: np.random.Generator,
    camera: Camera,
    frame: Float32Array,
    behind: Float32Array,
    wall: str,
    options: tuple[float, float, int],
) -> None:
    """Paints the wall over the frame, with a skirting and perhaps pictures, darker and a little out of focus."""
    back, clutter, side = options
    width = frame.shape[1]
    rows = int(np.flatnonzero(behind[..., 0].any(1)).max()) + 1
    grey = surfaces.pattern(wall, int(rng.integers(surfaces.VARIANTS)), side)
    unit = surfaces.PERIOD * float(rng.uniform(0.8, 1.2)) / side
    far = back + float(rng.choice([0.0, rng.uniform(0.5, 2.5)]))
    matrix = camera.homography([rng.uniform(0, 4), rng.uniform(0, 4), far], [unit, 0, 0], [0, -unit, 0])
    colours = surfaces.palette(rng, wall) * np.float32(rng.uniform(0.45, 0.9))
    painted = np.asarray(colours[imaging.warp_tiles(grey, matrix, width, rows)], np.float32)
    if rng.random() < clutter:
        for _ in range(int(rng.integers(1, 3))):
            _picture(rng, camera, painted, far)
    painted = imaging.blur(painted, (0.001 + 0.003 * (far - back)) * width)
    band = camera.project([[0, 0.0, back], [0, float(rng.uniform(0.03, 0.12)), back]])[0]
    strip = max(1, round(float(band[0, 1] - band[1, 1])))
    edge = np.zeros_like(behind[:rows])
    edge[:-strip] = behind[strip:rows]
    shaded = painted * np.where(edge > 0, np.float32(1.0), np.float32(0.45))
    frame[:rows] += behind[:rows] * (shaded - frame[:rows])


def _picture(rng: np.random.Generator, camera: Camera, frame: Float32Array, back: float) -> None:
    """A framed picture of two tones on the wall."""
    x, y, w, h = rng.uniform(-3, 3), rng.uniform(0.4, 1.6), rng.uniform(0.5, 1.4), rng.uniform(0.4, 1.0)
    tones = rng.uniform(0.05, 0.5, (3, 1)) * rng.uniform(0.8, 1.2, (3, 3))
    for inset, tone in ((0.0, tones[0]), (0.06, tones[1]), (0.2, tones[2])):
        left, right, low, top = x + inset, x + w - inset, y + inset, y + h - inset
        if right <= left or top <= low:
            continue
        corners = [[left, low, back], [right, low, back], [right, top, back], [left, top, back]]
        _lay(frame, camera.project(corners)[0], tone)


def _scatter(rng: np.random.Generator, camera: Camera, frame: Float32Array, count: int, back: float) -> None:
    """Flat things on the table: pens, coins, cables, paper."""
    thickness = max(1, round(frame.shape[1] / 190))
    for _ in range(count):
        x, z, turn = rng.uniform(-2.2, 2.2), rng.uniform(-1.8, min(2.6, back - 0.5)), rng.uniform(0, np.pi)
        tone = rng.uniform(0.02, 0.45) * rng.uniform(0.85, 1.15, 3)
        kind = rng.integers(4)
        if kind == 0:
            outline = np.array([[-0.45, -0.03], [0.4, -0.03], [0.48, 0.0], [0.4, 0.03], [-0.45, 0.03]])
        elif kind == 1:
            angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
            outline = 0.09 * np.stack([np.cos(angles), np.sin(angles)], 1)
        elif kind == 2:
            outline = rng.uniform(0.6, 1.1) * np.array([[-0.4, -0.3], [0.4, -0.3], [0.4, 0.3], [-0.4, 0.3]])
            tone = rng.uniform(0.55, 0.8) * rng.uniform(0.95, 1.0, 3)
        else:
            steps = np.linspace(0, 1, 24)
            wave = rng.uniform(0.2, 0.6) * np.sin(steps * rng.uniform(3, 7) + rng.uniform(0, 6))
            outline = np.stack([steps * rng.uniform(1.5, 4) - 1.5, wave], 1)
        cos, sin = np.cos(turn), np.sin(turn)
        spots = outline @ np.array([[cos, sin], [-sin, cos]]) + [x, z]
        pixels = camera.project(np.stack([spots[:, 0], np.zeros(len(spots)), spots[:, 1]], 1))[0]
        _lay(frame, pixels, tone, line=thickness if kind == 3 else 0)


def _lay(frame: Float32Array, outline: Float64Array, tone: Float64Array, *, line: int = 0) -> None:
    """Paints a polygon, or a line of some thickness, over the frame in place."""
    height, width = frame.shape[:2]
    low = np.clip(np.floor(outline.min(0)) - line - 1, 0, [width, height]).astype(int)
    high = np.clip(np.ceil(outline.max(0)) + line + 2, 0, [width, height]).astype(int)
    if (high <= low).any():
        return
    cover = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    if line:
        imaging.draw_line(cover, outline - low - 0.5, line)
    else:
        imaging.fill(cover, outline - low - 0.5)
    part = frame[low[1] : high[1], low[0] : high[0]]
    part += cover[..., None] * np.float32(1 / 255) * (tone.astype(np.float32) - part)


def light_table(
    backdrop: Backdrop,
    behind: Float32Array,
    camera: Camera,
    light: Light,
    shadows: ShadowMap,
    footprints: list[Float64Array],
) -> Float32Array:
    """The backdrop [H, W, 3] with light and shadows on the table; the wall gets even light."""
    height, width = behind.shape[:2]
    step = 1 / shadows.resolution
    matrix = camera.homography([EXTENT[0], 0, EXTENT[2]], [step, 0, 0], [0, 0, step])
    dark = imaging.warp(shadows.on_table(light.softness), matrix, width, height)
    closed = imaging.warp(contact(footprints, shadows.resolution / 2), matrix @ np.diag([2.0, 2.0, 1.0]), width, height)
    direct = light.sun * np.float32(light.direction[1])
    power = _share(255 - closed) * light.sky + _share(255 - dark) * direct
    even = light.sky + np.float32(0.6) * direct
    power += behind * (even - power)
    return np.asarray(backdrop.colour * power, np.float32)


def _share(amount: npt.NDArray[Any]) -> Float32Array:
    return np.asarray((amount * np.float32(1 / 255))[..., None], np.float32)
