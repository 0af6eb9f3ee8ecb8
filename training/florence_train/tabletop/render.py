"""Renders a scene: layout, camera, light, pixels and the truth, from (seed, index, options) alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from florence_edge.errors import InputError

from . import backdrop, coat, finish, imaging, lighting, truth
from .camera import Camera
from .items import Item
from .layout import layout
from .raster import interpolate, nearest, rasterise
from .scene import Scene, TabletopConfig
from .slips import strew

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Triangles:
    """The triangles of all items: `world` [S, 3, 3] all of them, the rest only the T that face the camera.

    `corners` [T, 3, 2] in pixels, `inverse` [T, 3] 1/depth, `attributes` [T, 3, 8] position, normal and texture
    coordinates, `owner` [T] the item, `part` [T] of its mesh.
    """

    world: Float64Array
    corners: Float64Array
    inverse: Float64Array
    attributes: Float32Array
    owner: IntArray
    part: npt.NDArray[np.int8]


def render(seed: int, index: int, config: TabletopConfig | None = None) -> Scene:
    """The scene of (`seed`, `index`): the same bytes and truth every time. Raises `InputError` for negative numbers."""
    if seed < 0 or index < 0:
        raise InputError(f"seed and index must not be negative, got {seed} and {index}")
    config = config or TabletopConfig()
    rng = np.random.default_rng([seed, index])
    camera = Camera.random(rng, config.width, config.height)
    items = layout(rng, config, camera)
    light = lighting.Light.random(rng)
    behind, ground = backdrop.paint(rng, camera, light, (config.width, config.height), config.clutter)

    large = camera.scaled(config.supersample)
    size = (config.width * config.supersample, config.height * config.supersample)
    triangles = _gather(items, large)
    fragments = rasterise(triangles.corners, triangles.inverse, *size)
    at = nearest(fragments, size[0] * size[1])
    shadows = lighting.ShadowMap.cast(triangles.world, light, backdrop.SHADOW_DETAIL * config.width)

    frame = backdrop.light_table(ground, behind, camera, light, shadows, [_footprint(item) for item in items])
    lit = _surfaces(items, triangles, at, large, size, lighting.Surroundings(light, shadows, ground.ground))
    samples = np.zeros((size[1], size[0], 4), np.float32)
    samples.reshape(-1, 4)[at[0]] = np.concatenate([lit, np.ones((len(lit), 1), np.float32)], 1)
    things = imaging.shrink(samples, config.width, config.height)
    seen = frame * (1 - things[..., 3:]) + things[..., :3]

    owners = np.full((size[1], size[0]), -1, np.int16)
    owners.reshape(-1)[at[0]] = triangles.owner[at[1]]
    whole = truth.silhouettes(fragments, triangles.owner, len(items), size)
    objects, places = truth.objects(items, camera, owners, whole, config)
    labels = truth.labels(items, camera, owners, places, config)
    for slip in strew(seed, index, config, objects):
        slip.lay(seen)
        labels = truth.ordered((*labels, slip.label()))
    image = finish.develop(rng, seen, config.degrade)
    return Scene(image, objects, labels, ground.table, ground.wall, behind[..., 0] >= 0.5, seed, index)


def _gather(items: list[Item], camera: Camera) -> _Triangles:
    """The meshes of all items, projected."""
    world = np.concatenate([item.points[item.shape.triangles] for item in items])
    edges = np.cross(world[:, 1] - world[:, 0], world[:, 2] - world[:, 0])
    front = ((camera.position - world[:, 0]) * edges).sum(1) > 0
    corners, depth = camera.project(world[front])
    attributes = [
        np.concatenate([item.points, item.normals, item.shape.uv], 1).astype(np.float32)[item.shape.triangles]
        for item in items
    ]
    owner = np.repeat(np.arange(len(items)), [len(item.shape.triangles) for item in items])
    part = np.concatenate([item.shape.parts for item in items])
    return _Triangles(world, corners, 1 / depth, np.concatenate(attributes)[front], owner[front], part[front])


def _surfaces(
    items: list[Item],
    triangles: _Triangles,
    at: tuple[IntArray, IntArray],
    camera: Camera,
    size: tuple[int, int],
    around: lighting.Surroundings,
) -> Float32Array:
    """Linear colours [N, 3] of the nearest surfaces `at` = (pixel [N], triangle [N])."""
    surface = interpolate(triangles.corners, triangles.inverse, triangles.attributes, at, size[0])
    normals = surface[:, 3:6] / np.sqrt((surface[:, 3:6] ** 2).sum(1, keepdims=True))
    owner, part = triangles.owner[at[1]], triangles.part[at[1]]
    albedo = coat.albedo(items, camera, size, (at[0], owner, part), surface[:, 6:8])
    shine = np.array([item.shine for item in items], np.float32)[owner]
    return lighting.shade(lighting.Surface(albedo, surface[:, :3], normals, shine), camera.position, around)


def _footprint(item: Item) -> Float64Array:
    """Outline [K, 2] (x, z) of the part of an item that is near the table."""
    low = item.points[item.points[:, 1] < 0.12][:, [0, 2]]
    middle = low.mean(0)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ways = np.stack([np.cos(angles), np.sin(angles)], 1)
    reach = ((low - middle) @ ways.T).max(0)
    return np.asarray(middle + ways * np.maximum(reach, 0.02)[:, None] * 0.96, np.float64)
