"""Average precision against COCOeval, overlaps and calibration against independent code, intervals against theory."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from florence_edge.geometry import ImageSize
from florence_edge.results import Detections, Polygons
from florence_train.evaluate.calibration import calibration_error
from florence_train.evaluate.detection import (
    Scene,
    average_precision,
    average_recall,
    match,
    pooled,
    without_scores,
)
from florence_train.evaluate.overlap import box_iou, mask_iou, mask_of
from florence_train.evaluate.resampling import Estimate, Resampling, mean, ratio

SIZE = ImageSize(640, 480)
CLASSES = ("cube", "ball", "cone")


def detections(boxes: Any, labels: Any, scores: Any = None) -> Detections:
    array = np.asarray(boxes, np.float32).reshape(-1, 4)
    known = np.full(len(array), np.nan) if scores is None else np.asarray(scores)
    ids = np.array([CLASSES.index(label) for label in labels], np.int64)
    return Detections(
        "<OD>", SIZE, known.astype(np.float32), boxes=array, labels=tuple(labels), class_ids=ids, classes=CLASSES
    )


def random_scene(rng: np.random.Generator, *, crowds: bool = False, decimals: int = 2) -> Scene:
    """Objects, most of them found a little beside their place, and some that are not there; rounded scores tie."""
    count = int(rng.integers(0, 7))
    corner = rng.uniform(0, 300, (count, 2))
    truth = np.concatenate([corner, corner + rng.uniform(20, 160, (count, 2))], axis=1)
    labels = rng.choice(CLASSES, count).tolist()
    kept = rng.random(count) < 0.8
    moved = truth[kept] + rng.normal(0, 8, (int(kept.sum()), 4))
    extra = rng.uniform(0, 200, (int(rng.integers(0, 4)), 2))
    found = np.concatenate([moved, np.concatenate([extra, extra + 50], axis=1)])
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    found_labels = [label for label, keep in zip(labels, kept, strict=True) if keep] + ["ball"] * len(extra)
    groups = detections([[100, 100, 400, 400]], ["ball"]) if crowds and rng.random() < 0.5 else None
    scores = rng.random(len(found)).round(decimals)
    return Scene(detections(truth, labels), detections(found, found_labels, scores), groups)


def coco_stats(scenes: list[Scene]) -> np.ndarray[Any, Any]:
    """COCOeval from its own JSON forms, written here independently."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, scene in enumerate(scenes, 1):
        for crowd, result in ((0, scene.truth), (1, scene.crowds)):
            if result is None:
                continue
            for box, label in zip(result.boxes.astype(float), result.labels, strict=True):
                bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image,
                        "category_id": CLASSES.index(label) + 1,
                        "bbox": bbox,
                        "area": bbox[2] * bbox[3],
                        "iscrowd": crowd,
                    }
                )
        found = scene.found
        for box, label, score in zip(found.boxes.astype(float), found.labels, found.scores, strict=True):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            category = CLASSES.index(label) + 1
            results.append({"image_id": image, "category_id": category, "bbox": bbox, "score": float(score)})
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(1, len(scenes) + 1)],
        "categories": [{"id": place + 1, "name": name} for place, name in enumerate(CLASSES)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    stats: np.ndarray[Any, Any] = judge.stats
    return stats


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_cocos(seed: int, crowds: bool) -> None:
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, crowds=crowds) for _ in range(25)]
    matched = list(match(scenes).values())
    ones = np.ones(len(scenes))
    expected = coco_stats(scenes)
    assert 0.05 < expected[0] < 0.95
    assert average_precision(matched)(ones) == pytest.approx(expected[0], abs=1e-9)
    assert average_precision(matched, thresholds=slice(0, 1))(ones) == pytest.approx(expected[1], abs=1e-9)
    assert average_precision(matched, thresholds=slice(5, 6))(ones) == pytest.approx(expected[2], abs=1e-9)
    assert average_recall(matched)(ones) == pytest.approx(expected[8], abs=1e-9)


