"""Every form of annotations becomes the same records, and every fault in it is listed with its place."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from florence_edge.errors import InputError
from florence_edge.geometry import ImageSize
from florence_edge.grammar import format_answer
from florence_edge.results import Detections, Polygons, Quads, Text
from florence_edge.tasks import TASKS, Grammar, find
from florence_train.data import digest, load, write_jsonl
from florence_train.data.record import upright_size
from florence_train.data.turns import read_turn, write_turn
from florence_train.evaluate.overlap import mask_iou, mask_of

SIZE = ImageSize(200, 100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", SIZE, "white").save(tmp_path / name)
    return tmp_path


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def turn(prefix: str = "<OD>", suffix: str = "cup<loc_10><loc_20><loc_300><loc_400>", image: str = "a.png") -> Any:
    return {"image": image, "prefix": prefix, "suffix": suffix}


def test_jsonl_becomes_pixels_and_images_are_read_once(folder: Path) -> None:
    file = write_lines(
        folder / "train.jsonl",
        [
            turn(),
            turn("<CAPTION>", "a cup"),
            turn("Locate the objects with category name in the image.", image="b.png"),
            turn("<REGION_TO_CATEGORY><loc_10><loc_20><loc_300><loc_400>", "cup<loc_10><loc_20><loc_300><loc_400>"),
            turn("<OPEN_VOCABULARY_DETECTION>cup<and>red ball"),
            turn("how many cups?", "one"),
        ],
    )
    data = load(file)
    assert [record.name for record in data.records] == ["a.png", "b.png"]
    first, caption, category, classes, free = data.records[0].examples
    assert isinstance(first.target, Detections)
    np.testing.assert_allclose(first.target.boxes, [[2.1, 2.05, 60.1, 40.05]], atol=1e-4)
    assert first.target.labels == ("cup",)
    assert caption.target.text == "a cup"  # type: ignore[attr-defined]  # a caption is a Text
    assert category.target.text == "cup"  # type: ignore[attr-defined]  # so is a category
    assert category.input == pytest.approx((2.1, 2.05, 60.1, 40.05), abs=1e-4)
    assert classes.input == ("cup", "red ball")
    assert (free.task, free.input) == ("<ASK>", "how many cups?")
    assert data.records[1].examples[0].task == "<OD>"


FAULTS = {
    "not JSON": ("{'image'", "not valid JSON"),
    "not an object": ([1], "expected an object"),
    "missing key": ({"image": "a.png", "prefix": "<OD>"}, "'suffix' is missing"),
    "wrong type": ({"image": "a.png", "prefix": "<OD>", "suffix": 3}, "must be a string"),
    "missing image": (turn(image="gone.png"), "there is no"),
    "not an image": (turn(image="text.png"), "Pillow can read"),
    "truncated image": (turn(image="cut.png"), "cut short"),
    "empty suffix": (turn(suffix=" "), "suffix is empty"),
    "bin past the last": (turn(suffix="cup<loc_1000><loc_20><loc_1000><loc_400>"), "<loc_1000> is no token"),
    "bin past the last in the prefix": (
        turn("<REGION_TO_CATEGORY><loc_1><loc_2><loc_3><loc_1000>", "cup"),
        "<loc_1000> is no token",
    ),
    "unknown task": (turn("<OBJECTS>"), "unknown task <OBJECTS>"),
    "unwanted input": (turn("<OD>cups"), "takes no input"),
    "missing input": (turn("<CAPTION_TO_PHRASE_GROUNDING>"), "white space"),
    "no region": (turn("<REGION_TO_CATEGORY>the cup", "cup"), "four location tokens"),
    "inverted region": (turn("<REGION_TO_CATEGORY><loc_9><loc_1><loc_3><loc_5>", "cup"), "x1"),
    "inverted box": (turn(suffix="cup<loc_300><loc_20><loc_10><loc_400>"), "order x1 y1 x2 y2"),
    "half a box": (turn(suffix="cup<loc_300><loc_20>"), "no answer to <OD>"),
    "a box without a label": (turn(suffix="<loc_1><loc_2><loc_3><loc_4>"), "no answer to <OD>"),
    "a text with tokens": (turn("<CAPTION>", "a cup<loc_1>"), "must not hold the model's own tokens"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_listed_with_its_line_and_costs_its_line_only(folder: Path, name: str) -> None:
    (folder / "text.png").write_text("no picture")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:60])
    row, message = FAULTS[name]
    file = write_lines(folder / "train.jsonl", [turn(), row, turn(image="b.png")])
    with pytest.raises(InputError) as caught:
        load(file)
    assert f"{file}: line 2: " in str(caught.value)
    assert message in str(caught.value)
    data = load(file, faults="skip")
    assert [len(record.examples) for record in data.records] == [1, 1]
    assert [fault.place for fault in data.faults] == ["line 2"]


def test_all_faults_are_listed_at_once(folder: Path) -> None:
    rows = [row for row, _ in FAULTS.values()]
    file = write_lines(folder / "train.jsonl", rows)
    with pytest.raises(InputError) as caught:
        load(file, faults="skip")  # nothing is left
    assert all(f"line {number}:" in str(caught.value) for number in range(1, len(rows) + 1))


def test_headers_alone_do_not_show_a_cut_image(folder: Path) -> None:
    data = Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 200, 3), np.uint8))
    data.save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:9000])
    file = write_lines(folder / "train.jsonl", [turn(image="cut.jpg")])
    assert len(load(file, check="header")) == 1
    with pytest.raises(InputError, match="cut short"):
        load(file)


def test_a_turned_photograph_has_its_upright_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    file = write_lines(tmp_path / "train.jsonl", [turn(image="turned.jpg")])
    assert load(file, check="header").records[0].size == load(file).records[0].size == ImageSize(20, 40)


def test_unreadable_exif_costs_no_picture_however_far_it_is_looked_at(tmp_path: Path) -> None:
    image = tmp_path / "broken.webp"
    Image.new("RGB", (40, 20)).save(image, exif=b"no TIFF")
    assert upright_size(image, "header") == upright_size(image, "decode") == ImageSize(40, 20)


LABELS = st.text("abc XYZ'-", min_size=1, max_size=12).map(str.strip).filter(bool)
BINS = st.integers(0, 999)


@st.composite
def turns(draw: Any) -> tuple[str, str]:
    task = draw(st.sampled_from(TASKS))

    def box() -> str:
        (x1, x2), (y1, y2) = sorted((draw(BINS), draw(BINS))), sorted((draw(BINS), draw(BINS)))
        return f"<loc_{x1}><loc_{y1}><loc_{x2}><loc_{y2}>"

    def points(count: int) -> str:
        return "".join(f"<loc_{draw(BINS)}>" for _ in range(2 * count))

    given_input = {"NONE": "", "PHRASE": draw(LABELS), "CLASSES": f"{draw(LABELS)}<and>b", "BOX": box()}
    answers = {
        Grammar.TEXT: draw(LABELS),
        Grammar.LABELLED_BOXES: f"{draw(LABELS)}{box()}{box()}",
        Grammar.BOXES: box() + box(),
        Grammar.PHRASE_BOXES: f"{draw(LABELS)}{box()}",
        Grammar.QUADS: f"{draw(LABELS)}{points(4)}",
        Grammar.POLYGONS: f"{points(3)}<sep>{points(4)}",
        Grammar.LABELLED_BOXES_OR_POLYGONS: f"{draw(LABELS)}{box()}",
    }
    return task.token + given_input[task.input.name], answers[task.grammar]


@settings(max_examples=150, deadline=None)
@given(turns(), st.integers(3, 3000), st.integers(3, 3000))
def test_a_turn_read_and_written_is_the_same_turn(pair: tuple[str, str], width: int, height: int) -> None:
    size = ImageSize(width, height)
    assert write_turn(read_turn(*pair, size), size) == pair


def coco(folder: Path, annotations: list[Any], **more: Any) -> Path:
    root = {
        "images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 100}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 3, "name": "cup"}, {"id": 4, "name": "ball"}],
        "annotations": annotations,
        **more,
    }
    path = folder / "coco.json"
    path.write_text(json.dumps(root))
    return path


def instance(**values: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 20, 50, 30], "iscrowd": 0, **values}


def test_coco_instances_become_detections(folder: Path) -> None:
    data = load(coco(folder, [instance(), instance(category_id=4, iscrowd=1), instance(category_id=4)]))
    (example,), (nothing,) = (record.examples for record in data.records)
    assert isinstance(example.target, Detections)
    assert example.target.labels == ("cup", "ball")
    np.testing.assert_array_equal(example.target.boxes, [[10, 20, 60, 50]] * 2)
    assert data.records[0].crowds is not None
    assert data.records[0].crowds.labels == ("ball",)
    assert nothing.target.text == "No object detected."  # type: ignore[attr-defined]  # image 2 has no object


def test_coco_asks_what_it_is_told_to(folder: Path) -> None:
    polygon = [[10, 20, 60, 20, 60, 50]]
    tasks = ["<REGION_TO_CATEGORY>", "<REGION_TO_SEGMENTATION>", "<OPEN_VOCABULARY_DETECTION>", "<REGION_PROPOSAL>"]
    (record,) = load(coco(folder, [instance(segmentation=polygon)]), tasks=tasks).records
    assert [example.task for example in record.examples] == tasks
    category, segment, classes, boxes = record.examples
    assert category.input == (10, 20, 60, 50)
    assert isinstance(segment.target, Polygons)
    np.testing.assert_array_equal(segment.target.polygons[0][0], [[10, 20], [60, 20], [60, 50]])
    assert classes.input == ("cup",)
    assert format_answer(find(boxes.task), boxes.target) == "<loc_50><loc_200><loc_300><loc_500>"
    with pytest.raises(InputError, match="cannot ask <CAPTION>"):
        load(coco(folder, [instance()]), tasks=["<CAPTION>"])


@pytest.mark.parametrize("compressed", [False, True])
def test_run_length_masks_become_their_outline(folder: Path, compressed: bool) -> None:
    coco_mask = pytest.importorskip("pycocotools.mask")
    rows, columns = np.mgrid[:100, :200]
    disc = (rows - 50) ** 2 + (columns - 90) ** 2 < 30**2
    packed = coco_mask.encode(np.asfortranarray(disc.astype(np.uint8)))
    flat = disc.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    rle = {"size": [100, 200], "counts": packed["counts"].decode() if compressed else counts}
    file = coco(folder, [instance(bbox=[60, 20, 60, 60], segmentation=rle)])
    (record,) = load(file, tasks=["<REGION_TO_SEGMENTATION>"]).records
    target = record.examples[0].target
    assert isinstance(target, Polygons)
    assert mask_iou(mask_of(target), disc) > 0.95


COCO_FAULTS = {
    "there is no image with id 9": instance(image_id=9),
    "there is no category with id 9": instance(category_id=9),
    "four numbers": instance(bbox=[1, 2, 3]),
    "lies outside the image": instance(bbox=[150, 20, 60, 30]),
    "empty or inverted": instance(bbox=[10, 20, 0, 30]),
    "an annotation is an object": 5,
    "a polygon is x y": instance(segmentation=[[1, 2, 3]]),
    "a list of polygons or an RLE": instance(segmentation="x"),
    "has size": instance(segmentation={"size": [5, 5], "counts": [25]}),
    "add up to": instance(segmentation={"size": [100, 200], "counts": [25]}),
}


@pytest.mark.parametrize("message", COCO_FAULTS)
def test_coco_faults_are_listed_with_their_place(folder: Path, message: str) -> None:
    file = coco(folder, [instance(segmentation=[[1, 2, 3, 4, 5, 9]]), COCO_FAULTS[message]])
    with pytest.raises(InputError, match=message) as caught:
        load(file, tasks=["<REGION_TO_SEGMENTATION>"])
    assert "annotations[1]" in str(caught.value)


def test_coco_of_the_wrong_size_or_form_is_refused(folder: Path) -> None:
    images = [{"id": 1, "file_name": "a.png", "width": 100, "height": 200}]
    with pytest.raises(InputError, match="200 x 100 pixels, not"):
        load(coco(folder, [instance()], images=images))
    (folder / "other.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="no COCO file"):
        load(folder / "other.json")
    (folder / "broken.json").write_text('{"images": [\n}')
    with pytest.raises(InputError, match=r"broken.json:2:1: not valid JSON"):
        load(folder / "broken.json")


def test_an_image_that_is_missing_is_told_once(folder: Path) -> None:
    images = [{"id": 1, "file_name": "gone.png"}, {"id": 2, "file_name": "b.png"}]
    data = load(coco(folder, [instance(), instance(), instance(image_id=2)], images=images), faults="skip")
    assert [fault.place for fault in data.faults] == ["images[0]"]
    assert [record.name for record in data.records] == ["b.png"]


def test_coco_captions_are_several_answers_to_one_question(folder: Path) -> None:
    rows = [{"id": i, "image_id": 1, "caption": text} for i, text in enumerate(("a cup", "one cup "))]
    (record,) = load(coco(folder, rows)).records
    assert [example.target.text for example in record.examples] == ["a cup", "one cup"]  # type: ignore[attr-defined]
    assert {example.task for example in record.examples} == {"<CAPTION>"}


def test_referring_expressions_are_asked_to_ground_and_to_segment(folder: Path) -> None:
    rows: list[Any] = [
        {"image": "a.png", "bbox": [10, 20, 50, 30], "sentences": ["left cup", {"sent": "the cup"}]},
        {"image": "b.png", "box": [1, 2, 30, 40], "segmentation": [[1, 2, 30, 2, 30, 40]], "sentences": ["cup"]},
    ]
    file = folder / "refer.json"
    file.write_text(json.dumps(rows))
    first, second = load(file).records
    assert [example.input for example in first.examples] == ["left cup", "the cup"]
    assert [example.task for example in second.examples] == [
        "<CAPTION_TO_PHRASE_GROUNDING>",
        "<REFERRING_EXPRESSION_SEGMENTATION>",
    ]
    np.testing.assert_array_equal(first.examples[0].target.boxes, [[10, 20, 60, 50]])  # type: ignore[attr-defined]
    rows += [{"image": "a.png", "bbox": [0, 0, 5, 5], "sentences": []}, {"image": "a.png", "sentences": ["x"]}, 7]
    file.write_text(json.dumps(rows))
    places = [fault.place for fault in load(file, faults="skip").faults]
    assert places == ["[2]", "[3]", "[4]"]


def test_icdar_lines_become_quads_and_what_is_illegible_is_left_out(folder: Path) -> None:
    (folder / "gt_a.txt").write_text(
        "\ufeff10,10,60,10,60,30,10,30,Hello, you\n0,0,9,0,9,9,0,9,###\n1,2,3\n500,0,9,0,9,9,0,9,far\n",
        encoding="utf-8",
    )
    tasks = ["<OCR_WITH_REGION>", "<OCR>", "<REGION_TO_OCR>"]
    data = load(folder, tasks=tasks, faults="skip")
    assert [fault.place for fault in data.faults] == ["gt_a.txt, line 3", "gt_a.txt, line 4"]
    quads, text, region = data.records[0].examples
    assert isinstance(quads.target, Quads)
    assert quads.target.texts == ("Hello, you",)
    assert isinstance(text.target, Text)
    assert text.target.text == "Hello, you"
    assert region.input == (10, 10, 60, 30)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 500) | st.floats(allow_nan=False) | st.text("a1<>_", max_size=4),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["counts", "size", "sent"]), inner),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_json_is_a_crash(folder: Path, data: st.DataObject) -> None:
    good_instance = instance(segmentation=[[10, 20, 60, 20, 60, 50]])
    good_expression = {"image": "a.png", "bbox": [10, 20, 50, 30], "segmentation": None, "sentences": ["cup"]}
    forms: list[tuple[str, dict[str, Any], Callable[[Any], Any]]] = [
        ("x.jsonl", turn(), lambda row: row),
        ("refer.json", good_expression, lambda row: [row]),
        ("coco.json", good_instance, lambda row: json.loads(coco(folder, [row]).read_text())),
        ("coco.json", {"id": 1, "file_name": "a.png"}, lambda row: {**_empty(), "images": [row]}),
        ("coco.json", {"id": 3, "name": "cup"}, lambda row: {**_empty(), "categories": [row]}),
    ]
    name, good, whole = data.draw(st.sampled_from(forms))
    row = data.draw(
        JUNK | st.sampled_from(sorted(good)).flatmap(lambda key: JUNK.map(lambda junk: {**good, key: junk}))
    )
    (folder / name).write_text(json.dumps(whole(row)))
    tasks = ["<REGION_TO_SEGMENTATION>", "<OD>"] if name == "coco.json" else []
    with contextlib.suppress(InputError):
        load(folder / name, tasks=tasks, faults="skip")


def _empty() -> dict[str, Any]:
    categories = [{"id": 3, "name": "cup"}]
    return {"images": [{"id": 1, "file_name": "a.png"}], "categories": categories, "annotations": [instance()]}


def test_unknown_forms_are_refused_with_the_known_ones(folder: Path) -> None:
    for name in ("none.jsonl", "a.png"):
        with pytest.raises(InputError, match="COCO"):
            load(folder / name)
    with pytest.raises(InputError, match="no shard"):
        load(folder / "*.tar")


def test_records_written_as_jsonl_are_read_back_whatever_form_they_came_in(folder: Path) -> None:
    data = load(coco(folder, [instance(), instance(category_id=4)]))
    assert write_jsonl(data.records, folder / "out.jsonl") == 2
    assert json.loads((folder / "out.jsonl").read_text().splitlines()[0])["image"] == "a.png"
    changed = load(coco(folder, [instance(), instance(category_id=4, bbox=[11, 20, 50, 30])]))
    assert digest(load(folder / "out.jsonl")) == digest(data) != digest(changed)
