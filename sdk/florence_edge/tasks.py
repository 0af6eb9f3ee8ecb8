"""The fifteen tasks of Florence-2 as one table: this module alone knows prompts, input kinds and answer forms.

Prompt sentences and tokens are those of the published processor (microsoft/Florence-2, processing_florence2.py). None
of the task tokens is in the vocabulary: the model is asked with the sentence, never with the token.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import Enum

from .errors import InputError


class InputKind(Enum):
    """What a task takes besides the image."""

    NONE = "nothing"
    PHRASE = "a phrase"
    CLASSES = "a class name or a list of class names"
    BOX = "a box (x1, y1, x2, y2) in pixels of the original image"


class Grammar(Enum):
    """The form of a task's answer; `grammar.py` parses and formats each."""

    TEXT = "text"
    LABELLED_BOXES = "labelled boxes"  # label <loc>x4 [<loc>x4 ...] label ...
    BOXES = "boxes"  # <loc>x4 ...
    PHRASE_BOXES = "phrase boxes"  # phrase <loc>x4 [<loc>x4 ...] ...
    QUADS = "quads"  # text <loc>x8 ...
    POLYGONS = "polygons"  # <loc>x2n [<sep> <loc>x2n ...]
    LABELLED_BOXES_OR_POLYGONS = "labelled boxes or polygons"  # label <loc>x4 | label <poly> ... </poly>


@dataclass(frozen=True)
class Task:
    """One row of the table.

    `method` is the method of `Florence` that asks it.
    `prompt` is the sentence sent to the encoder, with `{input}` where the input goes. `budget` is the default limit of
    new tokens, generous for the answers the task can have, so that a runaway answer ends early.
    """

    token: str
    method: str
    prompt: str
    input: InputKind
    grammar: Grammar
    budget: int

    @property
    def name(self) -> str:
        """The upstream token without its brackets, in lower case: `<OD>` is `od`."""
        return self.token.strip("<>").lower()


TASKS: tuple[Task, ...] = (
    Task("<CAPTION>", "caption", "What does the image describe?", InputKind.NONE, Grammar.TEXT, 64),
    Task(
        "<DETAILED_CAPTION>",
        "caption",
        "Describe in detail what is shown in the image.",
        InputKind.NONE,
        Grammar.TEXT,
        160,
    ),
    Task(
        "<MORE_DETAILED_CAPTION>",
        "caption",
        "Describe with a paragraph what is shown in the image.",
        InputKind.NONE,
        Grammar.TEXT,
        400,
    ),
    Task("<OCR>", "read", "What is the text in the image?", InputKind.NONE, Grammar.TEXT, 1023),
    Task(
        "<OCR_WITH_REGION>",
        "read_regions",
        "What is the text in the image, with regions?",
        InputKind.NONE,
        Grammar.QUADS,
        1023,
    ),
    Task(
        "<OD>",
        "detect",
        "Locate the objects with category name in the image.",
        InputKind.NONE,
        Grammar.LABELLED_BOXES,
        1023,
    ),
    Task(
        "<DENSE_REGION_CAPTION>",
        "describe_regions",
        "Locate the objects in the image, with their descriptions.",
        InputKind.NONE,
        Grammar.LABELLED_BOXES,
        1023,
    ),
    Task(
        "<REGION_PROPOSAL>",
        "propose",
        "Locate the region proposals in the image.",
        InputKind.NONE,
        Grammar.BOXES,
        1023,
    ),
    Task(
        "<CAPTION_TO_PHRASE_GROUNDING>",
        "ground",
        "Locate the phrases in the caption: {input}",
        InputKind.PHRASE,
        Grammar.PHRASE_BOXES,
        512,
    ),
    Task(
        "<REFERRING_EXPRESSION_SEGMENTATION>",
        "segment",
        "Locate {input} in the image with mask",
        InputKind.PHRASE,
        Grammar.POLYGONS,
        1023,
    ),
    Task(
        "<REGION_TO_SEGMENTATION>",
        "segment_region",
        "What is the polygon mask of region {input}",
        InputKind.BOX,
        Grammar.POLYGONS,
        1023,
    ),
    Task(
        "<OPEN_VOCABULARY_DETECTION>",
        "detect",
        "Locate {input} in the image.",
        InputKind.CLASSES,
        Grammar.LABELLED_BOXES_OR_POLYGONS,
        1023,
    ),
    Task("<REGION_TO_CATEGORY>", "classify_region", "What is the region {input}?", InputKind.BOX, Grammar.TEXT, 32),
    Task(
        "<REGION_TO_DESCRIPTION>",
        "describe_region",
        "What does the region {input} describe?",
        InputKind.BOX,
        Grammar.TEXT,
        96,
    ),
    Task("<REGION_TO_OCR>", "read_region", "What text is in the region {input}?", InputKind.BOX, Grammar.TEXT, 256),
)

FREE_PROMPT = Task("<ASK>", "ask", "{input}", InputKind.PHRASE, Grammar.TEXT, 256)
"""A prompt of the user's own, answered as text (how VQA fine-tunes are asked); not one of the fifteen."""

DETAIL = {"brief": "<CAPTION>", "detailed": "<DETAILED_CAPTION>", "paragraph": "<MORE_DETAILED_CAPTION>"}
"""Values of the `detail` argument of `Florence.caption`."""

NOTHING = "No object detected."
"""What the published checkpoints may answer where there is nothing: an empty answer, not a malformed one."""

CLASS_SEPARATOR = "<and>"
"""Joins the class names of one open-vocabulary question."""

_BY_NAME = {task.name: task for task in (*TASKS, FREE_PROMPT)}


def find(name: str, *, with_input: bool = False) -> Task:
    """The row of a task.

    `name` is an upstream token (`<OD>`), the token without brackets (`od`), or a method of `Florence` (`detect`); case
    does not matter. A method that serves two tasks is told apart by `with_input`: `detect` is `<OD>` without an input
    and `<OPEN_VOCABULARY_DETECTION>` with one. Raises `InputError` for any other name.
    """
    if not isinstance(name, str):
        raise InputError(f"a task is named by a string, such as '<OD>' or 'detect'; got {name!r:.80}")
    key = name.strip().strip("<>").lower()
    if key in _BY_NAME:
        return _BY_NAME[key]
    rows = [task for task in TASKS if task.method == key]
    for task in rows:
        if (task.input is not InputKind.NONE) == with_input:
            return task
    if rows:
        return rows[0]
    methods = list(dict.fromkeys(task.method for task in (*TASKS, FREE_PROMPT)))
    close = difflib.get_close_matches(key, [*methods, *_BY_NAME], n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise InputError(
        f"unknown task {name!r}; {meant}the tasks are: {', '.join(methods)}, or upstream's tokens such as <OD>"
    )