@pytest.mark.parametrize(("rank", "recall"), [(99, 1.0), (100, 0.0)])
def test_of_many_detections_the_best_hundred_count(rank: int, recall: float) -> None:
    boxes = np.tile([200, 200, 250, 250], (101, 1))
    boxes[rank] = [10, 10, 60, 60]
    found = detections(boxes, ["ball"] * 101, np.linspace(0.9, 0.1, 101))
    scenes = [Scene(detections([[10, 10, 60, 60]], ["ball"]), found)]
    matched, expected = list(match(scenes).values()), coco_stats(scenes)
    assert average_precision(matched)(np.ones(1)) == pytest.approx(expected[0], abs=1e-9)
    assert average_recall(matched)(np.ones(1)) == expected[8] == recall


def test_weights_count_as_repeated_images() -> None:
    rng = np.random.default_rng(7)
    scenes = [random_scene(rng, decimals=12) for _ in range(12)]
    weights = rng.integers(0, 4, len(scenes))
    repeated = [scene for scene, times in zip(scenes, weights, strict=True) for _ in range(times)]
    matched, expected = list(match(scenes).values()), coco_stats(repeated)
    assert average_precision(matched)(weights.astype(np.float64)) == pytest.approx(expected[0], abs=1e-9)
    assert average_recall(matched)(weights.astype(np.float64)) == pytest.approx(expected[8], abs=1e-9)


def test_scores_that_rank_well_gain_and_scores_that_rank_badly_lose() -> None:
    truth = detections([[10, 10, 60, 60]], ["cube"])
    boxes = [[200, 200, 250, 250], [10, 10, 60, 60]]
    good = [Scene(truth, detections(boxes, ["cube", "cube"], [0.1, 0.9]))]
    bad = [Scene(truth, detections(boxes, ["cube", "cube"], [0.9, 0.1]))]
    one = np.ones(1)
    assert average_precision(list(match(good).values()))(one) == pytest.approx(1.0)
    assert average_precision(list(match(bad).values()))(one) == pytest.approx(0.5)
    assert average_precision(list(match(without_scores(good)).values()))(one) == pytest.approx(0.5)


def test_labels_are_compared_without_case_and_unknown_ones_cost_their_class_only() -> None:
    truth = replace(detections([[10, 10, 60, 60]], ["cube"]), labels=("Tiefstraße",))
    found = Detections(
        "<OD>",
        SIZE,
        np.array([0.9, 0.8], np.float32),
        boxes=np.array([[10, 10, 60, 60], [0, 0, 5, 5]], np.float32),
        labels=("TIEFSTRASSE", "unicorn"),
        class_ids=np.zeros(2, np.int64),
    )
    matched = match([Scene(truth, found)])
    assert set(matched) == {"tiefstrasse", "unicorn"}
    assert average_precision(list(matched.values()))(np.ones(1)) == pytest.approx(1.0)
    assert average_recall(list(matched.values()))(np.ones(1)) == 1.0
    assert average_precision([pooled(list(matched.values()))])(np.ones(1)) == pytest.approx(1.0)
    assert int(pooled(list(matched.values())).right[0].sum()) == 1


def test_a_detection_without_a_score_counts_as_certain() -> None:
    truth = detections([[10, 10, 60, 60]], ["cube"])
    found = detections([[200, 200, 250, 250], [10, 10, 60, 60]], ["cube", "cube"], [0.9, np.nan])
    assert average_precision(list(match([Scene(truth, found)]).values()))(np.ones(1)) == pytest.approx(1.0)


def test_nothing_asked_and_nothing_found_has_no_precision() -> None:
    empty = Scene(detections([], []), detections([], [], []))
    assert np.isnan(average_precision(list(match([empty]).values()))(np.ones(1)))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6))
def test_box_overlap_is_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 50, (8, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1).astype(np.float32)
    a, b = boxes[:3], boxes[3:]
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
    np.testing.assert_allclose(box_iou(a, b), coco_mask.iou(xywh[:3], xywh[3:], [0] * 5), atol=1e-12)


def test_boxes_without_area_overlap_nothing() -> None:
    point = np.array([[5, 5, 5, 5]], np.float32)
    with np.errstate(invalid="raise"):
        assert box_iou(point, point).tolist() == [[0.0]]


