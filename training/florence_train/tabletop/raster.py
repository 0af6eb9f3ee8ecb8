"""Rasterises triangles with NumPy: span by span, all triangles of a scene at once, nearest one wins.

Per-triangle and per-row work is done in float64, so that two triangles sharing an edge neither overlap nor leave a gap;
per-pixel work in float32. Pixel (i, j) is sampled at its centre (i + 0.5, j + 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Fragments:
    """Every pixel of every triangle, hidden ones included: `pixel` (row * width + column), `triangle`, `value` [F]."""

    pixel: IntArray
    triangle: IntArray
    value: Float32Array


def rasterise(corners: Float64Array, values: Float64Array, width: int, height: int) -> Fragments:
    """Fragments of triangles `corners` [T, 3, 2] in pixels; `values` [T, 3] are linear on the picture."""
    top, bottom = corners[..., 1].min(1), corners[..., 1].max(1)
    first = np.clip(np.ceil(top - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(bottom - 0.5), 0, height).astype(np.int64)
    rows = np.maximum(last - first, 0)
    owner = np.repeat(np.arange(len(corners)), rows)
    line = np.arange(len(owner)) - np.repeat(np.cumsum(rows) - rows, rows) + first[owner]
    left, right = _span_ends(corners[owner], line + 0.5)
    begin = np.clip(np.ceil(left - 0.5), 0, width).astype(np.int64)
    lengths = np.maximum(np.clip(np.ceil(right - 0.5), 0, width).astype(np.int64) - begin, 0)
    slope_x, slope_y, offset = _plane(corners, values)
    start = slope_x[owner] * (begin + 0.5) + slope_y[owner] * (line + 0.5) + offset[owner]

    span = np.repeat(np.arange(len(owner)), lengths)
    step = np.arange(len(span)) - (np.cumsum(lengths) - lengths)[span]
    pixel = (line * width + begin)[span] + step
    triangle = owner[span]
    value = start.astype(np.float32)[span] + slope_x.astype(np.float32)[triangle] * step.astype(np.float32)
    return Fragments(pixel, triangle, value)


def _span_ends(corners: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Where the horizontal line at `y` [R] enters and leaves its triangle [R, 3, 2]."""
    left, right = np.full(len(y), np.inf), np.full(len(y), -np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        xa, ya, xb, yb = corners[:, i, 0], corners[:, i, 1], corners[:, j, 0], corners[:, j, 1]
        crosses = (ya <= y) != (yb <= y)
        x = xa + (y - ya) / np.where(crosses, yb - ya, 1.0) * (xb - xa)
        left = np.where(crosses, np.minimum(left, x), left)
        right = np.where(crosses, np.maximum(right, x), right)
    empty = left > right
    left[empty] = right[empty] = 0
    return left, right


def _plane(corners: Float64Array, values: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Coefficients [T] of value = a x + b y + c through the three corners."""
    (x1, y1), (x2, y2) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
    v1, v2 = values[:, 1] - values[:, 0], values[:, 2] - values[:, 0]
    area = x1 * y2 - x2 * y1
    area = np.where(np.abs(area) < 1e-12, 1e-12, area)
    a, b = (v1 * y2 - v2 * y1) / area, (v2 * x1 - v1 * x2) / area
    return a, b, values[:, 0] - a * corners[:, 0, 0] - b * corners[:, 0, 1]


def nearest(fragments: Fragments, pixels: int) -> tuple[IntArray, IntArray]:
    """The fragments with the largest value of their pixel: `pixel` and `triangle`, each pixel once."""
    best = np.zeros(pixels, np.float32)
    np.maximum.at(best, fragments.pixel, fragments.value)
    won = np.flatnonzero(fragments.value >= best[fragments.pixel])
    triangle = np.full(pixels, -1, np.int64)
    triangle[fragments.pixel[won]] = fragments.triangle[won]
    pixel = np.flatnonzero(triangle >= 0)
    return pixel, triangle[pixel]


def interpolate(
    corners: Float64Array,
    inverse_depth: Float64Array,
    attributes: Float32Array,
    at: tuple[IntArray, IntArray],
    width: int,
) -> Float32Array:
    """Perspective-correct attributes [N, K] at pixels `at = (pixel, triangle)`.

    `corners` [T, 3, 2], `inverse_depth` [T, 3], `attributes` [T, 3, K].
    """
    pixel, triangle = at
    ones = np.zeros_like(inverse_depth)
    weights = []
    for corner in (1, 2):
        ones[:] = 0
        ones[:, corner] = inverse_depth[:, corner]
        weights.append(np.stack(_plane(corners, ones), 1))
    total = np.stack(_plane(corners, inverse_depth), 1)
    plane = np.concatenate([*weights, total], 1).astype(np.float32)[triangle]
    x, y = (pixel % width + 0.5).astype(np.float32), (pixel // width + 0.5).astype(np.float32)
    second, third, whole = (plane[:, i] * x + plane[:, i + 1] * y + plane[:, i + 2] for i in (0, 3, 6))
    inverse = 1 / np.maximum(whole, 1e-6)
    edges = attributes[:, 1:] - attributes[:, :1]
    value = attributes[:, 0][triangle]
    value += (second * inverse)[:, None] * edges[:, 0][triangle]
    value += (third * inverse)[:, None] * edges[:, 1][triangle]
    return value
