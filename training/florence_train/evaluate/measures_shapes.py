"""What is measured of answers that are masks, or lines of text with their corners."""

from __future__ import annotations

from typing import cast

import numpy as np

from florence_edge.export import rings_to_mask
from florence_edge.geometry import Float32Array, ImageSize
from florence_edge.results import Polygons, Quads

from .answers import Answer
from .overlap import mask_iou, mask_of
from .resampling import mean, ratio
from .section import Section

_OVERLAP = 0.5
"""IoU from which a line counts as found (ICDAR 2015), and a mask as right."""


def masks(section: Section) -> None:
    """Mean IoU of the masks, and how many reach 0.5."""
    overlaps = np.array([_mask_overlap(answer) for answer in section.answers])
    paper = "RefCOCO RES mIoU" if section.task == "<REFERRING_EXPRESSION_SEGMENTATION>" else ""
    section.add("mIoU", mean(overlaps), len(overlaps), paper=paper)
    section.add("P@0.5", mean(overlaps >= _OVERLAP), len(overlaps))
    section.quality = overlaps


def lines(section: Section) -> None:
    """F1 of lines by place alone, and by place and text (end to end, case counts)."""
    places, ends, totals = np.array([_lines(answer) for answer in section.answers], np.float64).T
    count = int(sum(len(answer.truths[0]) for answer in section.answers))
    section.add("line F1", ratio(2 * places, totals), count)
    section.add("line and text F1", ratio(2 * ends, totals), count)
    section.quality = np.where(totals > 0, 2 * ends / np.maximum(totals, 1), 1.0)


def _mask_overlap(answer: Answer) -> float:
    found = mask_of(cast(Polygons, answer.found))
    return max(mask_iou(found, mask_of(cast(Polygons, truth))) for truth in answer.truths)


def _lines(answer: Answer) -> tuple[int, int, int]:
    """Lines found in place, those of them with the right text, and true and found lines together."""
    truth, found = answer.truths[0], answer.found
    if not isinstance(truth, Quads) or not isinstance(found, Quads):
        return 0, 0, len(truth) + len(found)
    free = set(range(len(truth)))
    placed = right = 0
    for index in np.argsort(-np.nan_to_num(found.scores), kind="mergesort").tolist():
        overlaps = {other: _quad_overlap(found.quads[index], truth.quads[other], truth.size) for other in free}
        fits = [other for other in free if overlaps[other] >= _OVERLAP]
        if fits:
            # Of several lines in one place the one that says the same is meant.
            best = max(fits, key=lambda other: (truth.texts[other] == found.texts[index], overlaps[other]))
            free.remove(best)
            placed += 1
            right += truth.texts[best] == found.texts[index]
    return placed, right, len(truth) + len(found)


def _quad_overlap(a: Float32Array, b: Float32Array, size: ImageSize) -> float:
    if (a.min(axis=0) > b.max(axis=0)).any() or (b.min(axis=0) > a.max(axis=0)).any():
        return 0.0
    both = rings_to_mask([a], size), rings_to_mask([b], size)
    return mask_iou(*both) if both[0].any() and both[1].any() else 0.0
