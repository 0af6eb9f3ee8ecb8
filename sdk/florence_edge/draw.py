"""Draws an answer on its picture: boxes, masks and quads with labels, or a text below the picture.

Line widths and letters follow the size of the picture. Every class has a fixed colour (`drawing.palette`), labels stay
inside the picture and off each other where there is room, and scores are shown where they are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .drawing import band, fonts
from .drawing.canvas import Canvas, label_padding
from .drawing.layout import Rect, collide, place
from .drawing.palette import Colour, class_colours, colour
from .errors import InputError
from .geometry import Float32Array
from .images import ImageSource, load_image
from .results import Detections, Polygons, Quads, Result, Text

_MASK_OPACITY = 0.42
_QUAD_OPACITY = 0.18
_LABEL_LINES = 2
_SMALLEST_LETTER = 10
_SMALLEST_PICTURE = 48
"""Pictures with a shorter side than this get no labels: they would hide everything."""
_CROWD = 24
"""More labels than this are set in smaller letters."""


def draw(result: Result, image: ImageSource, *, bgr: bool = False) -> Image.Image:
    """The picture with the answer on it, as a new RGB image.

    `image` and `bgr` are what `load_image` takes. The picture may be smaller or larger than the one the result was made
    from: coordinates are scaled to it. Its size stays, but for the band added below it for a `Text`, and for `Quads`
    too dense to be labelled in place (a picture narrower than 320 pixels is widened for that). A picture with a side
    below 48 pixels gets shapes without labels.
    Raises `ImageError` for an unusable image and `InputError` for a result of an unknown type.
    """
    picture = load_image(image, bgr=bgr)
    for kind, painter in _PAINTERS.items():
        if isinstance(result, kind):
            return painter(result, picture)
    raise InputError(
        f"cannot draw a {type(result).__name__}; allowed are {', '.join(kind.__name__ for kind in _PAINTERS)}"
    )


def _draw_detections(result: Detections, picture: Image.Image) -> Image.Image:
    """Boxes, and masks where the model answered with polygons."""
    canvas, scale = Canvas(picture), _scale(result, picture)
    colours = class_colours(result.labels, result.class_ids.tolist())
    boxes = [_rect(corners) for corners in (result.boxes.reshape(-1, 2, 2) * scale)]
    polygons = result.polygons or ((),) * len(boxes)
    for index in _large_first(boxes):
        if polygons[index]:
            _draw_instance(canvas, [ring * scale for ring in polygons[index]], colours[index])
        else:
            canvas.box(boxes[index], colours[index])
    letters = [_letter(canvas, len(boxes))] * len(boxes)
    _draw_labels(canvas, _labels(canvas, result.labels, result.scores, boxes, letters), colours)
    return canvas.image


def _draw_polygons(result: Polygons, picture: Image.Image) -> Image.Image:
    """Translucent masks with outlines; instances of one label are told apart by colour."""
    canvas, scale = Canvas(picture), _scale(result, picture)
    colours = [colour(index) for index in range(len(result))]
    instances = [[ring * scale for ring in rings] for rings in result.polygons]
    boxes = [_around(rings) for rings in instances]
    for index in _large_first(boxes):
        _draw_instance(canvas, instances[index], colours[index])
    letters = [_letter(canvas, len(boxes))] * len(boxes)
    _draw_labels(canvas, _labels(canvas, result.labels, result.scores, boxes, letters), colours)
    return canvas.image


def _draw_quads(result: Quads, picture: Image.Image) -> Image.Image:
    """Lines of text: their outlines and what they say.

    The words stand beside each line where they cover neither each other nor another line; where the lines are too dense
    for that, each line gets a number and the words are listed below the picture.
    """
    canvas = Canvas(picture)
    quads = result.quads * _scale(result, picture)
    colours = [colour(index) for index in range(len(result))]
    boxes = [_around([quad]) for quad in quads]
    for index in _large_first(boxes):
        canvas.area([quads[index]], colours[index], _QUAD_OPACITY)
        canvas.outline(quads[index], colours[index])
    letters = [
        min(_letter(canvas, len(boxes)), max(_SMALLEST_LETTER, round(_thickness(quad) * 0.75))) for quad in quads
    ]
    labels = _labels(canvas, result.texts, result.scores, boxes, letters)
    if not collide([label.rect for label in labels], boxes):
        _draw_labels(canvas, labels, colours)
        return canvas.image
    numbers = [str(number) for number in range(1, len(boxes) + 1)]
    _draw_labels(canvas, _labels(canvas, numbers, np.full(len(boxes), np.nan), boxes, letters), colours)
    scores = ["".join(_score(score)) for score in result.scores.tolist()]
    return band.with_list(canvas.image, _heading(result), result.texts, scores)


def _draw_text(result: Text, picture: Image.Image) -> Image.Image:
    """The text on a band below the picture."""
    return band.with_text(picture, _heading(result, *_score(result.score)), result.text.strip())


@dataclass(frozen=True)
class _Label:
    """A label that has been set and placed; `item` is the index of what it names."""

    item: int
    lines: Sequence[str]
    font: fonts.Font
    rect: Rect


_PAINTERS: dict[type[Result], Callable[[Any, Image.Image], Image.Image]] = {
    Detections: _draw_detections,
    Polygons: _draw_polygons,
    Quads: _draw_quads,
    Text: _draw_text,
}


def _draw_instance(canvas: Canvas, rings: Sequence[Float32Array], paint: Colour) -> None:
    """One mask: its rings tinted as a whole and outlined."""
    canvas.area(rings, paint, _MASK_OPACITY)
    for ring in rings:
        canvas.outline(ring, paint)


def _labels(
    canvas: Canvas, names: Sequence[str], scores: Float32Array, anchors: Sequence[Rect], letters: Sequence[int]
) -> list[_Label]:
    """Sets and places all labels of a picture; smaller things choose first, as larger ones have more room.

    Empty when the picture is too small for letters.
    """
    if min(canvas.size) < _SMALLEST_PICTURE:
        return []
    order = [
        index for index in reversed(_large_first(anchors)) if names[index].split() or not math.isnan(scores[index])
    ]
    texts = [_set(canvas, names[index], float(scores[index]), anchors[index], letters[index]) for index in order]
    sizes = [_label_size(lines, font) for lines, font in texts]
    rects = place(sizes, [anchors[index] for index in order], canvas.size, avoid=anchors)
    return [_Label(index, *text, rect) for index, text, rect in zip(order, texts, rects, strict=True)]


def _set(canvas: Canvas, name: str, score: float, anchor: Rect, letter: int) -> tuple[list[str], fonts.Font]:
    """One label: the name on two lines at most, cut where it is longer, and its score, which is never cut."""
    font, text = fonts.fit(" ".join(name.split()), letter)
    wish = max(anchor.width, round(canvas.size[0] * 0.35), letter * 8)
    room = min(canvas.size[0], wish) - 2 * label_padding(font)[0]
    return fonts.wrap(text, font, room, max_lines=_LABEL_LINES, end="".join(_score(score))), font


def _label_size(lines: Sequence[str], font: fonts.Font) -> tuple[int, int]:
    """Width and height of a label in pixels."""
    across, down = label_padding(font)
    width = math.ceil(max(font.getlength(line) for line in lines))
    return width + 2 * across, len(lines) * fonts.line_height(font) + 2 * down


def _draw_labels(canvas: Canvas, labels: Sequence[_Label], colours: Sequence[Colour]) -> None:
    """Paints labels; `colours` are those of all items."""
    for label in labels:
        canvas.label(label.rect, label.lines, label.font, colours[label.item])


def _letter(canvas: Canvas, count: int) -> int:
    """The size of the letters of `count` labels."""
    return max(_SMALLEST_LETTER, round(canvas.letter * math.sqrt(math.sqrt(_CROWD / max(count, _CROWD)))))


def _thickness(quad: Float32Array) -> float:
    """The height of a line of text [4, 2]: the mean length of the two edges that cross it."""
    return float(np.linalg.norm(quad[[3, 2]] - quad[[0, 1]], axis=1).mean())


def _score(score: float) -> list[str]:
    """A score as text; nothing where it is not known."""
    return [] if math.isnan(score) else [f"{score:.2f}"]


def _heading(result: Result, *details: str) -> str:
    """What stands above a band: the task, details, and whether the answer was cut short."""
    notes = ["cut short at the token limit"] if result.finish == "length" else []
    return " · ".join([result.task.strip("<>").replace("_", " ").lower(), *details, *notes])


def _scale(result: Result, picture: Image.Image) -> Float32Array:
    """From pixels of the original image to pixels of the picture, [2] float32 x y."""
    return np.array([picture.width / result.size.width, picture.height / result.size.height], dtype=np.float32)


def _rect(corners: Float32Array) -> Rect:
    """Two corners [2, 2] as whole pixels, one at least in each direction."""
    left, top = (math.floor(value + 0.5) for value in corners[0].tolist())
    right, bottom = (math.floor(value + 0.5) for value in corners[1].tolist())
    return Rect(left, top, max(right, left + 1), max(bottom, top + 1))


def _around(rings: Sequence[Float32Array]) -> Rect:
    """The box around rings."""
    points = np.concatenate(rings)
    return _rect(np.stack([points.min(axis=0), points.max(axis=0)]))


def _large_first(boxes: Sequence[Rect]) -> list[int]:
    """Indices by falling area, so that small things are drawn over large ones."""
    return sorted(range(len(boxes)), key=lambda index: -boxes[index].width * boxes[index].height)
