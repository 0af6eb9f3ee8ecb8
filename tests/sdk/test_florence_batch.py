"""`run_many`: equal to single runs, each image encoded once, and bad items kept to themselves."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import Florence, Result, SearchOptions, View, codec, view
from florence_edge.batching import Item
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, FlorenceError, ImageError, InputError
from florence_edge.geometry import Float32Array
from florence_edge.images import ImageSource
from florence_edge.tasks import Task
from support.fake_backend import ANSWERS, FakeBackend, FakeFeatures


def spoken(task: Task, given: str, brightness: float) -> str:
    """An answer that tells image and input apart; pictures of one dark value break the engine."""
    if brightness < -1.9:
        raise BackendError("the logits are not finite")
    return f"{ANSWERS['<CAPTION>']} {brightness:.3f} {len(given)}"


@pytest.fixture
def backend(bundle: Bundle) -> FakeBackend:
    return FakeBackend(bundle, spoken)


@pytest.fixture
def model(bundle: Bundle, backend: FakeBackend) -> Florence:
    return Florence(bundle, backend)


def picture(value: int) -> Image.Image:
    return Image.new("RGB", (40, 30), (value, 255 - value, 128))


BLACK = Image.new("RGB", (40, 30))


def plain(result: Result | FlorenceError) -> dict[str, object]:
    assert isinstance(result, Result)
    return {**result.to_dict(), "timings_ms": None}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_a_batch_equals_its_single_runs_in_order(model: Florence, tmp_path: Path, batch_size: int) -> None:
    file = tmp_path / "file.png"
    picture(9).save(file)
    images: list[ImageSource | View] = [
        picture(200),
        file,
        np.asarray(picture(60)),
        str(file),
        model.encode(picture(77)),
    ]
    tasks: list[tuple[Any, ...]] = [
        ("caption",),
        ("<OCR>",),
        ("classify_region", (0, 0, 20, 20)),
        ("ask", "how many are there?"),
        ("ocr",),
    ]
    items = [(image, *task) for task in tasks for image in images]
    together = model.run_many(items, batch_size=batch_size)
    alone = [model.run(task, image, *given) for image, task, *given in items]
    assert [plain(result) for result in together] == [plain(result) for result in alone]


def test_each_distinct_image_is_encoded_once(model: Florence, backend: FakeBackend, tmp_path: Path) -> None:
    file, link = tmp_path / "file.png", tmp_path / "link.png"
    picture(9).save(file)
    link.symlink_to(file)
    same = picture(50)
    view = model.encode(picture(80))
    backend.encoded.clear()
    sources: list[ImageSource | View] = [file, same, str(file), view, link, same, view]
    model.run_many([(source, task) for task in ("caption", "read") for source in sources], batch_size=8)
    assert backend.encoded == [2]


def test_questions_share_a_search_only_with_the_same_limit(model: Florence, backend: FakeBackend) -> None:
    items: list[Item] = [
        (picture(value), task) for value in (10, 20) for task in ("caption", "read", "<DETAILED_CAPTION>")
    ]
    model.run_many(items, batch_size=8)
    assert sorted((count, options.max_new_tokens) for count, options in backend.searches) == [
        (2, 64),
        (2, 160),
        (2, 200),
    ]
    backend.searches.clear()
    model.run_many(items, batch_size=8, search=SearchOptions(max_new_tokens=30))
    assert backend.searches == [(6, SearchOptions(max_new_tokens=30))]


def test_no_more_images_and_questions_than_the_batch_size_run_together(model: Florence, backend: FakeBackend) -> None:
    model.run_many([(picture(value), "caption") for value in range(7)], batch_size=3)
    assert backend.encoded == [3, 3, 1]
    assert [count for count, _ in backend.searches] == [3, 3, 1]


def test_the_times_of_a_batch_add_up_to_its_own(model: Florence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage takes a second: two pictures are read, encoded at once, asked at two limits; four answers parsed."""
    items: list[Item] = [(image, task) for image in (picture(1), picture(2)) for task in ("caption", "od")]
    seen = model.encode(picture(3))
    for module in (view, codec):
        monkeypatch.setattr(module, "perf_counter", count().__next__)
    results = model.run_many(items)
    assert {tuple(result.timings_ms) for result in results} == {("load", "preprocess", "vision", "search", "parse")}
    spent = {stage: sum(result.timings_ms[stage] for result in results) for stage in results[0].timings_ms}
    assert spent == {"load": 2e3, "preprocess": 2e3, "vision": 1e3, "search": 2e3, "parse": 4e3}
    (reused,) = model.run_many([(seen, "caption")])
    assert set(reused.timings_ms) == {"search", "parse"}


def test_bad_items_stand_in_their_places_and_the_others_are_answered(model: Florence, backend: FakeBackend) -> None:
    items: list[Item] = [
        (picture(1), "caption"),
        ("nowhere.png", "caption"),
        (picture(2), "<COUNT>"),
        (BLACK, "caption"),
        (picture(3), "caption", "unwanted"),
        (picture(4), "caption"),
        ("nowhere\0.png", "od"),
    ]
    answers = model.run_many(items, errors="return", batch_size=8)
    assert [type(answer).__name__ for answer in answers] == [
        "Text",
        "ImageError",
        "InputError",
        "BackendError",
        "InputError",
        "Text",
        "ImageError",
    ]
    assert plain(answers[5]) == plain(model.run("caption", items[5][0]))
    assert backend.encoded[0] == 3  # an image of which nothing can be asked is not encoded


def test_images_that_cannot_be_encoded_together_are_encoded_alone(bundle: Bundle) -> None:
    class Fussy(FakeBackend):
        def encode_image(self, pixels: Float32Array) -> FakeFeatures:
            if pixels.mean(axis=(1, 2, 3)).min() < -1.9:
                raise BackendError("the features are not finite")
            return super().encode_image(pixels)

    model = Florence(bundle, Fussy(bundle))
    answers = model.run_many([(picture(1), "od"), (BLACK, "od"), (picture(2), "od")], errors="return")
    assert [type(answer).__name__ for answer in answers] == ["Detections", "BackendError", "Detections"]


@pytest.mark.parametrize(
    ("items", "kind", "message"),
    [
        ([(picture(1), "caption"), ("nowhere.png", "od")], ImageError, "item 1: there is no file"),
        ([(picture(1), "caption"), (picture(1), "<COUNT>")], InputError, "item 1: unknown task"),
        ([(BLACK, "caption")], BackendError, "item 0: the logits"),
        ([(picture(1), "caption"), (picture(1),)], InputError, "item 1: got"),
    ],
)
def test_the_first_bad_item_ends_the_call_and_is_named(
    model: Florence, items: list[tuple[object, ...]], kind: type[FlorenceError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        model.run_many(items)  # type: ignore[arg-type]  # wrong on purpose


def test_an_empty_batch_is_answered_with_nothing(model: Florence, backend: FakeBackend) -> None:
    assert model.run_many([]) == []
    assert not backend.encoded
