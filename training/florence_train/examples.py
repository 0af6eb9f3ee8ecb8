"""One question with its answer: the form that rendered scenes and files of annotations share."""

from __future__ import annotations

from dataclasses import dataclass

from florence_edge.results import Result

NOTHING = "No object detected."
"""The answer where there is nothing to find; a literal that the published models know too."""

Box = tuple[float, float, float, float]
Given = str | tuple[str, ...] | Box | None
"""A phrase, class names, a box (x1, y1, x2, y2) in pixels, or nothing."""


@dataclass(frozen=True, eq=False)
class Example:
    """One question with its answer.

    `task` is an upstream token, `input` what it takes, `target` the answer as a result of the SDK in pixels of the
    image, scores NaN.
    """

    task: str
    input: Given
    target: Result
