"""Drawn results: what is painted where, labels that stay readable, and pictures of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from florence_edge.draw import draw
from florence_edge.drawing import fonts
from florence_edge.drawing.canvas import Canvas
from florence_edge.drawing.layout import Rect, collide, place
from florence_edge.drawing.palette import class_colours, colour, contrast, text_colour
from florence_edge.errors import ImageError, InputError
from florence_edge.export import rings_to_mask
from florence_edge.geometry import ImageSize
from florence_edge.results import Detections, Polygons, Quads, Result, Text

SIZE = ImageSize(400, 300)
NAN = float("nan")
RING = np.array([(120, 60), (300, 90), (260, 240), (90, 200)], np.float32)


def array(*values: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(values, np.float32)


def detections(
    boxes: Sequence[Any], labels: Sequence[str], scores: Sequence[float], size: ImageSize = SIZE
) -> Detections:
    ids = [list(dict.fromkeys(labels)).index(label) for label in labels]
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(
        task="<OD>",
        size=size,
        scores=array(*scores),
        boxes=corners,
        labels=tuple(labels),
        class_ids=np.array(ids, np.int64),
    )


def polygons(label: str = "cup", score: float = NAN) -> Polygons:
    return Polygons(task="<RES>", size=SIZE, scores=array(score), polygons=((RING,),), labels=(label,))


def quads(count: int, step: float) -> Quads:
    rows = [[(20, y), (380, y), (380, y + 14), (20, y + 14)] for y in 30 + step * np.arange(count)]
    texts = tuple(f"line number {index}" for index in range(count))
    return Quads(
        task="<OCR_WITH_REGION>",
        size=SIZE,
        scores=np.full(count, 0.5, np.float32),
        quads=array(*rows).reshape(-1, 4, 2),
        texts=texts,
    )


def text(words: str, score: float = 0.5, **changes: Any) -> Text:
    return replace(Text(task="<CAPTION>", size=SIZE, scores=array(score), text=words), **changes)


def grey(width: int = 400, height: int = 300) -> Image.Image:
    return Image.new("RGB", (width, height), (120, 120, 120))


def pixels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(image).astype(np.int64)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The lines of every label that is painted."""
    record: list[list[str]] = []
    paint: Callable[..., None] = Canvas.label

    def spy(self: Canvas, rect: Rect, lines: Sequence[str], *rest: Any) -> None:
        record.append(list(lines))
        paint(self, rect, lines, *rest)

    monkeypatch.setattr(Canvas, "label", spy)
    return record


def test_a_box_is_outlined_in_its_colour_and_nothing_else_is_touched() -> None:
    before = pixels(grey())
    after = pixels(draw(detections([(50, 40, 250, 200)], [""], [NAN]), grey()))
    for x, y in ((50, 120), (249, 120), (150, 40), (150, 199)):
        assert tuple(after[y, x]) == colour(0)
    margin = 6
    untouched = np.ones((300, 400), bool)
    untouched[40 - margin : 200 + margin, 50 - margin : 250 + margin] = False
    untouched[40 + margin : 200 - margin, 50 + margin : 250 - margin] = True
    np.testing.assert_array_equal(after[untouched], before[untouched])


def test_a_mask_is_tinted_and_outlined() -> None:
    after = pixels(draw(polygons(label=""), grey()))
    inside = rings_to_mask([RING], SIZE)
    core = cv2.erode(inside.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool)
    outside = ~cv2.dilate(inside.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool)
    expected = 0.42 * np.array(colour(0)) + 0.58 * 120
    assert np.abs(after[core] - expected).max() <= 1.5
    assert (after[outside] == 120).all()
    assert np.abs(after[75, 210] - colour(0)).max() < 30, "on the upper edge"


def test_the_given_image_is_left_alone() -> None:
    image = grey()
    for result in (detections([(5, 5, 99, 99)], ["cup"], [0.5]), polygons(), quads(2, 60), text("a cup"), quads(0, 1)):
        drawn = draw(result, image)
        assert drawn is not image
        assert drawn.mode == "RGB"
        assert (pixels(image) == 120).all()


def test_an_empty_result_gives_the_picture() -> None:
    for result in (detections([], [], []), quads(0, 1)):
        np.testing.assert_array_equal(pixels(draw(result, grey())), pixels(grey()))


def test_sources_are_those_of_load_image() -> None:
    result = detections([(5, 5, 99, 99)], ["cup"], [0.5])
    rgb = np.zeros((300, 400, 3), np.uint8)
    rgb[..., 0] = 200
    expected = pixels(draw(result, Image.fromarray(rgb)))
    np.testing.assert_array_equal(pixels(draw(result, rgb)), expected)
    np.testing.assert_array_equal(pixels(draw(result, rgb[..., ::-1], bgr=True)), expected)
    np.testing.assert_array_equal(pixels(result.draw(rgb)), expected)
    with pytest.raises(ImageError, match="there is no file"):
        draw(result, "no/such/file.png")


