"""Annotated regions as questions and answers: the SDK's results filled with truth, scores NaN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from florence_edge.errors import InputError
from florence_edge.geometry import Float32Array, ImageSize
from florence_edge.results import Detections, Polygons, Text
from florence_train.examples import NOTHING, Example, as_box

TOLERANCE = 1.0
"""Pixels that annotations may lie outside the image, for tools that count edges rather than pixels."""


@dataclass(frozen=True, eq=False)
class Region:
    """One annotated object: where in its file, its label, its box [4] x1 y1 x2 y2 and its rings [M, 2], in pixels."""

    place: str
    label: str
    box: Float32Array
    rings: tuple[Float32Array, ...] = ()


def about_regions(task: str, regions: Sequence[Region], size: ImageSize) -> list[tuple[str, Example]]:
    """The examples of one task about all annotated regions of an image, each with the place its truth comes from."""
    if task == "<REGION_TO_CATEGORY>":
        return [(region.place, Example(task, as_box(region.box), text(task, region.label, size))) for region in regions]
    if task == "<REGION_TO_SEGMENTATION>":
        return [(region.place, Example(task, as_box(region.box), mask(task, region, size))) for region in regions]
    if not regions:
        return [("", Example(task, None, text(task, NOTHING, size)))] if task == "<OD>" else []
    if task == "<OPEN_VOCABULARY_DETECTION>":
        names = tuple(dict.fromkeys(region.label for region in regions))
        return [("", Example(task, names, detections(task, regions, size)))]
    bare = task == "<REGION_PROPOSAL>"
    return [("", Example(task, None, detections(task, regions, size, labels=[""] * len(regions) if bare else None)))]


def text(task: str, words: str, size: ImageSize) -> Text:
    """A text as the answer."""
    return Text(task, size, unknown(1), text=words.strip())


def mask(task: str, region: Region, size: ImageSize) -> Polygons:
    """The mask of one region as the answer, without a label."""
    return Polygons(task, size, unknown(1), polygons=(region.rings,), labels=("",))


def detections(
    task: str, regions: Sequence[Region], size: ImageSize, *, labels: Sequence[str] | None = None
) -> Detections:
    """Labelled boxes as the answer."""
    names = tuple(region.label for region in regions) if labels is None else tuple(labels)
    classes = tuple(dict.fromkeys(names))
    return Detections(
        task,
        size,
        unknown(len(regions)),
        boxes=np.array([region.box for region in regions], np.float32).reshape(-1, 4),
        labels=names,
        class_ids=np.array([classes.index(name) for name in names], np.int64),
        classes=classes,
    )


def corners_of(bbox: Any, size: ImageSize) -> Float32Array:
    """The corners x1 y1 x2 y2 of a COCO box [x, y, width, height], held inside the image; `InputError` as `checked`."""
    try:
        x, y, width, height = (float(value) for value in bbox)
    except (TypeError, ValueError):
        raise InputError(f"a bbox is four numbers x, y, width, height; got {bbox!r:.80}") from None
    return checked((x, y, x + width, y + height), size)


def checked(box: Sequence[float], size: ImageSize) -> Float32Array:
    """The box x1 y1 x2 y2, held inside the image; `InputError` says what is wrong with it."""
    corners = np.array(box, np.float32)
    if corners.shape != (4,) or not np.isfinite(corners).all():
        raise InputError(f"a box is four finite numbers; got {list(box)}")
    if (corners[:2] >= corners[2:]).any():
        raise InputError(f"the box {corners.tolist()} (x1 y1 x2 y2) is empty or inverted")
    limit = np.array([size.width, size.height] * 2, np.float32)
    if (corners < -TOLERANCE).any() or (corners > limit + TOLERANCE).any():
        raise InputError(f"the box {corners.tolist()} lies outside the image of {size.width} x {size.height} pixels")
    return corners.clip(0, limit)


def unknown(count: int) -> Float32Array:
    """Scores of truth, which has none."""
    return np.full(count, np.nan, np.float32)
