"""What is measured of answers that are boxes: detection, grounding, referring."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from florence_edge.geometry import Float32Array
from florence_edge.results import Detections

from .answers import detections_in
from .detection import (
    THRESHOLDS,
    Matched,
    Scene,
    average_precision,
    average_recall,
    match,
    pooled,
    without_scores,
)
from .overlap import box_iou
from .reading import bare
from .resampling import Float64Array, mean, ratio
from .section import Scored, Section

FIFTY, SEVENTY_FIVE = slice(0, 1), slice(5, 6)
"""Places of IoU 0.5 and 0.75 among `THRESHOLDS`."""


def detection(section: Section) -> None:
    """Mean average precision over classes with the model's scores, what those are worth, and a table per class."""
    scenes = _scenes(section)
    matched = match(scenes)
    classes, objects = list(matched.values()), _objects(matched.values())
    constant = average_precision(list(match(without_scores(scenes)).values()))
    real = average_precision(classes)
    section.add("mAP", real, objects, paper="COCO val2017 mAP")
    section.add("mAP50", average_precision(classes, thresholds=FIFTY), objects)
    section.add("mAP75", average_precision(classes, thresholds=SEVENTY_FIVE), objects)
    section.add("AP gain over constant scores", lambda weights: real(weights) - constant(weights), objects)
    _calibration(section, pooled(classes))
    _per_class(section, matched)
    section.quality = _f1(pooled(classes), len(scenes))


def described(section: Section) -> None:
    """Average precision of boxes whose label is right, all labels in one list; refusal of what is not there."""
    scenes = _scenes(section)
    everything = pooled(list(match(scenes).values()))
    objects = int(everything.objects.sum())
    section.add("AP", average_precision([everything]), objects)
    section.add("AP50", average_precision([everything], thresholds=FIFTY), objects)
    _calibration(section, everything)
    section.quality = _f1(everything, len(scenes))
    absent = np.array([not len(scene.truth) for scene in scenes])
    if absent.any():
        silent = [
            not answer.error and not len(scene.found) for answer, scene in zip(section.answers, scenes, strict=True)
        ]
        refused = np.where(absent, np.array(silent, np.float64), np.nan)
        section.add("nothing found where nothing is", mean(refused), int(absent.sum()))


def proposals(section: Section) -> None:
    """Average precision and recall of boxes whatever they are called."""
    scenes = _scenes(section)
    matched = list(match(scenes, agnostic=True).values())
    objects = _objects(matched)
    section.add("AP", average_precision(matched), objects)
    section.add("AP50", average_precision(matched, thresholds=FIFTY), objects)
    section.add("AR", average_recall(matched), objects)
    _calibration(section, pooled(matched))
    section.quality = _f1(pooled(matched), len(scenes))


def grounding(section: Section) -> None:
    """R@1: the best-scored box of a phrase overlaps one of its own with IoU >= 0.5 (any-box protocol).

    Of captions that are one expression for one object, the best box of the whole answer counts, whatever part of the
    expression the model wrote before it: the accuracy of referring expression comprehension.
    """
    pairs = [(detections_in(answer.truths[0]), detections_in(answer.found)) for answer in section.answers]
    hits = [_phrase_hits(truth, found) for truth, found in pairs]
    single = np.array([len(truth) == 1 for truth, _ in pairs])
    phrases = np.array([len(found) for found in hits], np.float64)
    right = np.array([sum(found) for found in hits], np.float64)

    section.add("R@1", ratio(right, phrases), int(phrases.sum()), paper="Flickr30k R@1")
    if single.any():
        referred = [_best_hits(found.boxes, found.scores, truth.boxes) for truth, found in pairs]
        accuracy = np.where(single, np.array(referred, np.float64), np.nan)
        section.add("accuracy@0.5, one expression", mean(accuracy), int(single.sum()), paper="RefCOCO val/A/B")
    section.quality = right / np.maximum(phrases, 1)


def _scenes(section: Section) -> list[Scene]:
    return [Scene(detections_in(a.truths[0]), detections_in(a.found), a.record.crowds) for a in section.answers]


def _objects(matched: Iterable[Matched]) -> int:
    return sum(int(item.objects.sum()) for item in matched)


def _phrase_hits(truth: Detections, found: Detections) -> list[bool]:
    """For every phrase of the truth, whether its best box is right."""
    mine = np.array([bare(label) for label in found.labels])
    theirs = np.array([bare(label) for label in truth.labels])
    hits = []
    for phrase in dict.fromkeys(theirs.tolist()):
        places = np.flatnonzero(mine == phrase)
        hits.append(_best_hits(found.boxes[places], found.scores[places], truth.boxes[theirs == phrase]))
    return hits


def _best_hits(boxes: Float32Array, scores: Float32Array, truth: Float32Array) -> bool:
    """Whether the best-scored box, the first of equals or where no score is known, overlaps a true one."""
    if not len(boxes):
        return False
    best = int(np.argmax(np.nan_to_num(scores, nan=-1.0)))
    return bool((box_iou(boxes[best : best + 1], truth) >= THRESHOLDS[0]).any())


def _calibration(section: Section, matched: Matched) -> None:
    counted = ~matched.ignored[0]
    scores, right = matched.scores[counted].astype(np.float64), matched.right[0][counted].astype(np.float64)
    section.add_calibration("ECE at IoU 0.5", Scored(scores, right, matched.answers[counted]))


def _f1(matched: Matched, answers: int) -> Float64Array:
    """Harmonic mean of precision and recall of every answer at IoU 0.5; 1 where there is nothing and nothing found."""
    counted = ~matched.ignored[0]
    hits = np.bincount(matched.answers, matched.right[0] & counted, minlength=answers)
    both = np.bincount(matched.answers, counted, minlength=answers) + matched.objects
    f1: Float64Array = np.where(both > 0, 2 * hits / np.maximum(both, 1), 1.0)
    return f1


def _per_class(section: Section, matched: dict[str, Matched]) -> None:
    rows: list[tuple[str, tuple[float | None, ...]]] = []
    ones = np.ones(len(section.answers))
    for name, item in matched.items():
        statistics = (average_precision([item]), average_precision([item], thresholds=FIFTY), average_recall([item]))
        values = [None if np.isnan(value := statistic(ones)) else value for statistic in statistics]
        rows.append((name, (int(item.objects.sum()), len(item.scores), *values)))
    section.table("per class", ("objects", "found", "AP", "AP50", "AR"), rows)
