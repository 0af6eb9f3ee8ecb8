"""Text with corners in the form of ICDAR 2015: a file `gt_NAME.txt` per image, `x1,y1,...,x4,y4,text` per line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from florence_edge.errors import InputError
from florence_edge.geometry import Float32Array, ImageSize
from florence_edge.images import IMAGE_SUFFIXES
from florence_edge.results import Quads
from florence_train.examples import Box, Example, as_box

from .collector import Collector, allowed_tasks
from .record import Check, Dataset
from .truths import text, unknown

TASKS = ("<OCR_WITH_REGION>", "<OCR>", "<REGION_TO_OCR>")
PREFIX = "gt_"
ILLEGIBLE = "###"
"""What ICDAR writes for text that nobody can read; such lines are left out."""


def read_ocr(
    folder: str | Path, *, images: Path | None = None, tasks: Sequence[str] = (), check: Check = "decode"
) -> Dataset:
    """Reads the text files of a folder; images are looked for in `images`, by default the same folder.

    `tasks` says what to ask, any of `TASKS` (default `<OCR_WITH_REGION>`). `<OCR>` joins the lines with a space.
    """
    path = Path(folder)
    files = sorted(path.glob(f"{PREFIX}*.txt"))
    if not files:
        raise InputError(f"{path} holds no {PREFIX}*.txt file")
    chosen = allowed_tasks(path, tasks, TASKS) or TASKS[:1]
    collector = Collector(path / "annotations", images=images, check=check)
    pictures = {file.stem: file.name for file in (images or path).iterdir() if file.suffix.lower() in IMAGE_SUFFIXES}
    for file in files:
        name = pictures.get(file.stem[len(PREFIX) :], f"{file.stem[len(PREFIX) :]}.jpg")
        size = collector.image(file.name, name)
        if size is None:
            continue
        lines = _lines(collector, file, size)
        for task in chosen:
            for example in _examples(task, lines, size):
                collector.add(file.name, name, example)
    return collector.dataset()


def _lines(collector: Collector, file: Path, size: ImageSize) -> list[tuple[Float32Array, str]]:
    """The legible lines of a file: corners [4, 2] and text."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        parts = line.strip().split(",", 8)
        if not line.strip() or parts[-1] == ILLEGIBLE:
            continue
        place = f"{file.name}, line {number}"
        try:
            quad = np.array([float(part) for part in parts[:8]], np.float32).reshape(4, 2)
            words = parts[8].strip()
        except (ValueError, IndexError):
            collector.fault(place, f"a line is x1,y1,x2,y2,x3,y3,x4,y4,text; got {line.strip()!r:.80}")
            continue
        if not words:
            collector.fault(place, "the text is empty")
        elif (quad < -1).any() or (quad > np.array(size, np.float32) + 1).any():
            collector.fault(place, f"the corners of {words!r} lie outside the image of {size.width} x {size.height}")
        else:
            found.append((quad, words))
    return found


def _examples(task: str, lines: Sequence[tuple[Float32Array, str]], size: ImageSize) -> list[Example]:
    if not lines:
        return []
    if task == "<OCR>":
        return [Example(task, None, text(task, " ".join(words for _, words in lines), size))]
    if task == "<OCR_WITH_REGION>":
        corners = np.stack([quad for quad, _ in lines])
        texts = tuple(words for _, words in lines)
        return [Example(task, None, Quads(task, size, unknown(len(texts)), quads=corners, texts=texts))]
    return [Example(task, _box(quad, size), text(task, words, size)) for quad, words in lines]


def _box(quad: Float32Array, size: ImageSize) -> Box:
    points = quad.clip(0, np.array(size, np.float32))
    return as_box([*points.min(axis=0), *points.max(axis=0)])
