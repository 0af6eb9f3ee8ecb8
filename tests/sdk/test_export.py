"""Masks against OpenCV and pycocotools, and the way into supervision and COCO."""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from florence_edge.errors import DependencyError, InputError
from florence_edge.export import detections_to_coco, polygons_to_masks, rings_to_mask
from florence_edge.geometry import Float32Array, ImageSize
from florence_edge.results import Detections, Polygons, Quads

SIZE = ImageSize(31, 22)
SQUARE = np.array([(2, 3), (12, 3), (12, 9), (2, 9)], np.float32)


def detections(count: int = 3, **changes: Any) -> Detections:
    values: dict[str, Any] = {
        "task": "<OD>",
        "size": SIZE,
        "scores": np.linspace(0.9, 0.5, count, dtype=np.float32),
        "boxes": np.arange(count * 4, dtype=np.float32).reshape(count, 4),
        "labels": ("cup", "ball", "cup", "cone")[:count],
        "class_ids": np.array([0, 1, 0, 2][:count], np.int64),
    }
    return Detections(**{**values, **changes})


def polygons(*instances: tuple[Float32Array, ...], size: ImageSize = SIZE) -> Polygons:
    count = len(instances)
    scores = np.full(count, 0.5, np.float32)
    return Polygons(task="<RES>", size=size, scores=scores, polygons=instances, labels=("a", "b", "a", "c")[:count])


def random_ring(seed: int, size: ImageSize = SIZE, spill: float = 0.3) -> Float32Array:
    """Any polygon, mostly self-intersecting, reaching beyond the image; every third on whole and half pixels."""
    rng = np.random.default_rng(seed)
    ring = rng.uniform(-spill, 1 + spill, (int(rng.integers(3, 12)), 2)) * size
    return (np.round(ring * 2) / 2 if seed % 3 == 0 else ring).astype(np.float32)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_pixel_centres_decide(seed: int) -> None:
    ring = random_ring(seed)
    mask = rings_to_mask([ring], SIZE)
    for row in range(SIZE.height):
        for column in range(SIZE.width):
            distance = cv2.pointPolygonTest(ring[:, None], (column + 0.5, row + 0.5), True)
            if abs(distance) > 1e-3:
                assert mask[row, column] == (distance > 0), (row, column, distance)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # raised inside pycocotools
@pytest.mark.parametrize("seed", range(10))
def test_close_to_pycocotools_and_fill_poly(seed: int) -> None:
    """Their rules treat the boundary otherwise, so only pixels on it may differ."""
    size = ImageSize(200, 150)
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 14))
    radius = rng.uniform(20, 70, 14)
    ring = np.stack([100 + radius * np.cos(angles), 75 + radius * np.sin(angles)], axis=1).astype(np.float32)
    mask = rings_to_mask([ring], size)
    outline = cv2.polylines(np.zeros((150, 200), np.uint8), [np.round(ring - 0.5).astype(np.int32)], True, 1, 3)
    theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([ring.reshape(-1).tolist()], 150, 200)))
    filled = cv2.fillPoly(np.zeros((150, 200), np.uint8), [np.round(ring - 0.5).astype(np.int32)], 1)
    assert mask.sum() > 1000
    for other in (theirs, filled):
        np.testing.assert_array_equal(mask[outline == 0], other[outline == 0].astype(bool))
    assert abs(int(mask.sum()) - cv2.contourArea(ring)) < 0.5 * cv2.arcLength(ring, True)


