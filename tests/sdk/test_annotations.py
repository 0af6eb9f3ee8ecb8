"""Labels to train detectors on, read back by supervision, pycocotools and OpenCV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from supervision.utils.file import read_yaml_file

from florence_edge.annotations import (
    YoloKind,
    coco_annotation,
    regions,
    smallest_rectangle,
    yolo_line,
    yolo_names,
    yolo_yaml,
)
from florence_edge.geometry import Float32Array, ImageSize
from florence_edge.results import Detections, Polygons, Quads

SIZE = ImageSize(320, 200)
NAMES = ["cup", "ball", "object", "text"]
IDS = {name: number for number, name in enumerate(NAMES)}
SQUARE = np.array([(20, 30), (120, 30), (120, 90), (20, 90)], np.float32)
SLANTED = np.array([(200, 20), (280, 60), (260, 100), (180, 60)], np.float32)

Labelled = Detections | Polygons | Quads


def detections(boxes: Any, labels: tuple[str, ...], **changes: Any) -> Detections:
    values: dict[str, Any] = {
        "task": "<OD>",
        "size": SIZE,
        "scores": np.linspace(0.9, 0.5, len(labels), dtype=np.float32),
        "boxes": np.asarray(boxes, np.float32).reshape(-1, 4),
        "labels": labels,
        "class_ids": np.zeros(len(labels), np.int64),
    }
    return Detections(**{**values, **changes})


def polygons(*instances: tuple[Float32Array, ...]) -> Polygons:
    scores = np.full(len(instances), 0.5, np.float32)
    labels = ("cup", "ball", "cup")[: len(instances)]
    return Polygons(task="<RES>", size=SIZE, scores=scores, polygons=instances, labels=labels)


def quads(*corners: Float32Array) -> Quads:
    scores = np.full(len(corners), 0.5, np.float32)
    texts = tuple(f"line {number}" for number in range(len(corners)))
    return Quads(task="<OCR_WITH_REGION>", size=SIZE, scores=scores, quads=np.stack(corners), texts=texts)


def read_yolo(folder: Path, result: Labelled, kind: YoloKind) -> Any:
    """What supervision reads of the labels of one picture."""
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    Image.new("RGB", SIZE).save(folder / "images" / "a.png")
    lines = [yolo_line(region, result.size, IDS[region.label], kind=kind) for region in regions(result)]
    (folder / "labels" / "a.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text(yolo_yaml(NAMES), encoding="utf-8")
    images, labels, names = (str(folder / name) for name in ("images", "labels", "data.yaml"))
    data = sv.DetectionDataset.from_yolo(images, labels, names, is_obb=kind == "obb")
    assert data.classes == NAMES
    ((_, _, found),) = list(data)
    return found


BOXES = st.lists(
    st.tuples(st.floats(0, 300, width=32), st.floats(0, 180, width=32), st.floats(1, 20), st.floats(1, 20)), max_size=9
)


@given(boxes=BOXES)
def test_supervision_reads_the_boxes_that_were_found(tmp_path_factory: pytest.TempPathFactory, boxes: Any) -> None:
    corners = [(x, y, x + width, y + height) for x, y, width, height in boxes]
    labels = tuple(NAMES[number % 2] for number in range(len(boxes)))
    result = detections(corners, labels)
    found = read_yolo(tmp_path_factory.mktemp("yolo"), result, "detect")
    np.testing.assert_allclose(found.xyxy, result.boxes, atol=SIZE.width * 1e-6 + 1e-4)
    assert [NAMES[number] for number in found.class_id] == list(labels)


def test_supervision_reads_the_outlines(tmp_path: Path) -> None:
    result = polygons((SQUARE,), (SLANTED,))
    found = read_yolo(tmp_path, result, "segment")
    np.testing.assert_allclose(found.xyxy, result.boxes(), atol=1e-3)
    for theirs, ours in zip(found.mask, result.to_masks(), strict=True):
        assert (theirs & ours).sum() > 0.95 * (theirs | ours).sum()


def test_the_parts_of_one_instance_stay_one(tmp_path: Path) -> None:
    """Three parts become one polygon whose area is theirs together; the seams are at most a pixel wide when drawn."""
    parts = (SQUARE, SLANTED, SQUARE + np.float32(100))
    found = read_yolo(tmp_path, polygons(parts), "segment")
    (ours,), (theirs,) = polygons(parts).to_masks(), found.mask
    assert len(found) == 1
    outline = cv2.polylines(
        np.zeros(SIZE[::-1], np.uint8), [np.round(part).astype(np.int32) for part in parts], True, 1, 3
    )
    differ = (theirs != ours) & (outline == 0)
    assert differ.sum() < 2 * 200  # two seams


def test_boxes_and_outlines_may_be_mixed(tmp_path: Path) -> None:
    result = detections([(20, 30, 120, 90), (180, 20, 280, 100)], ("cup", "ball"), polygons=((), (SLANTED,)))
    found = read_yolo(tmp_path, result, "segment")
    np.testing.assert_allclose(found.xyxy, result.boxes, atol=1e-3)
    assert found.mask.shape == (2, 200, 320)
    np.testing.assert_allclose(read_yolo(tmp_path, result, "detect").xyxy, result.boxes, atol=1e-3)


def test_supervision_reads_the_corners_of_lines_of_text(tmp_path: Path) -> None:
    found = read_yolo(tmp_path, quads(SLANTED, SQUARE), "obb")
    np.testing.assert_allclose(found.data["xyxyxyxy"], np.stack([SLANTED, SQUARE]), atol=1e-3)
    assert [NAMES[number] for number in found.class_id] == ["text", "text"]


@given(points=arrays(np.float32, st.tuples(st.integers(3, 12), st.just(2)), elements=st.integers(0, 500)))
def test_the_smallest_rectangle_is_that_of_opencv(points: Float32Array) -> None:
    _, (width, height), _ = cv2.minAreaRect(points)
    if min(width, height) < 1:  # nearly on a line
        return
    corners = smallest_rectangle(points)
    assert cv2.contourArea(corners) <= width * height * 1.001 + 0.1
    assert all(cv2.pointPolygonTest(corners, (float(x), float(y)), True) > -1e-2 for x, y in points)


def test_outlines_get_the_rectangle_around_them_and_boxes_their_corners(tmp_path: Path) -> None:
    result = polygons((np.concatenate([SLANTED, [[190, 60]]]).astype(np.float32),), (SQUARE,))
    slanted, square = read_yolo(tmp_path, result, "obb").data["xyxyxyxy"]
    assert cv2.contourArea(slanted) == pytest.approx(cv2.contourArea(SLANTED), rel=0.01)
    np.testing.assert_allclose(square, SQUARE, atol=1e-3)
    (box,) = read_yolo(tmp_path, detections([(20, 30, 120, 90)], ("cup",)), "obb").data["xyxyxyxy"]
    np.testing.assert_allclose(box, SQUARE, atol=1e-3)


def test_what_has_no_area_is_no_label() -> None:
    flat = detections([(20, 30, 20, 90), (20, 30, 120, 30), (1, 1, 2, 2)], ("cup", "cup", ""))
    assert [region.label for region in regions(flat)] == ["object"]


@given(names=st.lists(st.text(max_size=12), max_size=5, unique=True))
def test_any_name_comes_back_from_the_yaml(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("yaml") / "data.yaml"
    path.write_text(yolo_yaml(names), encoding="utf-8")
    assert read_yaml_file(str(path)) == {"train": "images", "val": "images", "names": dict(enumerate(names))}
    assert yolo_names(path.read_text(encoding="utf-8")) == names


def test_coco_tools_read_boxes_outlines_and_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results: list[Labelled] = [
        detections([(20, 30, 120, 90)], ("cup",)),
        polygons((SQUARE, SLANTED)),
        quads(SLANTED),
        detections([(1, 2, 3, 5)], ("cup",), scores=np.array([np.nan], np.float32)),
    ]
    rows = [coco_annotation(region) for result in results for region in regions(result)]
    assert [row.get("utf8_string") for row in rows] == [None, None, "line 0", None]
    assert [row.get("score") for row in rows] == [pytest.approx(0.9), 0.5, 0.5, None]
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": SIZE.width, "height": SIZE.height}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [{"id": number, "image_id": 1, "category_id": 1, **row} for number, row in enumerate(rows, 1)],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    truth = COCO(str(tmp_path / "a.json"))
    capsys.readouterr()
    _, outline, quad, _ = truth.loadAnns([1, 2, 3, 4])
    assert coco_mask.area(truth.annToRLE(outline)) == pytest.approx(outline["area"], rel=0.05)
    assert cv2.contourArea(SLANTED) == quad["area"]
    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    ((_, _, found),) = list(sv.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "a.json")))
    np.testing.assert_allclose(found.xyxy[:3], [(20, 30, 120, 90), (20, 20, 280, 100), (180, 20, 280, 100)], atol=1e-3)
