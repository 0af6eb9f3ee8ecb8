"""Keeps some of the regions of an answer: those with wanted labels, with a high enough score, the best few.

The model is not told about any of this; a region that is left out was generated all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from .errors import InputError
from .geometry import BoolArray, Float32Array, Int64Array
from .results import Detections, Polygons, Quads

Regions = TypeVar("Regions", bound=Detections | Polygons | Quads)

_LABEL_FIELD = {Detections: "labels", Polygons: "labels", Quads: "texts"}
_ITEM_FIELDS = {
    Detections: ("scores", "boxes", "labels", "class_ids", "polygons"),
    Polygons: ("scores", "polygons", "labels"),
    Quads: ("scores", "quads", "texts"),
}


@dataclass(frozen=True)
class Selection:
    """Which regions to keep; every test that is given must be passed.

    `allowed_labels` compares whole labels (texts, for lines of text) without regard to case and surrounding spaces.
    `min_score` keeps scores of at least that much, 0..1; an unknown score (NaN) does not pass. `max_regions` keeps the
    best scored ones; equal scores go to the earlier region, unknown scores come last. Raises `InputError` for a limit
    outside its range.
    """

    allowed_labels: str | Sequence[str] | None = None
    min_score: float | None = None
    max_regions: int | None = None

    def __post_init__(self) -> None:
        least, most, allowed = self.min_score, self.max_regions, self.allowed_labels
        if least is not None and not (isinstance(least, Real) and 0 <= least <= 1):
            raise InputError(f"min_score is {least!r}; it must lie in 0..1")
        if most is not None and not (isinstance(most, Integral) and most >= 0):
            raise InputError(f"max_regions is {most!r}; it must be 0 or more, a whole number")
        if allowed is not None and not isinstance(allowed, str):
            names = tuple(allowed) if isinstance(allowed, Iterable) else (allowed,)
            if not all(isinstance(name, str) for name in names):
                raise InputError(f"allowed_labels is {allowed!r:.80}; it must be a label or several of them")
            object.__setattr__(self, "allowed_labels", names)

    def of(self, result: Regions) -> Regions:
        """The result with the kept regions only, in the order the model wrote them; class ids keep their meaning."""
        keep = np.ones(len(result), dtype=bool)
        if self.allowed_labels is not None:
            keep &= _labelled(getattr(result, _LABEL_FIELD[type(result)]), self.allowed_labels)
        if self.min_score is not None:
            keep &= result.scores >= self.min_score
        if self.max_regions is not None:
            keep &= _best(result.scores, keep, self.max_regions)
        return take(result, keep)


def select(
    result: Regions,
    *,
    allowed_labels: str | Sequence[str] | None = None,
    min_score: float | None = None,
    max_regions: int | None = None,
) -> Regions:
    """The result with some of its regions; the arguments are told by `Selection`."""
    return Selection(allowed_labels, min_score, max_regions).of(result)


def take(result: Regions, keep: BoolArray) -> Regions:
    """The regions that `keep` [N] marks, in the order the model wrote them; class ids keep their meaning."""
    if keep.all():
        return result
    kept = np.flatnonzero(keep)
    return replace(result, **{name: _pick(getattr(result, name), kept) for name in _ITEM_FIELDS[type(result)]})


def _labelled(labels: Sequence[str], allowed: str | Sequence[str]) -> BoolArray:
    """Which of the labels are among the allowed ones."""
    wanted = {text.strip().casefold() for text in ([allowed] if isinstance(allowed, str) else allowed)}
    return np.array([label.strip().casefold() in wanted for label in labels], dtype=bool)


def _best(scores: Float32Array, candidates: BoolArray, count: int) -> BoolArray:
    """The `count` best scored of the candidates."""
    ranked = np.argsort(np.where(np.isnan(scores), np.inf, -scores), kind="stable")
    best = np.zeros(len(scores), dtype=bool)
    best[ranked[candidates[ranked]][:count]] = True
    return best


def _pick(values: Any, kept: Int64Array) -> Any:
    """Rows of an array or entries of a tuple; an empty tuple (no polygons at all) stays empty."""
    if isinstance(values, np.ndarray):
        return values[kept]
    return tuple(values[i] for i in kept) if values else values
