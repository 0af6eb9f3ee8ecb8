"""`select`: which regions stay, against a plain Python reading of its rules."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_edge import Detections, ImageSize, Polygons, Quads, select
from florence_edge.errors import InputError

SCORES = st.lists(st.one_of(st.floats(0, 1, width=32), st.just(math.nan)), max_size=8)


def detections(scores: list[float], labels: tuple[str, ...] | None = None) -> Detections:
    count = len(scores)
    return Detections(
        "<OD>",
        ImageSize(10, 10),
        np.array(scores, np.float32),
        boxes=np.arange(4 * count, dtype=np.float32).reshape(count, 4),
        labels=labels or tuple(f"label {i}" for i in range(count)),
        class_ids=np.arange(count),
        polygons=tuple((np.full((3, 2), i, np.float32),) for i in range(count)),
    )


@given(SCORES, st.integers(0, 9), st.one_of(st.none(), st.floats(0, 1, width=32)))
def test_the_best_regions_above_the_score_stay_in_their_order(scores: list[float], limit: int, least: float) -> None:
    kept = select(detections(scores), max_regions=limit, min_score=least)
    passing = [i for i, score in enumerate(scores) if least is None or score >= least]
    ranked = sorted(passing, key=lambda i: (math.isnan(scores[i]), -scores[i] if scores[i] == scores[i] else 0, i))
    expected = sorted(ranked[:limit])
    assert kept.class_ids.tolist() == expected
    assert kept.labels == tuple(f"label {i}" for i in expected)
    np.testing.assert_array_equal(kept.boxes, detections(scores).boxes[expected])
    assert [rings[0][0, 0] for rings in kept.polygons] == expected
    assert len(kept) == len(expected)


def test_labels_are_compared_whole_and_without_regard_to_case() -> None:
    found = detections([0.5] * 4, ("Cup", "cup holder", " CUP ", "STRASSE"))
    assert select(found, allowed_labels="cup").labels == ("Cup", " CUP ")
    assert select(found, allowed_labels=["straße", "nothing"]).labels == ("STRASSE",)
    assert select(found, allowed_labels=[]).boxes.shape == (0, 4)


def test_no_condition_keeps_the_result_itself() -> None:
    found = detections([0.5, 0.6])
    assert select(found) is found
    assert select(found, max_regions=2, min_score=0.5) is found


def test_detections_without_polygons_stay_without_them() -> None:
    assert select(replace(detections([0.5, 0.6]), polygons=()), max_regions=1).polygons == ()


def test_lines_of_text_are_selected_by_their_text_and_masks_by_score() -> None:
    size, scores = ImageSize(10, 10), np.array([0.2, 0.9], np.float32)
    quads = Quads("<OCR_WITH_REGION>", size, scores, quads=np.zeros((2, 4, 2), np.float32), texts=("Exit", "Open"))
    assert select(quads, allowed_labels="open").texts == ("Open",)
    rings = tuple((np.full((3, 2), i, np.float32),) for i in range(2))
    masks = select(Polygons("<REGION_TO_SEGMENTATION>", size, scores, polygons=rings, labels=("a", "b")), min_score=0.5)
    assert masks.labels == ("b",)
    assert masks.boxes().tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize("wrong", [{"min_score": -0.1}, {"min_score": math.nan}, {"max_regions": -1}], ids=str)
def test_limits_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must"):
        select(detections([0.5]), **wrong)  # type: ignore[arg-type]  # one dictionary for limits of two types