def test_mask_overlap_of_rectangles_is_their_box_overlap() -> None:
    def rectangle(x1: float, y1: float, x2: float, y2: float) -> Polygons:
        ring = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)
        return Polygons(
            "<REFERRING_EXPRESSION_SEGMENTATION>", SIZE, np.ones(1, np.float32), polygons=((ring,),), labels=("",)
        )

    a, b = rectangle(10, 10, 50, 60), rectangle(30, 20, 90, 70)
    expected = box_iou(np.array([[10, 10, 50, 60]], np.float32), np.array([[30, 20, 90, 70]], np.float32))[0, 0]
    assert mask_iou(mask_of(a), mask_of(b)) == pytest.approx(float(expected))
    assert mask_iou(mask_of(a), mask_of(a)) == 1.0
    (ring,), (other,) = a.polygons[0], rectangle(100, 100, 140, 150).polygons[0]
    for pieces in (((ring, other),), ((ring,), (other,))):
        both = replace(a, polygons=pieces, labels=("",) * len(pieces))
        assert mask_iou(mask_of(both), mask_of(a)) == 0.5, "the second piece is as large as the first"
    nothing = np.zeros((4, 4), np.bool_)
    assert mask_iou(nothing, nothing) == 1.0


def test_calibration_error_by_hand() -> None:
    # Bin 0.9..1: two scores 0.95, one right, gap 0.45; bin 0.2..0.3: one score 0.25, right, gap 0.75.
    statistic = calibration_error([0.95, 0.95, 0.25], [1, 0, 1], np.array([0, 0, 1]))
    assert statistic(np.ones(2)) == pytest.approx((2 * 0.45 + 0.75) / 3)
    assert statistic(np.array([1.0, 0.0])) == pytest.approx(0.45)
    assert calibration_error([1.0, 1.0], [1, 1], np.array([0, 1]))(np.ones(2)) == 0.0
    certain = calibration_error([1.0, 0.9], [0, 1], np.array([0, 1]))(np.ones(2))
    assert certain == pytest.approx(0.95 - 0.5), "1 belongs to the bin that ends with it"
    assert np.isnan(statistic(np.zeros(2)))


def test_calibration_error_is_the_mean_gap_of_ten_equal_bins() -> None:
    rng = np.random.default_rng(3)
    scores, right = rng.random(300), rng.integers(0, 2, 300)
    bins = np.digitize(scores, np.linspace(0, 1, 11)[1:-1])
    gaps = [
        (bins == place).mean() * abs(right[bins == place].mean() - scores[bins == place].mean()) for place in range(10)
    ]
    assert calibration_error(scores, right, np.arange(300))(np.ones(300)) == pytest.approx(sum(gaps))


def test_intervals_of_a_mean_are_those_of_the_normal_law() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = Resampling(range(400), resamples=2000).estimate(mean(values))
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)
    narrow = Resampling(range(400), resamples=2000, confidence=0.5).estimate(mean(values))
    assert narrow.high - narrow.low == pytest.approx(2 * half * 0.6745 / 1.96, rel=0.1)


def test_answers_about_one_image_are_drawn_together() -> None:
    values = np.repeat(np.random.default_rng(1).normal(size=50), 20)
    together = Resampling(np.repeat(np.arange(50), 20).tolist(), resamples=500).estimate(mean(values))
    apart = Resampling(range(1000), resamples=500).estimate(mean(values))
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_intervals_are_drawn_anew_from_their_seed_and_leave_out_what_is_not_defined() -> None:
    values = np.random.default_rng(2).normal(size=30)
    first, again, other = (Resampling(range(30), resamples=50, seed=seed).estimate(mean(values)) for seed in (1, 1, 2))
    assert first == again != other
    # A quarter of the draws hold the second image alone, which has no value.
    assert Resampling([0, 1], resamples=50).estimate(mean([3.0, np.nan])) == Estimate(3.0, 3.0, 3.0)


def test_a_mean_leaves_out_what_has_no_value() -> None:
    assert mean([1.0, np.nan, 3.0])(np.ones(3)) == 2.0
    assert np.isnan(mean([np.nan])(np.ones(1)))
    assert ratio([1, 3], [2, 2])(np.array([1.0, 0.0])) == 0.5
    assert np.isnan(ratio([0.0], [0.0])(np.ones(1)))
    assert np.isnan(Resampling([0], resamples=0).estimate(mean([1.0])).low)
