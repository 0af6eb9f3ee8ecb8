"""How much boxes and masks overlap."""

from __future__ import annotations

import numpy as np

from florence_edge.export import rings_to_mask
from florence_edge.geometry import BoolArray, Float32Array
from florence_edge.results import Polygons

from .resampling import Float64Array


def box_iou(a: Float32Array, b: Float32Array) -> Float64Array:
    """Intersection over union of boxes [N, 4] and [M, 4] x1 y1 x2 y2: [N, M] float64; 0 for boxes without area."""
    first, second = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = sides.clip(0).prod(axis=-1)
    union = _area(first) + _area(second) - shared
    iou: Float64Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def mask_of(result: Polygons) -> BoolArray:
    """The union of all masks of an answer, [height, width]."""
    return rings_to_mask([ring for rings in result.polygons for ring in rings], result.size)


def mask_iou(a: BoolArray, b: BoolArray) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _area(boxes: Float64Array) -> Float64Array:
    area: Float64Array = (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)
    return area
