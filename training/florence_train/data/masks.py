"""Segmentations of COCO as rings: polygons as they are, run-length masks by their outline."""

from __future__ import annotations

from typing import Any

import numpy as np

from florence_edge.errors import InputError, missing
from florence_edge.geometry import BoolArray, Float32Array, ImageSize


def rings_of(segmentation: Any, size: ImageSize) -> tuple[Float32Array, ...]:
    """Rings [M, 2] of a COCO segmentation: flat polygons, or RLE (`counts` as a list or a string).

    Raises `InputError` for anything else, and for RLE of another size than the image's.
    """
    if isinstance(segmentation, dict):
        from florence_train.tabletop.outline import polygons

        rings = polygons(_decoded(segmentation, size), 1)
        if not rings:
            raise InputError("the RLE mask is empty")
        return rings
    if not isinstance(segmentation, list) or not segmentation:
        raise InputError(f"a segmentation is a list of polygons or an RLE mask; got {segmentation!r:.80}")
    return tuple(_ring(polygon) for polygon in segmentation)


def _ring(polygon: Any) -> Float32Array:
    try:
        flat = np.array(polygon, np.float32)
    except (TypeError, ValueError):
        flat = np.zeros(0, np.float32)
    if flat.ndim != 1 or len(flat) < 6 or len(flat) % 2 or not np.isfinite(flat).all():
        raise InputError(f"a polygon is x y x y ... with 3 points or more; got {polygon!r:.80}")
    return flat.reshape(-1, 2)


def _decoded(segmentation: dict[str, Any], size: ImageSize) -> BoolArray:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise missing("pycocotools", extra="eval", needed_for="RLE masks") from error
    if segmentation.get("size") != [size.height, size.width]:
        given = segmentation.get("size")
        raise InputError(f"the RLE mask has size {given}, the image [{size.height}, {size.width}] (height, width)")
    counts = segmentation.get("counts")
    if isinstance(counts, list) and all(isinstance(count, int) and count >= 0 for count in counts):
        if sum(counts) != size.width * size.height:
            raise InputError(f"the counts of the RLE mask add up to {sum(counts)}, not to the image's pixels")
        segmentation = mask.frPyObjects(segmentation, size.height, size.width)
    elif not isinstance(counts, str):
        raise InputError(f"the counts of an RLE mask are a list of whole numbers or a string; got {counts!r:.80}")
    try:
        decoded: BoolArray = mask.decode(segmentation).astype(np.bool_)
    except Exception as error:  # pycocotools raises what its C code finds
        raise InputError(f"the RLE mask cannot be decoded: {error}") from error
    return decoded
