"""Structured truth as the answer a model should give: the inverse of the parser, for training targets.

Answers hold `<loc_i>` and marker tokens and no `<s>` or `</s>`. Coordinates outside the image fall into its outermost
bins. Truth that no answer can express (an empty label, an inverted box, a ring of two points) is an `InputError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from ._pieces import reserved_in
from ._regions import POINT, SMALLEST_RING
from .errors import InputError
from .locations import quantise, spell
from .results import Detections, Polygons, Quads, Result, Text
from .tasks import Grammar, Task

Rings = Sequence[npt.ArrayLike]
"""The rings of one mask, [M, 2] x y in pixels each, M >= 3."""


def format_text(text: str) -> str:
    """A caption or other plain text."""
    reserved = reserved_in(text)
    if reserved:
        raise InputError(f"a text must not hold the model's own tokens; got {', '.join(reserved)} in {text!r}")
    return text.strip()


def format_boxes(boxes: npt.ArrayLike, labels: Sequence[str] | None, size: Sequence[int]) -> str:
    """Boxes [N, 4] x1 y1 x2 y2 in pixels with their labels, or as bare proposals where `labels` is None.

    Neighbouring boxes of one label share it: `car<loc>x8` is two cars.
    """
    bins = quantise(_ordered(boxes), size).tolist()
    if labels is None:
        return "".join(map(spell, bins))
    return _labelled(labels, [spell(box) for box in bins])


def format_phrase_boxes(phrases: Sequence[tuple[str, npt.ArrayLike]], size: Sequence[int]) -> str:
    """Phrases in the order of the caption, each with its one or more boxes [N, 4] x1 y1 x2 y2 in pixels."""
    spelled = [format_boxes(boxes, None, size) for _, boxes in phrases]
    if not all(spelled):
        raise InputError("every phrase needs a box; leave phrases out that have none")
    return "".join(_label(phrase) + boxes for (phrase, _), boxes in zip(phrases, spelled, strict=True))


def format_quads(quads: npt.ArrayLike, texts: Sequence[str], size: Sequence[int]) -> str:
    """Lines of text with their corners [N, 4, 2] x y in pixels, clockwise from where the text begins."""
    corners = np.asarray(quads, np.float32)
    if corners.size and corners.shape[1:] != (4, 2):
        raise InputError(f"quads are [N, 4, 2]; got {list(corners.shape)}")
    bins = quantise(corners.reshape(-1, 8), size).tolist()
    if len(bins) != len(texts):
        raise InputError(f"every quad needs a text; got {len(bins)} quads and {len(texts)} texts")
    return "".join(_label(text) + spell(quad) for text, quad in zip(texts, bins, strict=True))


def format_polygons(polygons: Sequence[Rings], size: Sequence[int], labels: Sequence[str] | None = None) -> str:
    """Masks as rings: bare for one mask without a label, else `<poly>...</poly>` each.

    Neighbouring masks of one label share it.
    """
    masks = ["<sep>".join(_ring(ring, size) for ring in rings) for rings in polygons]
    if not all(masks):
        raise InputError("every mask needs a ring; leave masks out that have none")
    if labels is None and len(masks) == 1:
        return masks[0]
    wrapped = [f"<poly>{mask}</poly>" for mask in masks]
    return "".join(wrapped) if labels is None else _labelled(labels, wrapped)


def format_answer(task: Task, result: Result) -> str:
    """The answer that parses to `result`, whatever its task: what turns predictions or truth into training targets.

    Masks of the polygon tasks are written without their labels, which say what was asked for.
    """
    if isinstance(result, Text):
        return format_text(result.text)
    if isinstance(result, Quads):
        return format_quads(result.quads, result.texts, result.size)
    if isinstance(result, Polygons):
        return format_polygons(result.polygons, result.size)
    if isinstance(result, Detections):
        if task.grammar is Grammar.BOXES:
            return format_boxes(result.boxes, None, result.size)
        return _labelled(result.labels, _shapes(result))
    raise InputError(f"{type(result).__name__} is no result of a task")


def _shapes(result: Detections) -> list[str]:
    """Each detection as its polygon where it has one, else as its box."""
    boxes = [spell(box) for box in quantise(_ordered(result.boxes), result.size).tolist()]
    for index, rings in enumerate(result.polygons):
        if rings:
            boxes[index] = f"<poly>{format_polygons([rings], result.size)}</poly>"
    return boxes


def _labelled(labels: Sequence[str], shapes: Sequence[str]) -> str:
    """Every run of equal labels once, before the shapes that share it."""
    if len(labels) != len(shapes):
        raise InputError(f"every region needs a label; got {len(shapes)} regions and {len(labels)} labels")
    pairs = [(_label(label), shape) for label, shape in zip(labels, shapes, strict=True)]
    # A box directly behind a mask of the same label would read as a part of it, so their runs are kept apart.
    runs = groupby(pairs, key=lambda pair: (pair[0], pair[1].startswith("<poly>")))
    return "".join(label + "".join(shape for _, shape in run) for (label, _), run in runs)


def _label(text: str) -> str:
    label = format_text(text)
    if not label:
        raise InputError(f"a label must hold more than white space; got {text!r}")
    return label


def _ordered(boxes: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Boxes [N, 4] float32, once none is inverted."""
    array = np.asarray(boxes, np.float32)
    if array.size == 0:
        return np.zeros((0, 4), np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise InputError(f"boxes are [N, 4] x1 y1 x2 y2; got {list(array.shape)}")
    inverted = np.flatnonzero((array[:, :2] > array[:, 2:]).any(axis=1))
    if len(inverted):
        raise InputError(f"boxes are x1 y1 x2 y2 with x1 <= x2 and y1 <= y2; inverted: rows {inverted.tolist()}")
    return array


def _ring(points: npt.ArrayLike, size: Sequence[int]) -> str:
    array = np.asarray(points, np.float32)
    if array.ndim != 2 or array.shape[1] != POINT or array.size < SMALLEST_RING:
        raise InputError(f"a ring is [M, 2] x y with 3 points or more; got {list(array.shape)}")
    return spell(quantise(array, size).reshape(-1).tolist())