@pytest.mark.parametrize("seed", range(20))
def test_rings_that_share_edges_share_no_pixel(seed: int) -> None:
    """A fan of triangles over the whole image covers each pixel once."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 1, 2) * SIZE
    if seed % 2:
        centre = np.floor(centre) + 0.5
    border = [
        (0, 0),
        (rng.uniform(0, 31), 0),
        (31, 0),
        (31, rng.uniform(0, 22)),
        (31, 22),
        (rng.integers(0, 31) + 0.5, 22),
        (0, 22),
    ]
    triangles = [np.array([centre, a, b], np.float32) for a, b in zip(border, border[1:] + border[:1], strict=True)]
    total = sum(rings_to_mask([triangle], SIZE).astype(int) for triangle in triangles)
    np.testing.assert_array_equal(total, np.ones((22, 31), int))


def test_rings_of_one_instance_are_united() -> None:
    shifted = SQUARE + 4
    masks = polygons_to_masks(polygons((SQUARE, shifted), (SQUARE,)))
    assert masks.shape == (2, 22, 31)
    assert masks.dtype == np.bool_
    np.testing.assert_array_equal(masks[0], rings_to_mask([SQUARE], SIZE) | rings_to_mask([shifted], SIZE))
    expected = np.zeros((22, 31), bool)
    expected[3:9, 2:12] = True
    np.testing.assert_array_equal(masks[1], expected)


def test_no_polygons_and_polygons_elsewhere() -> None:
    assert polygons().to_masks().shape == (0, 22, 31)
    for offset in (-50.0, 50.0):
        assert not polygons((SQUARE + np.float32(offset),)).to_masks().any()
    everything = np.array([(-9, -9), (99, -9), (99, 99), (-9, 99)], np.float32)
    assert polygons((everything,)).to_masks().all()


def test_detections_to_supervision() -> None:
    result = detections()
    target = result.to_supervision()
    np.testing.assert_array_equal(target.xyxy, result.boxes)
    np.testing.assert_array_equal(target.confidence, result.scores)
    np.testing.assert_array_equal(target.class_id, [0, 1, 0])
    assert list(target.data["class_name"]) == ["cup", "ball", "cup"]
    assert target.mask is None
    target.xyxy[:] = 0
    assert result.boxes[2, 3] == 11, "a copy"
    assert list(target[target.class_id == 1].data["class_name"]) == ["ball"]


def test_supervision_knows_no_score_where_there_is_none() -> None:
    assert detections(scores=np.full(3, np.nan, np.float32)).to_supervision().confidence is None
    some = detections(scores=np.array([0.5, np.nan, 0.7], np.float32)).to_supervision()
    np.testing.assert_array_equal(some.confidence, np.array([0.5, np.nan, 0.7], np.float32))


def test_empty_results_to_supervision() -> None:
    none = np.zeros(0, np.float32)
    quads = Quads(task="<OCR_WITH_REGION>", size=SIZE, scores=none, quads=np.zeros((0, 4, 2), np.float32), texts=())
    for target in (detections(0).to_supervision(), polygons().to_supervision(), quads.to_supervision()):
        assert len(target) == 0
        assert target.xyxy.shape == (0, 4)


def test_detections_as_polygons_have_masks_when_all_do() -> None:
    rings = ((SQUARE,), (SQUARE + 4,), (SQUARE + 8,))
    target = detections(polygons=rings).to_supervision()
    np.testing.assert_array_equal(target.mask, polygons(*rings).to_masks())
    assert detections(polygons=(*rings[:2], ())).to_supervision().mask is None


def test_polygons_to_supervision() -> None:
    result = polygons((SQUARE,), (SQUARE + 4,), (SQUARE + 2,))
    target = result.to_supervision()
    np.testing.assert_array_equal(target.mask, result.to_masks())
    np.testing.assert_array_equal(target.xyxy, result.boxes())
    np.testing.assert_array_equal(target.class_id, [0, 1, 0])
    assert target.area.tolist() == [60, 60, 60]


def test_quads_to_supervision() -> None:
    quads = np.array([[(2, 1), (10, 3), (9, 8), (1, 6)]], np.float32)
    result = Quads(
        task="<OCR_WITH_REGION>", size=SIZE, scores=np.array([0.5], np.float32), quads=quads, texts=("STOP",)
    )
    target = result.to_supervision()
    assert target.xyxy.tolist() == [[1, 1, 10, 8]]
    assert target.data["class_name"].tolist() == ["STOP"]
    np.testing.assert_array_equal(target.data["quads"], quads)


def test_without_supervision_the_error_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(DependencyError, match=r"pip install 'florence-edge\[supervision\]'"):
        detections().to_supervision()


def test_coco_tools_score_a_perfect_answer_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    boxes = np.array([(1, 2, 11, 9), (5, 5, 30, 20), (0, 0, 4, 4)], np.float32)
    rows = detections_to_coco(detections(boxes=boxes), 7, category_ids={"cup": 40, "ball": 41})
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 7, "width": 31, "height": 22}],
        "categories": [{"id": 40, "name": "cup"}, {"id": 41, "name": "ball"}],
        "annotations": [
            {"id": index + 1, "image_id": 7, "category_id": (40, 41, 40)[index], "bbox": [x, y, r - x, b - y]}
            | {"area": (r - x) * (b - y), "iscrowd": 0}
            for index, (x, y, r, b) in enumerate(boxes.tolist())
        ],
        "info": {},
    }
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_coco_rows() -> None:
    scores = np.array([0.5, np.nan], np.float32)
    rows = detections_to_coco(detections(2, scores=scores, polygons=((SQUARE,), ())), 3)
    assert rows == [
        {
            "image_id": 3,
            "category_id": 0,
            "bbox": [0.0, 1.0, 2.0, 2.0],
            "score": 0.5,
            "segmentation": [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]],
        },
        {"image_id": 3, "category_id": 1, "bbox": [4.0, 5.0, 2.0, 2.0]},
    ]
    with pytest.raises(InputError, match=r"labels \['ball'\]; category_ids knows \['cup'\]"):
        detections_to_coco(detections(), 3, category_ids={"cup": 1})
