"""`Florence` on a scripted engine: every task, timings, limits, and every way to ask wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_edge import Florence, ImageSize, SearchOptions, View
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, BundleError, FlorenceError, ImageError, InputError
from florence_edge.images import ImageSource
from florence_edge.results import Detections, Polygons, Quads, Result, Text
from florence_edge.tasks import TASKS, InputKind, Task
from support.fake_backend import ANSWERS, FakeBackend

SIZE = ImageSize(200, 100)
BOX = (20.0, 10.0, 120.0, 90.0)
INPUTS = {
    InputKind.NONE: None,
    InputKind.PHRASE: "a red cube",
    InputKind.CLASSES: ["ball", "red cube"],
    InputKind.BOX: BOX,
}


@pytest.fixture
def backend(bundle: Bundle) -> FakeBackend:
    return FakeBackend(bundle)


@pytest.fixture
def model(bundle: Bundle, backend: FakeBackend) -> Iterator[Florence]:
    with Florence(bundle, backend) as opened:
        yield opened


@pytest.fixture
def image() -> Image.Image:
    return Image.new("RGB", SIZE, (200, 30, 60))


def ask(model: Florence, method: str, image: ImageSource | View) -> Result:
    """Calls the method a user would call."""
    arguments = {
        "ground": ("a red cube",),
        "segment": ("a red cube",),
        "ask": ("is it red?",),
        **dict.fromkeys(("segment_region", "classify_region", "describe_region", "read_region"), (BOX,)),
    }.get(method, ())
    result: Result = getattr(model, method)(image, *arguments)
    return result


KINDS = {
    Text: ("caption", "read", "ask", "classify_region", "describe_region", "read_region"),
    Detections: ("detect", "propose", "describe_regions", "ground"),
    Polygons: ("segment", "segment_region"),
    Quads: ("read_regions",),
}
METHODS = [(method, kind) for kind, methods in KINDS.items() for method in methods]


def test_the_methods_tested_here_are_those_of_the_task_table() -> None:
    assert {method for method, _ in METHODS} == {task.method for task in TASKS} | {"ask"}


@pytest.mark.parametrize(("method", "kind"), METHODS)
def test_every_method_answers_about_an_image_and_about_a_view(
    model: Florence, backend: FakeBackend, image: Image.Image, method: str, kind: type[Result]
) -> None:
    of_image = ask(model, method, image)
    view = model.encode(image)
    of_view = ask(model, method, view)
    assert type(of_image) is type(of_view) is kind
    without_times = [{**result.to_dict(), "timings_ms": None} for result in (of_image, of_view)]
    assert without_times[0] == without_times[1]
    assert of_view.size == view.size == SIZE
    assert backend.encoded == [1, 1]
    assert list(of_image.timings_ms) == ["load", "preprocess", "vision", "search", "parse"]
    assert list(of_view.timings_ms) == ["search", "parse"]
    assert list(view.timings_ms) == ["load", "preprocess", "vision"]
    assert all(spent >= 0 for spent in of_image.timings_ms.values())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_task_can_be_run_by_its_token_and_its_name(model: Florence, image: Image.Image, task: Task) -> None:
    by_token, by_name = (model.run(name, image, INPUTS[task.input]) for name in (task.token, task.name))
    assert by_token.raw == by_name.raw == ANSWERS[task.token]
    assert by_token.task == task.token
    assert by_token.finish == "eos"
    assert by_token.dropped == 0
    assert np.isfinite(by_token.scores).all()


def test_boxes_come_back_in_pixels_of_the_original_image(model: Florence, image: Image.Image) -> None:
    found = model.detect(image)
    expected = np.array([[100.5, 200.5, 300.5, 400.5], [500.5, 500.5, 700.5, 700.5]]) * [0.2, 0.1, 0.2, 0.1]
    np.testing.assert_allclose(found.boxes, expected, rtol=1e-6)
    assert found.labels == ("cube", "ball")


def test_classes_are_asked_together_and_counted_by_their_place(model: Florence, image: Image.Image) -> None:
    found = model.detect(image, ["ball", "red cube"])
    assert (found.task, found.classes, found.class_ids.tolist()) == (
        "<OPEN_VOCABULARY_DETECTION>",
        ("ball", "red cube"),
        [1],
    )
    assert model.detect(image, "red cube").class_ids.tolist() == [0]


def test_the_details_of_a_caption_are_three_tasks(model: Florence, image: Image.Image) -> None:
    texts = [model.caption(image, detail=detail).text for detail in ("brief", "detailed", "paragraph")]
    assert texts == [ANSWERS[token] for token in ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")]
    with pytest.raises(InputError, match="brief, detailed, paragraph"):
        model.caption(image, detail="long")  # type: ignore[arg-type]  # the error is the point


def test_every_source_of_an_image_gives_the_same_view(model: Florence, image: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    image.save(path)
    array = np.asarray(image)
    sources: list[ImageSource] = [image, array, path, str(path), path.read_bytes()]
    features = [model.encode(source).features.numpy() for source in sources]
    features.append(model.encode(array[..., ::-1].copy(), bgr=True).features.numpy())
    for other in features[1:]:
        np.testing.assert_array_equal(features[0], other)


def test_each_task_has_its_own_limit_of_tokens(model: Florence, backend: FakeBackend, image: Image.Image) -> None:
    model.caption(image)
    model.read(image)
    model.caption(image, search=SearchOptions(max_new_tokens=5, beams=1))
    caption, read, chosen = (options for _, options in backend.searches)
    assert caption == SearchOptions(max_new_tokens=64)
    assert read == SearchOptions(max_new_tokens=200)  # the bundle's limit, below the task's 1023
    assert chosen == SearchOptions(max_new_tokens=5, beams=1)


def test_an_answer_that_was_cut_short_says_so(model: Florence, image: Image.Image) -> None:
    cut = model.caption(image, search=SearchOptions(max_new_tokens=5))
    assert (cut.finish, cut.tokens) == ("length", 5)
    assert ANSWERS["<CAPTION>"].startswith(cut.text)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, image: model.run("<COUNT>", image), "unknown task '<COUNT>'"),
        (lambda model, image: model.run("<CAPTION>", image, "a cup"), "takes no input"),
        (lambda model, image: model.run("<REGION_TO_CATEGORY>", image), "takes a box"),
        (lambda model, image: model.run("ground", image), "takes a phrase"),
        (lambda model, image: model.segment(image, "   "), "more than white space"),
        (lambda model, image: model.ground(image, "<loc_5>"), "the model's own tokens"),
        (lambda model, image: model.detect(image, []), "one name or more"),
        (lambda model, image: model.read_region(image, (0, 0, 201, 10)), "leaves the image, 0 to 200"),
        (lambda model, image: model.read_region(image, (50, 0, 20, 10)), "right of x2"),
        (lambda model, image: model.read_region(image, (0, 0, float("nan"), 10)), "not finite"),
        (lambda model, image: model.read_region(image, (0, 0, 10)), "shape"),
        (lambda model, image: model.ask(image, "why? " * 500), "takes at most 200"),
        (lambda model, image: model.caption(image, search=SearchOptions(beams=0)), "beams is 0"),
        (lambda model, image: model.caption(image, search=SearchOptions(max_new_tokens=0)), "max_new_tokens is 0"),
        (lambda model, image: model.caption(image, search=SearchOptions(max_new_tokens=201)), "at most 200"),
        (lambda model, image: model.detect(image, min_score=1.5), "must lie in 0..1"),
        (lambda model, image: model.detect(image, max_regions=-1), "must be 0 or more"),
        (lambda model, image: model.run_many([(image, "od")], batch_size=0), "batch_size is 0"),
        (lambda model, image: model.run_many([(image, "od")], errors="ignore"), "'raise' or 'return'"),
        (lambda model, image: model.run_many([image]), "an item is"),
        (lambda model, image: model.stream("<COUNT>", image), "unknown task"),
    ],
)
def test_a_bad_argument_is_an_input_error_that_says_what_is_allowed(
    model: Florence, backend: FakeBackend, image: Image.Image, call: object, message: str
) -> None:
    assert callable(call)
    with pytest.raises(InputError, match=message):
        call(model, image)


def test_bad_arguments_are_found_before_the_engine_runs(
    model: Florence, backend: FakeBackend, image: Image.Image
) -> None:
    for task, given in (("<COUNT>", None), ("<OD>", "cup"), ("<REGION_TO_OCR>", (9, 9, 1, 1))):
        with pytest.raises(InputError):
            model.run(task, image, given)
        with pytest.raises(InputError):
            model.stream(task, image, given)
    with pytest.raises(InputError):
        model.detect(image, min_score=2)
    assert not backend.encoded
    assert not backend.searches


@pytest.mark.parametrize(
    "bad",
    ["nowhere.png", b"not an image", np.zeros((4, 4)), object()],
    ids=["missing file", "no image file", "float array", "object"],
)
def test_what_is_no_image_is_an_image_error(model: Florence, bad: object) -> None:
    with pytest.raises(ImageError):
        model.caption(bad)  # type: ignore[arg-type]  # the error is the point


def test_a_view_of_another_model_is_refused(model: Florence, bundle: Bundle, image: Image.Image) -> None:
    view = Florence(bundle, FakeBackend(bundle)).encode(image)
    for use in (lambda: model.caption(view), lambda: model.run_many([(view, "od")]), lambda: model.stream("od", view)):
        with pytest.raises(InputError, match="another model"):
            use()


def test_a_closed_model_refuses_everything(bundle: Bundle, backend: FakeBackend, image: Image.Image) -> None:
    model = Florence(bundle, backend)
    view = model.encode(image)
    unread = model.stream("caption", view)
    with model:
        pass
    model.close()
    assert backend.closed
    for use in (
        lambda: model.encode(image),
        lambda: model.caption(view),
        lambda: model.run_many([(image, "od")]),
        lambda: model.run_many([(image, "od")], errors="return"),
        lambda: model.stream("od", image),
        lambda: next(unread),
    ):
        with pytest.raises(BackendError, match="was closed"):
            use()


def test_a_missing_bundle_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        Florence.load(tmp_path / "nothing")


def test_info_holds_plain_values(model: Florence, bundle: Bundle) -> None:
    info = model.info()
    assert info["backend"] == "FakeBackend"
    assert info["bundle"] == str(bundle.folder)
    assert info["image"] == {"width": 32, "height": 32}
    assert info["bytes"] == sum(path.stat().st_size for path in bundle.folder.iterdir()) - (
        (bundle.folder / "manifest.json").stat().st_size
    )
    assert repr(model) == f"Florence({str(bundle.folder)!r}, backend=FakeBackend)"


def test_every_error_is_a_florence_error() -> None:
    assert all(issubclass(kind, FlorenceError) for kind in (InputError, ImageError, BackendError, BundleError))
