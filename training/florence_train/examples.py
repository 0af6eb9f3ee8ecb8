"""One question with its answer: the form that rendered scenes and files of annotations share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from florence_edge.results import Result
from florence_edge.tasks import NOTHING

__all__ = ["NOTHING", "Box", "Example", "Given", "as_box"]

Box = tuple[float, float, float, float]
Given = str | tuple[str, ...] | Box | None
"""A phrase, class names, a box (x1, y1, x2, y2) in pixels, or nothing."""


def as_box(corners: Iterable[float]) -> Box:
    """The four corners in an array or a list as plain numbers."""
    x1, y1, x2, y2 = map(float, corners)
    return x1, y1, x2, y2


@dataclass(frozen=True, eq=False)
class Example:
    """One question with its answer.

    `task` is an upstream token, `input` what it takes, `target` the answer as a result of the SDK in pixels of the
    image, scores NaN.
    """

    task: str
    input: Given
    target: Result
