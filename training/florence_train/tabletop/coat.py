"""Surface colours: an object's own colour, its pattern, its second material, and what is printed on it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import imaging, lettering
from .camera import Camera
from .items import Item
from .shapes import FRONT, SECOND

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def albedo(
    items: list[Item],
    camera: Camera,
    size: tuple[int, int],
    at: tuple[IntArray, IntArray, npt.NDArray[np.int8]],
    uv: Float32Array,
) -> Float32Array:
    """Linear surface colours [N, 3] at pixels with their owners and parts."""
    pixel, owner, part = at
    first = np.array([item.rgb for item in items], np.float32) ** 2
    second = np.array([item.rgb2 for item in items], np.float32) ** 2
    colours = first[owner]
    for number, item in enumerate(items):
        if item.texture == "plain" and item.text is None and not (item.shape.parts == SECOND).any():
            continue
        mine = np.flatnonzero(owner == number)
        other = part[mine] == SECOND
        if item.texture != "plain":
            other |= _PATTERNS[item.texture](uv[mine, 0], uv[mine, 1])
        colours[mine[other]] = second[number]
        if item.text is not None:
            face = mine[part[mine] == FRONT]
            colours[face] = _printed(item, camera, size, pixel[face], colours[face])
    return colours


def _stripes(u: Float32Array, v: Float32Array) -> BoolArray:
    return np.asarray(v % 1 < 0.42)


def _dots(u: Float32Array, v: Float32Array) -> BoolArray:
    return np.asarray((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.085)


def _checks(u: Float32Array, v: Float32Array) -> BoolArray:
    return np.asarray((np.floor(u) + np.floor(v)) % 2 < 1)


_PATTERNS = {"stripes": _stripes, "dots": _dots, "checks": _checks}


def _printed(item: Item, camera: Camera, size: tuple[int, int], pixel: IntArray, under: Float32Array) -> Float32Array:
    """The colours `under` [N, 3] at `pixel` [N] of an item's front face with paper and ink on them."""
    if item.text is None or item.face is None or not len(pixel):
        return under
    face = camera.project(item.face[0] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) @ item.face[1:])[0]
    on_screen = max(np.linalg.norm(face[1] - face[0]), np.linalg.norm(face[2] - face[3]))
    picture = lettering.paint(item.text, *item.face_size, float(on_screen) / item.face_size[0])
    low = np.clip(np.floor(face.min(0)) - 1, 0, size).astype(int)
    high = np.clip(np.ceil(face.max(0)) + 1, low + 1, size).astype(int)
    step = item.face[1:] / np.array([[picture.shape[1]], [picture.shape[0]]])
    matrix = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1]]) @ camera.homography(item.face[0], *step)
    seen = imaging.warp(picture, matrix, *(high - low))
    row, column = np.clip(pixel // size[0] - low[1], 0, None), np.clip(pixel % size[0] - low[0], 0, None)
    cover = seen[np.minimum(row, seen.shape[0] - 1), np.minimum(column, seen.shape[1] - 1)]
    share = cover.astype(np.float32) / 255
    if item.text.paper is not None:
        under = under + share[:, :1] * (np.array(item.text.paper, np.float32) ** 2 - under)
    under = under + share[:, 1:] * (np.array(item.text.ink, np.float32) ** 2 - under)
    return np.asarray(under, np.float32)
