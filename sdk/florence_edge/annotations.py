"""Answers as the labels that detectors are trained on: lines of YOLO, annotations of COCO.

It knows regions and text formats; which frames are labelled and where files go is told by `stream.datasets`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .geometry import Float32Array, ImageSize
from .results import Detections, Polygons, Quads

YoloKind = Literal["detect", "segment", "obb"]

UNNAMED, LINE_OF_TEXT = "object", "text"
"""The classes of a region proposal and of a line of text, whose words are no class."""

_NOT_PRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


@dataclass(frozen=True, eq=False)
class Region:
    """One labelled region, in pixels of the original image.

    `box` is x1 y1 x2 y2 with an area above 0; `rings` its outline ([M, 2] float32 each, together one instance), none
    where the model gave a box. `score` may be NaN (not known). `text` is what a line of text reads.
    """

    label: str
    score: float
    box: tuple[float, ...]
    rings: tuple[Float32Array, ...] = ()
    text: str = ""


def regions(result: Detections | Polygons | Quads) -> list[Region]:
    """The regions of an answer that have an area; proposals are called "object", lines of text "text"."""
    rows: list[Region] = _READERS[type(result)](result)
    return [row for row in rows if row.box[2] > row.box[0] and row.box[3] > row.box[1]]


def yolo_line(region: Region, size: ImageSize, class_id: int, *, kind: YoloKind = "detect") -> str:
    """One line of an image's label file: the class, then coordinates as parts of the width and the height.

    "detect" writes centre, width and height of the box. "segment" writes the outline; the parts of one instance are
    joined at their closest corners by a seam without width, since YOLO has one polygon per instance, and a box is
    written as its corners. "obb" writes four corners: a quad as it is, another outline as the smallest rectangle around
    it.
    """
    points = _POINTS[kind](region)
    scaled = np.clip(points / np.array(size, dtype=np.float64), 0.0, 1.0)
    if kind == "detect":
        scaled = np.stack([scaled.mean(axis=0), scaled[1] - scaled[0]])
    return " ".join([str(class_id), *(f"{value:.6f}" for value in scaled.reshape(-1).tolist())])


def yolo_yaml(names: Sequence[str]) -> str:
    """The `data.yaml` of pictures under `images/` and their labels under `labels/`, relative to its own folder.

    All pictures are for training and for validation alike; a split is for whoever knows which pictures belong together.
    """
    rows = "".join(f"  {number}: {_quoted(name)}\n" for number, name in enumerate(names))
    return f"train: images\nval: images\nnames:{' {}' if not names else ''}\n{rows}"


def yolo_names(text: str) -> list[str]:
    """The class names in what `yolo_yaml` wrote."""
    return [json.loads(name) for name in re.findall(r'^  \d+: (".*")$', text, re.MULTILINE)]


def coco_annotation(region: Region) -> dict[str, Any]:
    """A COCO annotation without its ids: `bbox` [x, y, width, height], `area`, `iscrowd`, `segmentation`, `score`.

    `segmentation` is a list of flat rings, empty for a box. A line of text has `utf8_string`, as in COCO-Text. `score`
    is an addition that readers ignore; it is absent where it is not known.
    """
    left, top, right, bottom = region.box
    width, height = right - left, bottom - top
    row: dict[str, Any] = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
    row["segmentation"] = [ring.reshape(-1).tolist() for ring in region.rings]
    if region.rings:
        row["area"] = sum(_area(ring) for ring in region.rings)
    if region.text:
        row["utf8_string"] = region.text
    if not np.isnan(region.score):
        row["score"] = region.score
    return row


def smallest_rectangle(points: Float32Array) -> Float32Array:
    """The corners [4, 2] float32, in order, of the rectangle of least area around `points` [M, 2].

    One of its sides lies along a side of the convex hull, and every such side joins two of the points; so all pairs are
    tried.
    """
    exact = np.unique(np.asarray(points, dtype=np.float64), axis=0)
    first, second = np.triu_indices(len(exact), k=1)
    along = exact[second] - exact[first]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    ends = [(places.min(axis=1), places.max(axis=1)) for places in (along @ exact.T, across @ exact.T)]
    best = int(np.argmin((ends[0][1] - ends[0][0]) * (ends[1][1] - ends[1][0])))
    (low, high), (near, far) = ((side[0][best], side[1][best]) for side in ends)
    corners = [(low, near), (high, near), (high, far), (low, far)]
    return np.array([u * along[best] + v * across[best] for u, v in corners], dtype=np.float32)


def _detections(result: Detections) -> list[Region]:
    outlines = result.polygons or ((),) * len(result)
    rows = zip(result.labels, result.scores.tolist(), result.boxes.tolist(), outlines, strict=True)
    return [Region(label or UNNAMED, score, tuple(box), rings) for label, score, box, rings in rows]


def _polygons(result: Polygons) -> list[Region]:
    rows = zip(result.labels, result.scores.tolist(), result.boxes().tolist(), result.polygons, strict=True)
    return [Region(label or UNNAMED, score, tuple(box), rings) for label, score, box, rings in rows]


def _quads(result: Quads) -> list[Region]:
    rows = zip(result.scores.tolist(), result.boxes().tolist(), result.quads, result.texts, strict=True)
    return [Region(LINE_OF_TEXT, score, tuple(box), (quad,), text) for score, box, quad, text in rows]


_READERS: Mapping[type, Callable[[Any], list[Region]]] = {Detections: _detections, Polygons: _polygons, Quads: _quads}


def _ends(region: Region) -> Float32Array:
    """Upper left and lower right corner of the box."""
    return np.array(region.box, dtype=np.float32).reshape(2, 2)


def _outline(region: Region) -> Float32Array:
    """The outline as one ring."""
    if not region.rings:
        left, top, right, bottom = region.box
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float32)
    joined, *others = region.rings
    for ring in others:
        gaps = np.linalg.norm(joined[:, None] - ring[None], axis=2)
        here, there = np.unravel_index(int(gaps.argmin()), gaps.shape)
        detour = np.roll(ring, -int(there), axis=0)
        joined = np.concatenate([joined[: here + 1], detour, detour[:1], joined[here:]])
    return joined


def _corners(region: Region) -> Float32Array:
    """Four corners around the region."""
    outline = _outline(region)
    return outline if len(outline) == 4 else smallest_rectangle(outline)


_POINTS: Mapping[str, Callable[[Region], Float32Array]] = {"detect": _ends, "segment": _outline, "obb": _corners}


def _area(ring: Float32Array) -> float:
    """The area that a ring encloses, by the shoelace formula."""
    x, y = ring.astype(np.float64).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _quoted(text: str) -> str:
    """A string that JSON and YAML read alike: YAML forbids some characters as they are."""
    return _NOT_PRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))
