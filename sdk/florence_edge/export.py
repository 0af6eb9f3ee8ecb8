"""Answers in other libraries' forms: boolean masks, `supervision.Detections`, COCO results.

Only the `*_to_supervision` functions need a library beside NumPy, and import it when they are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._reading import class_ids
from .errors import InputError, missing
from .geometry import BoolArray, Float32Array, ImageSize, Int64Array
from .results import Detections, Polygons, Quads

Rings = Sequence[Float32Array]


def rings_to_mask(rings: Rings, size: ImageSize) -> BoolArray:
    """The union of rings ([M, 2] float32 x y, pixels) as a mask [height, width] bool.

    Pixel (column, row) has its centre at (column + 0.5, row + 0.5) and belongs to a ring when that centre lies inside
    by the even-odd rule. A centre exactly on an edge belongs to the ring on its right or below, so that rings which
    share an edge share no pixel and leave none out.
    """
    mask = np.zeros((size.height, size.width), dtype=np.bool_)
    for ring in rings:
        _fill(mask, np.asarray(ring, dtype=np.float64))
    return mask


def polygons_to_masks(result: Polygons) -> BoolArray:
    """All instances as masks [N, height, width] bool; see `rings_to_mask` for the rule."""
    masks = [rings_to_mask(rings, result.size) for rings in result.polygons]
    return np.array(masks, dtype=np.bool_).reshape(len(masks), result.size.height, result.size.width)


def detections_to_supervision(result: Detections) -> Any:
    """`supervision.Detections` with `class_id`, `confidence` (None where no score is known) and `data["class_name"]`.

    Masks are set when every item came as a polygon. Raises `DependencyError` without supervision.
    """
    masks = None
    if len(result) and len(result.polygons) == len(result) and all(result.polygons):
        masks = np.stack([rings_to_mask(rings, result.size) for rings in result.polygons])
    return _supervision(result.boxes, result.scores, result.class_ids, result.labels, mask=masks)


def polygons_to_supervision(result: Polygons) -> Any:
    """`supervision.Detections` with masks and their boxes; classes are the distinct labels in order of appearance."""
    return _supervision(
        result.boxes(), result.scores, class_ids(result.labels), result.labels, mask=polygons_to_masks(result)
    )


def quads_to_supervision(result: Quads) -> Any:
    """`supervision.Detections` with the boxes around the quads, and the quads [N, 4, 2] under `data["quads"]`.

    The key in `data` for the texts is "class_name", which is what supervision's annotators show.
    """
    ids, data = class_ids(result.texts), {"quads": result.quads}
    return _supervision(result.boxes(), result.scores, ids, result.texts, data=data)


def detections_to_coco(
    result: Detections, image_id: int, *, category_ids: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """One COCO result per item: `image_id`, `category_id`, `bbox` [x, y, width, height] and `score`.

    `category_ids` maps labels to COCO's category ids; a label it lacks is an `InputError`. Without it `class_ids` are
    used as they are. Items that came as polygons carry `segmentation`, a list of flat rings; items whose score is not
    known have no `score`.
    """
    if category_ids is None:
        categories = result.class_ids.tolist()
    else:
        unknown = sorted(set(result.labels) - category_ids.keys())
        if unknown:
            raise InputError(f"no category id for the labels {unknown}; category_ids knows {sorted(category_ids)}")
        categories = [category_ids[label] for label in result.labels]
    rows: list[dict[str, Any]] = []
    for index, (left, top, right, bottom) in enumerate(result.boxes.tolist()):
        row = {"image_id": image_id, "category_id": categories[index], "bbox": [left, top, right - left, bottom - top]}
        if not np.isnan(result.scores[index]):
            row["score"] = float(result.scores[index])
        if result.polygons and result.polygons[index]:
            row["segmentation"] = [ring.reshape(-1).tolist() for ring in result.polygons[index]]
        rows.append(row)
    return rows


def _fill(mask: BoolArray, ring: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    """Sets the pixels whose centres lie in a ring.

    Every edge crosses the centre lines of some rows. A ring is closed, so each row has an even number of crossings;
    sorted, the first and second, third and fourth, ... bound the spans that lie inside.
    """
    height, width = mask.shape
    start, end = ring, np.roll(ring, -1, axis=0)
    down = (start[:, 1] <= end[:, 1])[:, None]
    upper, lower = np.where(down, start, end), np.where(down, end, start)
    first = np.ceil(upper[:, 1] - 0.5).clip(0, height).astype(np.int64)
    count = np.ceil(lower[:, 1] - 0.5).clip(0, height).astype(np.int64) - first
    edge = np.repeat(np.arange(len(ring)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (lower[edge, 0] - upper[edge, 0]) / (lower[edge, 1] - upper[edge, 1])
    crossing = upper[edge, 0] + slope * (row + 0.5 - upper[edge, 1])
    column = np.ceil(crossing - 0.5).clip(0, width).astype(np.int64)
    order = np.lexsort((column, row))
    bounds = column[order].reshape(-1, 2)
    for line, (left, right) in zip(row[order][::2].tolist(), bounds.tolist(), strict=True):
        mask[line, left:right] = True


def _supervision(
    boxes: Float32Array,
    scores: Float32Array,
    class_ids: Int64Array,
    labels: Sequence[str],
    *,
    mask: BoolArray | None = None,
    data: Mapping[str, Any] | None = None,
) -> Any:
    """`supervision.Detections` of arrays that are copied, so that its in-place edits leave the result alone."""
    try:
        from supervision import Detections as Target
    except ImportError as error:
        raise missing("supervision", extra="supervision", needed_for="to_supervision()") from error
    return Target(
        xyxy=boxes.astype(np.float32),
        mask=mask,
        confidence=None if len(scores) and np.isnan(scores).all() else scores.astype(np.float32),
        class_id=class_ids.astype(np.int64),
        data={"class_name": np.array(labels, dtype=np.str_), **(data or {})},
    )
