"""The SDK's results filled with a scene's truth instead of predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence_edge.geometry import Float32Array
from florence_edge.results import Detections, Polygons, Quads, Text
from florence_train.examples import NOTHING, Box, Example

from .scene import Scene

__all__ = ["NOTHING", "Box", "Example", "detections", "polygons", "quads", "text"]


def text(scene: Scene, task: str, words: str) -> Text:
    """A text as the answer."""
    return Text(task, scene.size, _unknown(1), text=words)


def detections(scene: Scene, task: str, indices: Sequence[int], labels: Sequence[str]) -> Detections:
    """The boxes of some objects, by index, with their labels."""
    boxes = np.array([scene.objects[i].box for i in indices], np.float32).reshape(-1, 4)
    classes = tuple(dict.fromkeys(labels))
    ids = np.array([classes.index(label) for label in labels], np.int64)
    return Detections(
        task, scene.size, _unknown(len(boxes)), boxes=boxes, labels=tuple(labels), class_ids=ids, classes=classes
    )


def polygons(scene: Scene, task: str, index: int) -> Polygons:
    """The mask of one object, without a label."""
    return Polygons(task, scene.size, _unknown(1), polygons=(scene.objects[index].polygons,), labels=("",))


def quads(scene: Scene, task: str) -> Quads:
    """All printed labels."""
    corners = np.array([label.quad for label in scene.labels], np.float32).reshape(-1, 4, 2)
    texts = tuple(label.text for label in scene.labels)
    return Quads(task, scene.size, _unknown(len(texts)), quads=corners, texts=texts)


def _unknown(count: int) -> Float32Array:
    return np.full(count, np.nan, np.float32)
