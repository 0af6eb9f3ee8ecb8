"""Scenes for people to look at: the truth as JSON, and a contact sheet with the truth drawn over the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from . import captions
from .phrases import full
from .scene import Scene

_INKS = ("#ff4d4d", "#ffd24d", "#4dff88", "#4dd2ff", "#b388ff", "#ff8ad8", "#ffffff", "#ffa64d")
_CAPTION_LINES = 3


def truth(scene: Scene) -> dict[str, Any]:
    """A scene's truth as plain values: pixels, words, no masks (their polygons stand for them)."""
    return {
        "seed": scene.seed,
        "index": scene.index,
        "width": scene.size.width,
        "height": scene.size.height,
        "table": scene.table,
        "wall": scene.wall,
        "caption": captions.brief(scene),
        "detailed_caption": captions.detailed(scene),
        "more_detailed_caption": captions.paragraph(scene),
        "objects": [
            {
                "kind": thing.kind,
                "colour": thing.colour,
                "size": thing.size,
                "texture": thing.texture,
                "box": _rounded(thing.box),
                "polygons": [_rounded(ring) for ring in thing.polygons],
                "visible": round(thing.visible, 3),
                "depth": thing.depth,
                "row": thing.row,
                "ground": [round(value, 3) for value in thing.ground],
            }
            for thing in scene.objects
        ],
        "labels": [
            {"text": label.text, "quad": _rounded(label.quad), "object": label.carrier} for label in scene.labels
        ],
    }


def contact_sheet(scenes: Sequence[Scene], *, columns: int = 4, cell: int = 384) -> Image.Image:
    """The scenes in a grid, each `cell` pixels wide with boxes, outlines, quads and the detailed caption."""
    cells = [_cell(scene, cell) for scene in scenes]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    width = cell * min(columns, len(cells))
    sheet = Image.new("RGB", (width, sum(max(item.height for item in row) for row in rows)), "#1b1b1f")
    top = 0
    for row in rows:
        for place, item in enumerate(row):
            sheet.paste(item, (place * cell, top))
        top += max(item.height for item in row)
    return sheet


def _rounded(values: Any) -> Any:
    return values.astype(float).round(2).tolist()


def _cell(scene: Scene, width: int) -> Image.Image:
    scale = width / scene.size.width
    height = round(scene.size.height * scale)
    font = ImageFont.load_default(12)
    line = 15
    picture = Image.fromarray(scene.image).resize((width, height), Image.Resampling.BICUBIC)
    cell = Image.new("RGB", (width, height + line * (_CAPTION_LINES + len(scene.labels[:1])) + 6), "#1b1b1f")
    cell.paste(picture)
    draw = ImageDraw.Draw(cell)
    for number, thing in enumerate(scene.objects):
        ink = _INKS[number % len(_INKS)]
        for ring in thing.polygons:
            points = [(float(x) * scale, float(y) * scale) for x, y in ring]
            draw.line([*points, points[0]], fill=ink, width=1)
        box = [float(value) * scale for value in thing.box]
        draw.rectangle(box, outline=ink)
        words = full(thing).text
        left, top = max(0.0, min(box[0], width - draw.textlength(words, font) - 4)), max(0.0, box[1] - line)
        draw.rectangle([left, top, left + draw.textlength(words, font) + 4, top + line - 1], fill="#000000")
        draw.text((left + 2, top), words, fill=ink, font=font)
    for label in scene.labels:
        points = [(float(x) * scale, float(y) * scale) for x, y in label.quad]
        draw.line([*points, points[0]], fill="#00ffcc", width=2)
        draw.ellipse([points[0][0] - 3, points[0][1] - 3, points[0][0] + 3, points[0][1] + 3], fill="#ff0066")
    read = f" Text: {', '.join(label.text for label in scene.labels)}." if scene.labels else ""
    for number, words in enumerate(_wrap(draw, captions.detailed(scene) + read, width - 8, font)):
        draw.text((4, height + 3 + number * line), words, fill="#dddddd", font=font)
    return cell


def _wrap(draw: ImageDraw.ImageDraw, text: str, width: float, font: Any) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
