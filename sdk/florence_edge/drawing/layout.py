"""Where labels go: near what they name, inside the picture, off each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from florence_edge.geometry import AnyArray

_ON_LABEL = 1e6
_ON_ANCHOR = 0.3
_AWAY = 0.6


class Rect(NamedTuple):
    """A rectangle of whole pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Pixels across."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels down."""
        return self.bottom - self.top


def place(
    sizes: Sequence[tuple[int, int]], anchors: Sequence[Rect], bounds: tuple[int, int], *, avoid: Sequence[Rect]
) -> list[Rect]:
    """One rectangle of each size (width, height), near its anchor and inside `bounds` (width, height) if it fits.

    Labels are placed in turn, each where it costs least, per pixel: `_ON_LABEL` (more than everything else together)
    for covering an earlier label, 1 for covering anything of `avoid` but the anchor, `_ON_ANCHOR` for covering that,
    and `_AWAY` for every label's height of distance from it. Among equals the order is above, inside, below, beside,
    ever further up and down.
    """
    placed = np.empty((len(sizes), 4), dtype=np.int64)
    obstacles = np.array(avoid, dtype=np.int64).reshape(-1, 4)
    for index, (size, anchor) in enumerate(zip(sizes, anchors, strict=True)):
        area = size[0] * size[1]
        candidates = _candidates(size, anchor, bounds)
        gaps = np.maximum(anchor.top - candidates[:, 3], candidates[:, 1] - anchor.bottom).clip(0)
        others = obstacles[(obstacles != anchor).any(axis=1)]
        cost = _ON_LABEL * _overlap(candidates, placed[:index]) + _overlap(candidates, others).clip(max=area)
        cost += _ON_ANCHOR * _overlap(candidates, np.array([anchor])) + _AWAY * size[0] * gaps
        placed[index] = candidates[int(np.argmin(cost))]
    return [Rect(*row) for row in placed.tolist()]


def collide(rects: Sequence[Rect], others: Sequence[Rect]) -> bool:
    """Whether any two rectangles share a pixel, or any of them one with `others`."""
    first, second = (np.array(group, dtype=np.int64).reshape(-1, 4) for group in (rects, others))
    return bool(
        _overlap(first, second).any() or (_overlap(first, first) > np.prod(first[:, 2:] - first[:, :2], axis=1)).any()
    )


def _candidates(size: tuple[int, int], anchor: Rect, bounds: tuple[int, int]) -> AnyArray:
    """Positions worth trying, best first, each moved into the picture: [C, 4] int64."""
    width, height = size
    right = anchor.right - width
    corners = [
        (anchor.left, anchor.top - height),
        (anchor.left, anchor.top),
        (anchor.left, anchor.bottom),
        (right, anchor.top - height),
        (right, anchor.top),
        (right, anchor.bottom),
        (anchor.left, anchor.bottom - height),
        (right, anchor.bottom - height),
        (anchor.right, anchor.top),
        (anchor.left - width, anchor.top),
    ]
    for step in range(1, 13):
        for side in (anchor.left, right):
            corners += [(side, anchor.top - height - step * height), (side, anchor.bottom + step * height)]
            corners += [(side, anchor.top + step * height)]
    placed = np.array(corners, dtype=np.int64)
    placed[:, 0] = placed[:, 0].clip(0, max(bounds[0] - width, 0))
    placed[:, 1] = placed[:, 1].clip(0, max(bounds[1] - height, 0))
    return np.concatenate([placed, placed + np.array([width, height])], axis=1)


def _overlap(candidates: AnyArray, others: AnyArray) -> AnyArray:
    """The area each candidate [C, 4] shares with all the others [M, 4] together: [C] int64."""
    low = np.maximum(candidates[:, None, :2], others[None, :, :2])
    high = np.minimum(candidates[:, None, 2:], others[None, :, 2:])
    return np.asarray((high - low).clip(0).prod(axis=2).sum(axis=1))
