"""Light on the scene: a sun or lamp, sky light from above, light thrown back by the table, and shadows.

Shadows come from one map on the table plane: every object is projected along the light onto the table, and the map
keeps the greatest height that shades each spot. The table reads it blurred; a point of an object is in shadow when
the map at its own projection is higher than the point. Colours are linear light.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import imaging
from .raster import rasterise

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]

EXTENT = (-4.0, 4.0, -3.2, 4.6)
"""Part of the table that the shadow map covers: x from, to; z from, to."""

_BIAS = 0.04


@dataclass(frozen=True, eq=False)
class Light:
    """`direction` [3] points to the light, `sun` and `sky` [3] are colours; `softness` of shadows in table units."""

    direction: Float64Array
    sun: Float32Array
    sky: Float32Array
    softness: float

    @staticmethod
    def random(rng: np.random.Generator) -> Light:
        """Light from the side or from behind the camera, warm or cool, hard or soft."""
        turn, rise = rng.uniform(-2.4, 2.4), np.radians(rng.uniform(36, 68))
        towards = np.array([np.sin(turn) * np.cos(rise), np.sin(rise), -np.cos(turn) * np.cos(rise)])
        warmth = rng.uniform(-0.08, 0.12)
        tint = np.array([1 + warmth, 1.0, 1 - warmth], np.float32)
        direct = rng.uniform(0.35, 0.95)
        sky = np.array([1 - warmth / 2, 1.0, 1 + warmth / 2], np.float32) * (1.18 - direct) * 0.85
        return Light(towards, np.float32(direct * 1.15) * tint, sky.astype(np.float32), float(rng.uniform(0.02, 0.1)))


@dataclass(frozen=True, eq=False)
class ShadowMap:
    """`height` [h, w] float32: how high the map's spots are shaded; `resolution` in pixels per table unit."""

    height: Float32Array
    resolution: float
    slope: tuple[float, float]

    @staticmethod
    def cast(triangles: Float64Array, light: Light, resolution: float) -> ShadowMap:
        """The map of `triangles` [T, 3, 3] in world coordinates."""
        slope = (float(light.direction[0] / light.direction[1]), float(light.direction[2] / light.direction[1]))
        width, height = (round((EXTENT[i + 1] - EXTENT[i]) * resolution) for i in (0, 2))
        edge = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        lit = triangles[edge @ light.direction > 0]
        x = (lit[..., 0] - lit[..., 1] * slope[0] - EXTENT[0]) * resolution
        z = (lit[..., 2] - lit[..., 1] * slope[1] - EXTENT[2]) * resolution
        pieces = rasterise(np.stack([x, z], -1), np.maximum(lit[..., 1], 1e-4), width, height)
        shade = np.zeros(width * height, np.float32)
        np.maximum.at(shade, pieces.pixel, pieces.value)
        return ShadowMap(shade.reshape(height, width), resolution, slope)

    def lit(self, points: Float32Array, towards: Float32Array) -> Float32Array:
        """How much sun reaches points [N, 3] of surfaces turned `towards` [N] the light (cosine): 0 to 1."""
        x = (points[:, 0] - points[:, 1] * np.float32(self.slope[0]) - EXTENT[0]) * self.resolution
        z = (points[:, 2] - points[:, 1] * np.float32(self.slope[1]) - EXTENT[2]) * self.resolution
        # A surface that the light grazes climbs fast within one spot of the map and would shade itself.
        limit = points[:, 1] + np.float32(_BIAS) / np.maximum(towards, np.float32(0.15))
        h, w = self.height.shape
        reach = 0.035 * self.resolution
        total = np.zeros(len(points), np.float32)
        for dx, dz in ((-reach, -reach / 3), (reach / 3, -reach), (reach, reach / 3), (-reach / 3, reach)):
            column = np.clip((x + dx).astype(np.int32), 0, w - 1)
            row = np.clip((z + dz).astype(np.int32), 0, h - 1)
            total += self.height[row, column] <= limit
        return np.asarray(total * np.float32(0.25), np.float32)

    def on_table(self, softness: float) -> UInt8Array:
        """How dark each spot of the map is, 0 to 255: sharp beside what touches the table, soft under what is high."""
        mask = np.where(self.height > 0, np.uint8(255), np.uint8(0))
        sharp = imaging.blur(mask, softness * 0.4 * self.resolution)
        soft = imaging.blur(mask, softness * 1.7 * self.resolution)
        tall = imaging.blur(np.minimum(self.height * np.float32(230), 255).astype(np.uint8), 0.12 * self.resolution)
        share = tall.astype(np.uint16)
        return np.asarray((sharp * (255 - share) + soft * share) // 256, np.uint8)


def contact(footprints: list[Float64Array], resolution: float) -> UInt8Array:
    """How much sky each spot of the table loses beside objects with `footprints` [K, 2] (x, z), 0 to 255."""
    width, height = (round((EXTENT[i + 1] - EXTENT[i]) * resolution) for i in (0, 2))
    dark = np.zeros((height, width), np.uint8)
    for outline in footprints:
        imaging.fill(dark, (outline - [EXTENT[0], EXTENT[2]]) * resolution)
    near, far = imaging.blur(dark, 0.11 * resolution), imaging.blur(dark, 0.3 * resolution)
    return np.asarray((near.astype(np.uint16) * 5 + far.astype(np.uint16) * 3) // 9, np.uint8)


@dataclass(frozen=True, eq=False)
class Surface:
    """Points of objects: `albedo`, `points`, `normals` [N, 3], and `shine` [N], the strength of highlights."""

    albedo: Float32Array
    points: Float32Array
    normals: Float32Array
    shine: Float32Array


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What lights a surface; `ground` [3] is the light that the table throws back."""

    light: Light
    shadows: ShadowMap
    ground: Float32Array


def shade(surface: Surface, eye: Float64Array, around: Surroundings) -> Float32Array:
    """Linear colours [N, 3] of a surface seen from `eye` [3]: Lambert, two-tone sky, Blinn-Phong, a rim."""
    points, normals, shine, light = surface.points, surface.normals, surface.shine, around.light
    direction = light.direction.astype(np.float32)
    towards = np.maximum(normals @ direction, 0)
    sun = towards * around.shadows.lit(points, towards)
    up = normals[:, 1] * np.float32(0.5) + np.float32(0.5)
    near_table = np.exp(points[:, 1] * np.float32(-7.0)) * np.float32(0.5) * (1 - np.maximum(normals[:, 1], 0))
    below = around.ground * np.float32(0.55)
    ambient = (1 - near_table)[:, None] * (below + up[:, None] * (light.sky - below))
    colour = surface.albedo * (ambient + sun[:, None] * light.sun)
    glossy = np.flatnonzero(shine > 0)
    view = eye.astype(np.float32) - points[glossy]
    view /= np.sqrt((view * view).sum(1, keepdims=True))
    half = view + direction
    half /= np.sqrt((half * half).sum(1, keepdims=True))
    gloss, faces = shine[glossy], normals[glossy]
    glint = np.maximum((faces * half).sum(1), 0) ** (np.float32(12.0) + gloss * np.float32(70.0))
    glint *= gloss * np.float32(0.9) * (sun[glossy] > 0.02)
    rim = (1 - np.maximum((faces * view).sum(1), 0)) ** 4 * gloss * np.float32(0.25)
    colour[glossy] += glint[:, None] * light.sun + rim[:, None] * light.sky
    return np.asarray(colour, np.float32)
