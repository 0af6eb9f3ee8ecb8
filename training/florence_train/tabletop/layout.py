"""Chooses what stands where: objects, their looks and places, so that few are hidden and no relation is in doubt.

Objects stand in depth rows with a gap between rows, and their centres on the picture keep apart, so "left of" and
"behind" never hang on a pixel. Carriers of text are placed first and stay uncovered.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from florence_edge.errors import InputError

from . import lettering
from .camera import Camera
from .items import Draft, Item, draft
from .scene import TabletopConfig

Float64Array = npt.NDArray[np.float64]

ROW_DEPTHS = (-1.05, 0.1, 1.25)
"""z of the rows, nearest first; an object is at most `ROW_SPREAD` off."""

ROW_SPREAD = 0.15

CENTRE_GAP = 0.055
"""Least distance between two objects' centres, as a share of the picture's width."""

LEAST_TEXT = (0.05, 0.024)
"""Least height of text and least width of a character on the picture, as shares of the mean side."""

_ATTEMPTS = 24
_PLACES = 6
"""Places tried for one object before another is drawn in its stead."""

_RESTARTS = 20

_CROWDED = 0.5
"""Chance that an object is placed close before or behind another."""


def layout(rng: np.random.Generator, config: TabletopConfig, camera: Camera) -> list[Item]:
    """Items for one scene, carriers of text first; at least one. Raises `InputError` where the picture has no room."""
    wanted = int(rng.integers(config.objects[0], config.objects[1] + 1))
    carriers = 0
    if rng.random() < config.labels:
        carriers = min(wanted, 1 + int(rng.random() < 0.3))
    for _ in range(_RESTARTS):
        placed = _fill(rng, config, camera, wanted, carriers)
        if placed:
            return placed
    raise InputError(
        f"no object of scale {config.scale} fits on a picture of {config.height} x {config.width}; "
        "use a smaller scale or a picture that is less narrow"
    )


def _fill(rng: np.random.Generator, config: TabletopConfig, camera: Camera, wanted: int, carriers: int) -> list[Item]:
    """Places up to `wanted` objects; those that find no place are left out."""
    placed: list[Item] = []
    boxes: list[Float64Array] = []
    radii: list[float] = []
    for number in range(wanted):
        for attempt in range(_ATTEMPTS):
            if attempt % _PLACES == 0:
                candidate = draft(rng, config, placed, carrier=number < carriers)
            found = _place(rng, config, camera, candidate, list(zip(placed, boxes, radii, strict=True)))
            if found is not None:
                placed.append(found[0])
                boxes.append(found[1])
                radii.append(candidate.radius)
                break
    return placed


def _place(
    rng: np.random.Generator,
    config: TabletopConfig,
    camera: Camera,
    candidate: Draft,
    others: list[tuple[Item, Float64Array, float]],
) -> tuple[Item, Float64Array] | None:
    """Tries one place: the item there and its box on the picture, or None where it does not fit."""
    row = int(rng.integers(len(ROW_DEPTHS)))
    z = ROW_DEPTHS[row] + float(rng.uniform(-ROW_SPREAD, ROW_SPREAD))
    depth = camera.project([0.0, 0.0, z])[1]
    reach = float(depth) * config.width / camera.focal / 2 - candidate.radius * 0.9
    if reach <= 0:
        return None
    x = float(rng.uniform(-reach, reach)) + float(camera.position[0])
    if others and config.occlusion > 0 and rng.random() < _CROWDED:
        other, _, radius = others[int(rng.integers(len(others)))]
        x = other.ground[0] + float(rng.uniform(-0.8, 0.8)) * (radius + candidate.radius)
    if any(np.hypot(x - o.ground[0], z - o.ground[1]) < candidate.radius + r + 0.03 for o, _, r in others):
        return None
    points = candidate.item.points + np.array([x, 0.0, z])
    pixels = camera.project(points)[0]
    low, high = pixels.min(0), pixels.max(0)
    margin = 0.012 * config.width
    if low.min() < margin or high[0] > config.width - margin or high[1] > config.height - margin:
        return None
    area = np.concatenate([low, high])
    if not _clear(config, candidate.item, area, z, others):
        return None
    face = None if candidate.item.face is None else candidate.item.face + np.array([[x, 0.0, z], [0, 0, 0], [0, 0, 0]])
    item = replace(candidate.item, row=row, ground=(x, z), points=points, face=face)
    if item.text is not None and not _legible(config, camera, item):
        return None
    return item, area


def _clear(
    config: TabletopConfig, item: Item, area: Float64Array, z: float, others: list[tuple[Item, Float64Array, float]]
) -> bool:
    """Whether the box keeps its distance from the others and hides no text and not too much."""
    for other, theirs, _ in others:
        if abs(area[0] + area[2] - theirs[0] - theirs[2]) / 2 < CENTRE_GAP * config.width:
            return False
        shared = np.minimum(area[2:], theirs[2:]) - np.maximum(area[:2], theirs[:2])
        if shared.min() <= 0:
            continue
        hidden, behind = (other, theirs) if other.ground[1] > z else (item, area)
        share = float(shared.prod() / (behind[2:] - behind[:2]).prod())
        if share > (0.0 if hidden.text is not None else config.occlusion):
            return False
    return True


def text_quad(item: Item, camera: Camera) -> Float64Array:
    """The corners [4, 2] of an item's text on the picture, clockwise from the text's own top left."""
    assert item.text is not None
    assert item.face is not None
    corners = lettering.ink_quad(item.text, *item.face_size) / np.array(item.face_size)
    return camera.project(item.face[0] + corners @ item.face[1:])[0]


def _legible(config: TabletopConfig, camera: Camera, item: Item) -> bool:
    if item.text is None:
        return True
    quad = text_quad(item, camera)
    side = (config.width + config.height) / 2
    tall = min(np.linalg.norm(quad[3] - quad[0]), np.linalg.norm(quad[2] - quad[1]))
    wide = min(np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[2] - quad[3])) / len(item.text.text)
    (ax, ay), (bx, by) = quad[1] - quad[0], quad[3] - quad[0]
    slant = abs(ax * by - ay * bx) / max(1e-9, float(np.hypot(ax, ay) * np.hypot(bx, by)))
    return bool(tall >= LEAST_TEXT[0] * side and wide >= LEAST_TEXT[1] * side and slant > 0.6)
