"""Results as text for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from florence_edge.results import Detections, Polygons, Quads, Result, Text

from .output import table

_BOX = ("x1", "y1", "x2", "y2")


def show(result: Result) -> str:
    """The text, or a table with one row per region; coordinates in pixels of the original image."""
    for kind, render in _RENDERERS.items():
        if isinstance(result, kind):
            text: str = render(result)
            return text
    return result.raw


def summary(result: Result) -> str:
    """How much was found, how long it took, and whether the answer was cut short."""
    count = "1 text" if isinstance(result, Text) else f"{len(result)} region{'s' * (len(result) != 1)}"
    parts = [count, f"{result.tokens} tokens", f"{sum(result.timings_ms.values()):.0f} ms"]
    if result.finish == "length":
        parts.append("cut short at the token limit")
    return ", ".join(parts)


def content(result: Result, width: int = 72) -> str:
    """What was found, on one line of at most `width` characters: the text, or the labels with their number."""
    if isinstance(result, Text):
        return short(" ".join(result.text.split()), width)
    labels = Counter(result.texts if isinstance(result, Quads) else getattr(result, "labels", ()))
    names = ", ".join((label or "region") + (f" x{count}" if count > 1 else "") for label, count in labels.items())
    return short(names or "nothing", width)


def short(text: str, width: int) -> str:
    """At most `width` characters that can be printed."""
    printable = "".join(character if character.isprintable() else "·" for character in text)
    return printable if len(printable) <= width else f"{printable[: width - 1]}…"


def score(value: float) -> str:
    """A score with two digits, or a dash where it is not known."""
    return "-" if np.isnan(value) else f"{value:.2f}"


def _text(result: Text) -> str:
    return f"{result.text}  [{score(result.score)}]"


def _detections(result: Detections) -> str:
    rows = zip(result.scores, result.labels, result.boxes, strict=True)
    return _regions([(score(value), label, *_pixels(box)) for value, label, box in rows], "label")


def _polygons(result: Polygons) -> str:
    rows = zip(result.scores, result.labels, result.boxes(), result.polygons, strict=True)
    return _regions(
        [(score(value), label, *_pixels(box), sum(map(len, rings))) for value, label, box, rings in rows],
        "label",
        "points",
    )


def _quads(result: Quads) -> str:
    rows = zip(result.scores, result.texts, result.boxes(), strict=True)
    return _regions([(score(value), text, *_pixels(box)) for value, text, box in rows], "text")


def _regions(rows: list[tuple[Any, ...]], label: str, *more: str) -> str:
    if not rows:
        return "nothing found"
    header = ("score", label, *_BOX, *more)
    return table(rows, header=header, right=[column for column in range(len(header)) if column != 1])


def _pixels(box: Any) -> list[str]:
    return [f"{value:.1f}" for value in box]


_RENDERERS: dict[type[Result], Callable[[Any], str]] = {
    Text: _text,
    Detections: _detections,
    Polygons: _polygons,
    Quads: _quads,
}
