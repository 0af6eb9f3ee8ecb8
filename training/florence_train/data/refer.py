"""RefCOCO-style annotations: expressions, each with the box or the mask of the one object it means.

    [{"image": "7.jpg", "bbox": [x, y, width, height], "segmentation": ..., "sentences": ["the left cup", ...]}, ...]

`box` (x1 y1 x2 y2) may stand for `bbox`; a sentence may be an object with `sent`, as in the published files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from florence_edge.errors import InputError
from florence_edge.geometry import Float32Array, ImageSize
from florence_train.examples import Example

from .collector import Collector, allowed_tasks, read_json
from .masks import rings_of
from .record import Check, Dataset
from .truths import Region, checked, corners_of, detections, mask

GROUND, SEGMENT = "<CAPTION_TO_PHRASE_GROUNDING>", "<REFERRING_EXPRESSION_SEGMENTATION>"
TASKS = (GROUND, SEGMENT)


def read_refer(
    file: str | Path, *, images: Path | None = None, tasks: Sequence[str] = (), check: Check = "decode"
) -> Dataset:
    """Reads expressions as questions to ground and, where an object has a segmentation, to segment.

    `tasks` limits them to some of `TASKS`. Image names are relative to `images`, by default the file's folder.
    """
    path = Path(file)
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path} is no file of referring expressions: it must hold a list")
    chosen = allowed_tasks(path, tasks, TASKS) or TASKS
    collector = Collector(path, images=images, check=check)
    for index, row in enumerate(rows):
        place = f"[{index}]"
        if not isinstance(row, dict) or not isinstance(row.get("image"), str):
            collector.fault(place, "an entry needs image, bbox or box, and sentences")
            continue
        size = collector.image(place, row["image"])
        if size is None:
            continue
        try:
            for example in _examples(place, row, size, chosen):
                collector.add(place, row["image"], example)
        except InputError as error:
            collector.fault(place, str(error))
    return collector.dataset()


def _examples(place: str, row: dict[str, Any], size: ImageSize, tasks: Sequence[str]) -> list[Example]:
    box = _box(row, size)
    wanted = row.get("segmentation") is not None and SEGMENT in tasks
    rings = rings_of(row["segmentation"], size) if wanted else ()
    examples = []
    for sentence in _sentences(row):
        region = Region(place, sentence, box, rings)
        if GROUND in tasks:
            examples.append(Example(GROUND, sentence, detections(GROUND, [region], size)))
        if rings:
            examples.append(Example(SEGMENT, sentence, mask(SEGMENT, region, size)))
    return examples


def _box(row: dict[str, Any], size: ImageSize) -> Float32Array:
    if "bbox" in row:
        return corners_of(row["bbox"], size)
    given = row.get("box")
    if not isinstance(given, list) or not all(isinstance(value, (int, float)) for value in given):
        raise InputError("an entry needs bbox (x, y, width, height) or box (x1, y1, x2, y2)")
    return checked(given, size)


def _sentences(row: dict[str, Any]) -> list[str]:
    given = row.get("sentences")
    rows = given if isinstance(given, list) else []
    values = [value.get("sent") if isinstance(value, dict) else value for value in rows]
    sentences = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    if not sentences or len(sentences) < len(values):
        raise InputError(f"sentences are a list of one text or more; got {given!r:.80}")
    return sentences
