"""Moves every point of an example: boxes, polygons, quads, and the box that is asked about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from florence_edge.geometry import Float32Array
from florence_edge.results import Detections, Polygons, Quads, Result
from florence_edge.tasks import InputKind, find
from florence_train.examples import Example, as_box

Move = Callable[[Float32Array], Float32Array]
"""From points [P, 2] in pixels to where they lie afterwards."""


def moved(example: Example, move: Move) -> Example:
    """The example with every point of its input and its answer moved, in one fixed order."""
    given = example.input
    if find(example.task).input is InputKind.BOX:
        given = as_box(moved_boxes(np.asarray(given, np.float32).reshape(1, 4), move)[0])
    return replace(example, input=given, target=moved_result(example.target, move))


def moved_result(target: Result, move: Move) -> Result:
    """The answer with every point moved; a text stays as it is."""
    if isinstance(target, Detections):
        rings = tuple(tuple(move(ring) for ring in each) for each in target.polygons)
        return replace(target, boxes=moved_boxes(target.boxes, move), polygons=rings)
    if isinstance(target, Polygons):
        return replace(target, polygons=tuple(tuple(move(ring) for ring in rings) for rings in target.polygons))
    if isinstance(target, Quads):
        return replace(target, quads=move(target.quads.reshape(-1, 2)).reshape(-1, 4, 2))
    return target


def moved_boxes(boxes: Float32Array, move: Move) -> Float32Array:
    """The boxes [N, 4] around the moved corners."""
    corners = move(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)).reshape(-1, 4, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