def test_coordinates_are_scaled_to_the_picture() -> None:
    half = detections([(50, 40, 250, 200)], ["cup"], [0.5])
    same = detections([(100, 80, 500, 400)], ["cup"], [0.5], ImageSize(800, 600))
    np.testing.assert_array_equal(pixels(draw(half, grey(800, 600))), pixels(draw(same, grey(800, 600))))


def test_an_unknown_kind_of_result_is_refused() -> None:
    with pytest.raises(InputError, match="cannot draw a Result; allowed are Detections"):
        draw(Result(task="<OD>", size=SIZE, scores=array()), grey())


def test_scores_are_shown_where_known(written: list[list[str]]) -> None:
    draw(detections([(50, 60, 150, 100), (200, 60, 300, 100)], ["cup", "ball"], [0.876, NAN]), grey())
    assert sorted(written) == [["ball"], ["cup 0.88"]]
    written.clear()
    draw(detections([(50, 60, 150, 100), (200, 60, 300, 100)], ["", ""], [0.5, NAN]), grey())
    assert written == [["0.50"]]


def test_a_long_label_is_cut_but_its_score_is_not(written: list[list[str]]) -> None:
    draw(detections([(50, 100, 150, 200)], ["a very long description " * 9], [0.5]), grey())
    (lines,) = written
    assert len(lines) == 2
    assert lines[1].endswith("… 0.50")


def test_a_tiny_picture_gets_no_labels(written: list[list[str]]) -> None:
    result = detections([(50, 60, 150, 100)], ["cup"], [0.5])
    draw(result, grey(60, 47))
    assert written == []
    draw(result, grey(60, 48))
    assert written == [["cup 0.50"]]


def test_dense_lines_are_numbered_and_listed_below(written: list[list[str]]) -> None:
    assert draw(quads(3, 60), grey()).size == (400, 300)
    assert sorted(written)[0] == ["line number 0 0.50"]
    written.clear()
    drawn = draw(quads(14, 17), grey())
    assert drawn.width == 400
    assert drawn.height > 400
    assert sorted(int(lines[0]) for lines in written) == list(range(1, 15))


def test_a_text_is_set_on_a_band_below() -> None:
    short, long = draw(text("a cup"), grey()), draw(text("a cup on a table " * 20), grey())
    for drawn in (short, long):
        assert drawn.width == 400
        np.testing.assert_array_equal(pixels(drawn)[:300], pixels(grey()))
    assert 320 < short.height < long.height
    band = pixels(short)[300:]
    assert (band.max(axis=2) > 200).any(), "light letters on a dark band"
    assert draw(text("a cup"), grey(7, 5)).width == 320


@pytest.mark.parametrize("changes", [{"finish": "length"}, {"score": NAN}, {"words": "two\nlines"}, {"words": ""}])
def test_what_a_text_carries_is_visible(changes: dict[str, Any]) -> None:
    plain, changed = draw(text("a cup"), grey()), draw(text(**{"words": "a cup", **changes}), grey())
    assert changed.size != plain.size or (pixels(changed) != pixels(plain)).any()


ANY_LABEL = st.text(max_size=60) | st.sampled_from(
    ["咖啡 кофе café", "W" * 300, "a\nb\tc", "\u0301", "\U0001f600", " "]
)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_picture_and_any_labels(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    labels = data.draw(st.lists(ANY_LABEL, max_size=6))
    count = len(labels)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    points = (rng.uniform(0, 1, (count, 4, 2)) * SIZE).astype(np.float32)
    boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    scores = np.where(rng.random(count) < 0.3, np.nan, rng.random(count)).astype(np.float32)
    shared: dict[str, Any] = {"task": "<OD>", "size": SIZE, "scores": scores}
    results = [
        Detections(**shared, boxes=boxes, labels=tuple(labels), class_ids=rng.integers(-1, 9, count)),
        Polygons(**shared, polygons=tuple((ring,) for ring in points), labels=tuple(labels)),
    ]
    for result in results:
        drawn = draw(result, grey(width, height))
        assert (drawn.mode, drawn.size) == ("RGB", (width, height))
    listed = draw(Quads(**shared, quads=points, texts=tuple(labels)), grey(width, height))
    assert listed.width in (width, max(width, 320))
    assert listed.height >= height
    for label in labels:
        assert draw(text(label), grey(width, height)).width == max(width, 320)


@pytest.mark.parametrize("size", [(8000, 6000), (8000, 3), (3, 8000)])
def test_large_pictures(size: tuple[int, int]) -> None:
    image = grey(*size)
    assert draw(detections([(50, 40, 250, 200)], ["cup"], [0.5]), image).size == size
    assert draw(polygons(), image).size == size


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_labels_stay_inside_and_off_each_other_where_there_is_room(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, 600, (count, 2, 2)), axis=1)
    anchors = [Rect(*map(int, (*low, *high))) for low, high in corners]
    sizes = [(int(width), 20) for width in rng.integers(10, 120, count)]
    rects = place(sizes, anchors, (600, 600), avoid=anchors)
    assert [(rect.width, rect.height) for rect in rects] == sizes
    assert all(rect.left >= 0 and rect.top >= 0 and rect.right <= 600 and rect.bottom <= 600 for rect in rects)
    assert not collide(rects, [])


