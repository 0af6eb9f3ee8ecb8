"""Questions about regions: what is in a box, its outline, the text in it."""

from __future__ import annotations

import numpy as np

from florence_edge.geometry import Float32Array
from florence_edge.results import Result

from .answers import NOTHING, Box, Example, polygons, text
from .phrases import full
from .scene import Scene

JITTER = 0.04
"""Most that a side of a region moves, as a share of the box's own width or height."""

EMPTY_REGIONS = 0.08
"""Chance that a region to name holds nothing."""

EMPTY_READS = 0.2
"""Chance that a scene or region without text is asked for its text."""


def about_region(scene: Scene, rng: np.random.Generator, task: str, per_task: int) -> list[Example]:
    """Boxes with the kind, the description or the mask of the object inside."""
    made = []
    for index in some(rng, scene, per_task):
        thing = scene.objects[index]
        targets: dict[str, Result] = {
            "<REGION_TO_CATEGORY>": text(scene, task, thing.kind),
            "<REGION_TO_DESCRIPTION>": text(scene, task, full(thing).text),
            "<REGION_TO_SEGMENTATION>": polygons(scene, task, index),
        }
        made.append(Example(task, _moved(rng, thing.box, scene), targets[task]))
    if task == "<REGION_TO_CATEGORY>" and rng.random() < EMPTY_REGIONS * per_task:
        empty = _empty_region(scene, rng)
        if empty is not None:
            made = [*made[: per_task - 1], Example(task, empty, text(scene, task, NOTHING))]
    return made


def text_in_region(scene: Scene, rng: np.random.Generator, task: str, per_task: int) -> list[Example]:
    """Boxes with the text inside."""
    made = []
    for number in rng.permutation(len(scene.labels))[:per_task]:
        label = scene.labels[int(number)]
        low, high = label.quad.min(0), label.quad.max(0)
        pad = 0.15 * min(high - low)
        box = np.concatenate([low - pad, high + pad]).astype(np.float32)
        made.append(Example(task, _moved(rng, box, scene), text(scene, task, label.text)))
    bare = [i for i in some(rng, scene, 99) if i not in {label.carrier for label in scene.labels}]
    if bare and len(made) < per_task and rng.random() < EMPTY_READS:
        made.append(Example(task, _moved(rng, scene.objects[bare[0]].box, scene), text(scene, task, "")))
    return made


def some(rng: np.random.Generator, scene: Scene, count: int) -> list[int]:
    """Up to `count` objects whose box means no other object."""
    clear = [i for i in range(len(scene.objects)) if _own_box(scene, i)]
    return [int(i) for i in rng.permutation(clear)[:count]]


def _own_box(scene: Scene, index: int) -> bool:
    return all(
        _overlap(scene.objects[index].box, other.box) < 0.5 for j, other in enumerate(scene.objects) if j != index
    )


def _overlap(a: Float32Array, b: Float32Array) -> float:
    """Intersection over union of two boxes."""
    shared = float(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod())
    return shared / max(1e-9, float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared)


def _moved(rng: np.random.Generator, box: Float32Array, scene: Scene) -> Box:
    """A box as somebody may have drawn it, inside the picture."""
    width, height = scene.size
    side = np.tile(box[2:] - box[:2], 2)
    x1, y1, x2, y2 = box + rng.uniform(-JITTER, JITTER, 4) * side
    return (max(0.0, float(x1)), max(0.0, float(y1)), min(float(width), float(x2)), min(float(height), float(y2)))


def _empty_region(scene: Scene, rng: np.random.Generator) -> Box | None:
    """A box that touches no object, or None if none was found."""
    width, height = scene.size
    for _ in range(10):
        w, h = rng.uniform(0.1, 0.25, 2) * (width, height)
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        box = np.array([x, y, x + w, y + h], np.float32)
        if all(_overlap(box, thing.box) == 0 for thing in scene.objects):
            return (float(x), float(y), float(x + w), float(y + h))
    return None
