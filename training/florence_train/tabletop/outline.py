"""Masks to polygons with few points.

A polygon runs clockwise on the picture, starts at its topmost, then leftmost point, and its points divide its border
into equal parts: where the next point lies follows from those before, which the corners that a simplified outline keeps
do not. A mask in several pieces gives
several polygons, largest first. A hole becomes part of its polygon by a cut of no width from the outer border to the
hole and back, so that filling the polygon leaves the hole open without any other convention.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import imaging

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

POINTS = 16
"""Points of one polygon, holes aside."""

MOST_RINGS = 4
_LEAST_SHARE = 0.02
_HOLE_SHARE = 0.03
_HOLE_POINTS = 8


def extent(mask: BoolArray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what a mask [H, W] marks (at least one sample), right and bottom exclusive."""
    rows = np.flatnonzero(mask.any(1))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(0))
    return int(columns[0]), top, int(columns[-1]) + 1, bottom


def polygons(mask: BoolArray, samples: int, *, offset: tuple[int, int] = (0, 0)) -> tuple[Float32Array, ...]:
    """Polygons [K, 2] in pixels of a mask with `samples` per pixel and axis, its corner at sample `offset`."""
    # Borders run through pixel centres; doubling the mask first halves what they cut off.
    doubled = np.repeat(np.repeat(mask, 2, 0), 2, 1)
    borders = [(points.astype(np.float64), parent) for points, parent in imaging.contours(doubled)]
    if not borders:
        return ()
    areas = [abs(_area(points)) for points, _ in borders]
    total = max(areas)
    chosen = sorted((i for i, (_, parent) in enumerate(borders) if parent < 0), key=lambda i: -areas[i])
    rings = []
    for i in chosen[:MOST_RINGS]:
        if areas[i] < _LEAST_SHARE * total or len(borders[i][0]) < 3:
            continue
        ring = _few(borders[i][0], POINTS)
        holes = [j for j, (_, parent) in enumerate(borders) if parent == i and areas[j] > _HOLE_SHARE * areas[i]]
        for j in sorted(holes, key=lambda j: -areas[j])[:1]:
            ring = _with_hole(ring, _few(borders[j][0], _HOLE_POINTS))
        rings.append(((ring + 0.5) / 2 + offset) / samples)
    return tuple(np.asarray(ring, np.float32) for ring in rings)


def _area(points: Float64Array) -> float:
    """Signed area; positive for a polygon that runs clockwise on a picture."""
    x, y = points.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _few(points: Float64Array, count: int) -> Float64Array:
    """`count` points that divide the border into parts of equal length, clockwise, from its topmost leftmost point."""
    # Without its steps from sample to sample the border has the length that the eye sees.
    simple = np.asarray(imaging.simplify(points, 0.8), np.float64)
    border = simple if len(simple) >= 3 else points
    if _area(border) < 0:
        border = border[::-1]
    border = np.roll(border, -int(np.lexsort((border[:, 0], border[:, 1]))[0]), 0)
    closed = np.concatenate([border, border[:1]])
    along = np.concatenate([[0.0], np.hypot(*np.diff(closed, axis=0).T).cumsum()])
    wanted = np.arange(count) * along[-1] / count
    return np.stack([np.interp(wanted, along, closed[:, axis]) for axis in (0, 1)], axis=1)


def _with_hole(outer: Float64Array, hole: Float64Array) -> Float64Array:
    """One polygon that goes around `outer`, crosses to `hole` at the closest pair of points, around it, and back."""
    gaps = ((outer[:, None] - hole[None]) ** 2).sum(-1)
    i, j = np.unravel_index(int(gaps.argmin()), gaps.shape)
    inner = np.roll(hole[::-1], -(len(hole) - 1 - int(j)), 0)
    return np.concatenate([outer[: i + 1], inner, inner[:1], outer[i:]])