def test_labels_of_one_place_are_stacked() -> None:
    anchor = Rect(250, 250, 350, 350)
    rects = place([(80, 20)] * 15, [anchor] * 15, (600, 600), avoid=[])
    assert not collide(rects, [])


def test_collide() -> None:
    assert collide([Rect(0, 0, 5, 5), Rect(4, 4, 9, 9)], [])
    assert collide([Rect(0, 0, 5, 5)], [Rect(4, 4, 9, 9)])
    assert not collide([Rect(0, 0, 5, 5), Rect(5, 0, 9, 9)], [Rect(0, 5, 5, 9)])
    assert not collide([], [])


def test_text_on_every_colour_is_readable() -> None:
    """4.5 is the contrast WCAG 2.1 (1.4.3) asks of text."""
    assert min(contrast(colour(index), text_colour(colour(index))) for index in range(500)) >= 4.5
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21.0)


# Machado, Oliveira, Fernandes (2009), severity 1.0, on linear RGB.
COLOUR_BLINDNESS: dict[str, np.ndarray[Any, Any]] = {
    "none": np.eye(3),
    "protanopia": array(
        (0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)
    ),
    "deuteranopia": array(
        (0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)
    ),
}


@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
def test_the_first_colours_are_told_apart(kind: str) -> None:
    srgb = np.array([colour(index) for index in range(7)], np.float32) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ COLOUR_BLINDNESS[kind].T, 0, 1).astype(np.float32)
    lab = cv2.cvtColor(seen[None], cv2.COLOR_LRGB2Lab)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1000 * np.eye(7)
    assert distance.min() > 10, "a difference of 2.3 in L*a*b* is just noticeable"


def test_colours_belong_to_classes() -> None:
    assert class_colours(("a", "b", "a"), [1, 0, 1]) == [colour(1), colour(0), colour(1)]
    assert class_colours(("a", "x", "y", "x"), [3, -1, -1, -1]) == [colour(3), colour(4), colour(5), colour(4)]
    assert class_colours(("", ""), [0, 0]) == [colour(0), colour(1)]
    assert len({colour(index) for index in range(200)}) == 200


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.text("abcdeW.", min_size=1, max_size=30), max_size=20), width=st.integers(20, 300))
def test_wrapping_keeps_the_text_and_the_width(words: list[str], width: int) -> None:
    font, _ = fonts.fit("a", 14)
    lines = fonts.wrap(" ".join(words), font, width)
    assert "".join(lines).replace(" ", "") == "".join(words)
    assert all(font.getlength(line) <= width for line in lines)
    cut = fonts.wrap(" ".join(words), font, width, max_lines=2, end="0.5")
    assert len(cut) <= 2
    assert cut[-1].endswith("0.5") or width < font.getlength("… 0.5")


def test_wrapping_keeps_line_breaks() -> None:
    font, _ = fonts.fit("a", 14)
    assert fonts.wrap("one\ntwo words\n\nthree", font, 500) == ["one", "two words", "", "three"]


def test_shortening() -> None:
    font, _ = fonts.fit("a", 14)
    assert fonts.shorten("a cup", font, 500) == "a cup"
    short = fonts.shorten("a cup on a table", font, 60)
    assert short.endswith("…")
    assert font.getlength(short) <= 60
    assert fonts.shorten("a cup", font, 1) == ""


def test_characters_beyond_the_built_in_font(monkeypatch: pytest.MonkeyPatch) -> None:
    built_in, plain = fonts.fit("cup 0.5", 20)
    assert plain == "cup 0.5"
    monkeypatch.setattr(fonts, "_INSTALLED", ())
    font, bare = fonts.fit("café №5", 20)
    assert bare == "cafe No5"
    assert font is built_in
    monkeypatch.setattr(fonts, "_INSTALLED", ("no such font.ttf",))
    assert fonts.fit("日本", 20) == (built_in, "日本")
