"""Average precision as COCO defines it: pycocotools matches, this module adds up, so that images can be resampled.

Adding up follows `COCOeval.accumulate` (101 recall points, at most 100 detections per image and class): with all
weights 1 the values are COCOeval's own.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from florence_edge.errors import missing
from florence_edge.export import detections_to_coco
from florence_edge.geometry import BoolArray, Float32Array, ImageSize, Int64Array
from florence_edge.results import Detections

from .resampling import Float64Array, Statistic

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Detections per image and class that count."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One question about objects: what there is, what was found (with scores), and groups that do not count."""

    truth: Detections
    found: Detections
    crowds: Detections | None = None


@dataclass(frozen=True, eq=False)
class Matched:
    """The matches of one class.

    `scores` [N] and `answers` [N] are of the detections; `right` and `ignored` [T, N] say of each, at every threshold,
    whether it hits an object and whether it does not count. `objects` [A] counts the objects of every answer.
    """

    scores: Float32Array
    answers: Int64Array
    right: BoolArray
    ignored: BoolArray
    objects: Int64Array


def match(scenes: Sequence[Scene], *, agnostic: bool = False) -> dict[str, Matched]:
    """The matches of every class that occurs, by its name without regard to case; one class, "", when `agnostic`.

    Detections whose score is not known count as certain.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise missing("pycocotools", extra="eval", needed_for="average precision") from error
    named = {label for scene in scenes for label in _labels(scene)}
    names = [""] if agnostic or not named else sorted(named)
    ids = {name: number for number, name in enumerate(names, 1)}
    truth = COCO()
    truth.dataset = _dataset(scenes, ids, agnostic)
    found = [row for image, scene in enumerate(scenes, 1) for row in _rows(scene.found, image, ids, agnostic)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(found) if found else COCO(), "bbox")
        judge.params.imgIds = list(range(1, len(scenes) + 1))
        judge.params.catIds = list(ids.values())
        judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], ["all"]
        judge.params.maxDets = [MOST]
        judge.evaluate()
    per_class = [judge.evalImgs[start : start + len(scenes)] for start in range(0, len(judge.evalImgs), len(scenes))]
    return {name: _gather(rows) for name, rows in zip(names, per_class, strict=True)}


def average_precision(matched: Sequence[Matched], *, thresholds: slice = slice(None)) -> Statistic:
    """Mean over classes and IoU thresholds of the average precision, as a statistic over answers.

    `thresholds` picks among `THRESHOLDS`. Classes without an object have no precision and do not count.
    """
    ordered = [_ordered(item) for item in matched]

    def statistic(weights: Float64Array) -> float:
        values = [_precision(item, weights, thresholds) for item in ordered]
        known = [value for value in values if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")

    return statistic


def average_recall(matched: Sequence[Matched]) -> Statistic:
    """Mean over classes and thresholds of the share of objects that were found, whatever the scores."""

    def statistic(weights: Float64Array) -> float:
        values = []
        for item in matched:
            objects = float((item.objects * weights).sum())
            if objects > 0:
                hits = ((item.right & ~item.ignored) * weights[item.answers]).sum(axis=1)
                values.append(float((hits / objects).mean()))
        return float(np.mean(values)) if values else float("nan")

    return statistic


def pooled(matched: Sequence[Matched]) -> Matched:
    """The matches of all classes as those of one, for labels too many and too rare to be classes."""
    return Matched(
        np.concatenate([item.scores for item in matched]),
        np.concatenate([item.answers for item in matched]),
        np.concatenate([item.right for item in matched], axis=1),
        np.concatenate([item.ignored for item in matched], axis=1),
        np.sum([item.objects for item in matched], axis=0, dtype=np.int64),
    )


def without_scores(scenes: Sequence[Scene]) -> list[Scene]:
    """The same with every score 1, as a model without scores would have it."""
    return [
        replace(scene, found=replace(scene.found, scores=np.ones(len(scene.found), np.float32))) for scene in scenes
    ]


def _precision(item: Matched, weights: Float64Array, thresholds: slice) -> float:
    objects = float((item.objects * weights).sum())
    if objects <= 0:
        return float("nan")
    weight = weights[item.answers]
    right, ignored = item.right[thresholds], item.ignored[thresholds]
    hits = np.cumsum((right & ~ignored) * weight, axis=1)
    misses = np.cumsum((~right & ~ignored) * weight, axis=1)
    precision = hits / (hits + misses + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.0
    for row, recall in zip(precision, hits / objects, strict=True):
        places = np.searchsorted(recall, RECALLS, side="left")
        total += float(row[places[places < len(row)]].sum()) / len(RECALLS)
    return total / len(right)


def _ordered(item: Matched) -> Matched:
    """The detections by falling score; equal ones stay in the order of the answers, as in COCOeval."""
    order = np.argsort(-item.scores, kind="mergesort")
    return Matched(item.scores[order], item.answers[order], item.right[:, order], item.ignored[:, order], item.objects)


def _gather(rows: Sequence[Any]) -> Matched:
    """One class over all images, from what COCOeval keeps per image (None where there is neither truth nor answer)."""
    shape = (len(THRESHOLDS), 0)
    kept = [(answer, row) for answer, row in enumerate(rows) if row is not None]
    counts = [len(row["dtScores"]) for _, row in kept]
    objects = np.zeros(len(rows), np.int64)
    for answer, row in kept:
        objects[answer] = int((np.asarray(row["gtIgnore"]) == 0).sum())
    matches = np.concatenate([np.zeros(shape), *(row["dtMatches"] for _, row in kept)], axis=1)
    ignored = np.concatenate([np.zeros(shape), *(row["dtIgnore"] for _, row in kept)], axis=1)
    return Matched(
        np.array([score for _, row in kept for score in row["dtScores"]], np.float32),
        np.repeat(np.array([answer for answer, _ in kept], np.int64), counts),
        matches > 0,
        ignored > 0,
        objects,
    )


def _labels(scene: Scene) -> set[str]:
    crowds = scene.crowds.labels if scene.crowds is not None else ()
    return {label.casefold() for label in (*scene.truth.labels, *scene.found.labels, *crowds)}


def _rows(result: Detections, image: int, ids: dict[str, int], agnostic: bool) -> list[dict[str, Any]]:
    rows = detections_to_coco(result, image)
    for row, label in zip(rows, result.labels, strict=True):
        row["category_id"] = ids["" if agnostic else label.casefold()]
        row.setdefault("score", 1.0)
    return rows


def _dataset(scenes: Sequence[Scene], ids: dict[str, int], agnostic: bool) -> dict[str, Any]:
    """The truth in COCO's form."""
    annotations: list[dict[str, Any]] = []
    for image, scene in enumerate(scenes, 1):
        for crowd, result in ((0, scene.truth), (1, scene.crowds)):
            for row in _rows(result, image, ids, agnostic) if result is not None else ():
                area = row["bbox"][2] * row["bbox"][3]
                annotations.append({**row, "id": len(annotations) + 1, "iscrowd": crowd, "area": area})
    sizes: list[ImageSize] = [scene.truth.size for scene in scenes]
    return {
        "info": {},
        "images": [{"id": i, "width": size.width, "height": size.height} for i, size in enumerate(sizes, 1)],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
        "annotations": annotations,
    }
