"""A scene's truth as questions and answers for the fifteen tasks, in pixels; the SDK's grammar makes strings of them.

Rules that make an answer a function of picture and question:

- Objects, labels and boxes run left to right by the centre of the visible box (of the quad, for text).
- `<OD>` names kinds; `<DENSE_REGION_CAPTION>` and `<REGION_TO_DESCRIPTION>` say everything ("large striped red cube").
- Phrases to ground or segment mean one object alone (see `phrases.py`); every noun phrase of a caption gets its box,
  spelled as in the caption, in its order.
- Open-vocabulary classes of one question fit no object twice. Where none of them is there, and for a region that holds
  no object, the answer is the family's own literal, `NOTHING`.
- `<OCR>` joins the labels with a space. Where there is no text, what is read is empty.
- Regions asked about are the visible boxes, each side moved by up to `regions.JITTER` of the box's own size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import asked, captions, regions
from .answers import NOTHING, Example, detections, quads, text
from .phrases import full
from .scene import Scene


def examples(scene: Scene, rng: np.random.Generator, *, per_task: int = 1) -> list[Example]:
    """Questions about a scene in the order of the task table, with up to `per_task` for each task that takes an input.

    Tasks that a scene cannot pose are left out: none of the phrases or regions exists, or no text is there to be read
    (then asked with a chance of `regions.EMPTY_READS`). A scene with two unlike objects and a label poses all fifteen.
    """
    found: list[Example] = []
    for task, make in _MAKERS.items():
        found += make(scene, rng, task, per_task)
    return found


def _caption(scene: Scene, rng: np.random.Generator, task: str, per_task: int) -> list[Example]:
    say = {"<CAPTION>": captions.brief, "<DETAILED_CAPTION>": captions.detailed}.get(task, captions.paragraph)
    return [Example(task, None, text(scene, task, say(scene)))]


def _ocr(scene: Scene, rng: np.random.Generator, task: str, per_task: int) -> list[Example]:
    if not scene.labels and rng.random() >= regions.EMPTY_READS:
        return []
    if task == "<OCR>":
        return [Example(task, None, text(scene, task, " ".join(label.text for label in scene.labels)))]
    return [Example(task, None, quads(scene, task))]


def _all_objects(scene: Scene, rng: np.random.Generator, task: str, per_task: int) -> list[Example]:
    labels = {
        "<OD>": [thing.kind for thing in scene.objects],
        "<DENSE_REGION_CAPTION>": [full(thing).text for thing in scene.objects],
        "<REGION_PROPOSAL>": [""] * len(scene.objects),
    }[task]
    if not labels:
        return [Example(task, None, text(scene, task, NOTHING))]
    return [Example(task, None, detections(scene, task, range(len(labels)), labels))]


_MAKERS: dict[str, Callable[[Scene, np.random.Generator, str, int], list[Example]]] = {
    "<CAPTION>": _caption,
    "<DETAILED_CAPTION>": _caption,
    "<MORE_DETAILED_CAPTION>": _caption,
    "<OCR>": _ocr,
    "<OCR_WITH_REGION>": _ocr,
    "<OD>": _all_objects,
    "<DENSE_REGION_CAPTION>": _all_objects,
    "<REGION_PROPOSAL>": _all_objects,
    "<CAPTION_TO_PHRASE_GROUNDING>": asked.ground,
    "<REFERRING_EXPRESSION_SEGMENTATION>": asked.refer,
    "<REGION_TO_SEGMENTATION>": regions.about_region,
    "<OPEN_VOCABULARY_DETECTION>": asked.open_vocabulary,
    "<REGION_TO_CATEGORY>": regions.about_region,
    "<REGION_TO_DESCRIPTION>": regions.about_region,
    "<REGION_TO_OCR>": regions.text_in_region,
}
"""Task -> what makes its examples, in the order of `florence_edge.tasks.TASKS`."""
