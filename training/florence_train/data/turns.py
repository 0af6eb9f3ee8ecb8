"""The de facto text form of an example: a prefix that asks and a suffix that answers.

    {"image": "7.jpg", "prefix": "<OD>", "suffix": "cup<loc_10><loc_20><loc_300><loc_400>"}

A prefix is a task token with its input behind it (`<CAPTION_TO_PHRASE_GROUNDING>a red cup`,
`<REGION_TO_CATEGORY><loc_1><loc_2><loc_3><loc_4>`), the prompt sentence of a task, or a prompt of one's own. Reading
and writing go through the SDK's task table, prompts and grammar alone.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from florence_edge.errors import InputError
from florence_edge.geometry import Float32Array, ImageSize
from florence_edge.grammar import ParseOptions, format_answer, parse, prompt_for
from florence_edge.locations import dequantise
from florence_edge.results import Detections, Polygons, Quads, Result
from florence_edge.tasks import CLASS_SEPARATOR, FREE_PROMPT, TASKS, Grammar, InputKind, Task, find
from florence_edge.vocabulary import LOCATION_BINS
from florence_train.examples import NOTHING, Example, Given, as_box

from .truths import TOLERANCE, text

_TOKEN = re.compile(r"<([A-Z][A-Za-z_]*)>")
_LOCATION = re.compile(r"<loc_([0-9]+)>")
_TRAILING = re.compile(r"(?:<loc_[0-9]+>)+\s*$")
_BY_TOKEN = {task.token: task for task in TASKS}


def read_turn(prefix: str, suffix: str, size: ImageSize) -> Example:
    """The example that a prefix and a suffix spell, about an image of `size`.

    Raises `InputError` for what cannot be read; what can be read but not asked is for `check_example` to find.
    """
    task, given = read_prefix(prefix, size)
    return Example(task.token, given, _target(task, suffix, size))


def read_prefix(prefix: str, size: ImageSize) -> tuple[Task, Given]:
    """The task and the input that a prefix spells; `InputError` for what cannot be read."""
    task, written = _split(prefix)
    return task, _input(task, written, size)


def write_turn(example: Example, size: ImageSize) -> tuple[str, str]:
    """Prefix and suffix of an example: the inverse of `read_turn`."""
    task = find(example.task)
    return write_prefix(task, example.input, size), format_answer(task, example.target)


def write_prefix(task: Task, given: Given, size: ImageSize) -> str:
    """The prefix that asks a task: the inverse of `read_prefix`."""
    sentence = prompt_for(task, given, size)
    before, _, after = task.prompt.partition("{input}")
    written = "" if task.input is InputKind.NONE else sentence[len(before) : len(sentence) - len(after)]
    return ("" if task is FREE_PROMPT else task.token) + written


def check_example(example: Example, size: ImageSize) -> None:
    """Raises `InputError` where an example cannot be asked or answered in the model's language."""
    task = find(example.task)
    prompt_for(task, example.input, size)
    outside = _outside(example.target, size)
    if outside:
        raise InputError(f"{outside} outside the image of {size.width} x {size.height} pixels")
    if not format_answer(task, example.target):
        raise InputError("the answer is empty")


def _split(prefix: str) -> tuple[Task, str]:
    """The task that a prefix names or whose sentence it is, and its input as written."""
    token = _TOKEN.match(prefix)
    if token:
        if token.group() not in _BY_TOKEN:
            raise InputError(
                f"unknown task {token.group()}; the tasks are {', '.join(_BY_TOKEN)}, and a prompt of your own is "
                "written without a token"
            )
        return _BY_TOKEN[token.group()], prefix[token.end() :].strip()
    for task in sorted(TASKS, key=lambda task: task.input is not InputKind.NONE):
        before, _, after = task.prompt.partition("{input}")
        inner = prefix[len(before) : len(prefix) - len(after)]
        if prefix == before + inner + after and bool(inner) == (task.input is not InputKind.NONE):
            if task.input is InputKind.BOX and not _LOCATION.match(inner):
                continue
            return task, inner
    return FREE_PROMPT, prefix


def _input(task: Task, written: str, size: ImageSize) -> Given:
    if task.input is InputKind.NONE:
        if written:
            raise InputError(f"{task.token} takes no input; got {written!r}")
        return None
    if task.input is InputKind.CLASSES:
        return tuple(written.split(CLASS_SEPARATOR))
    if task.input is InputKind.PHRASE:
        return written
    bins = _bins(written)
    if len(bins) != 4 or _LOCATION.sub("", written).strip():
        raise InputError(f"{task.token} takes a region as four location tokens; got {written!r}")
    return as_box(dequantise(bins, size))


def _target(task: Task, suffix: str, size: ImageSize) -> Result:
    if not suffix.strip():
        raise InputError("the suffix is empty")
    if suffix.strip() == NOTHING:
        return text(task.token, NOTHING, size)
    bins = _bins(suffix)
    if task.grammar is Grammar.TEXT:
        # The published models write the region again behind what they say of it.
        words = _TRAILING.sub("", suffix) if task.input is InputKind.BOX else suffix
        return text(task.token, words, size)
    result = parse(task, suffix, size, options=ParseOptions(skip_ungroundable=False))
    if result.dropped or not len(result):
        raise InputError(f"the suffix is no answer to {task.token} ({task.grammar.value}): {suffix!r:.120}")
    if _bins(format_answer(task, result)) != bins:
        raise InputError(f"the corners of a box are not in the order x1 y1 x2 y2: {suffix!r:.120}")
    return replace(result, raw="")


def _bins(text: str) -> list[int]:
    """The location bins of a text, none past the last."""
    bins = [int(digits) for digits in _LOCATION.findall(text)]
    beyond = [index for index in bins if index >= LOCATION_BINS]
    if beyond:
        raise InputError(f"<loc_{beyond[0]}> is no token; the last is <loc_{LOCATION_BINS - 1}>")
    return bins


def _outside(target: Result, size: ImageSize) -> str:
    """What of an answer lies outside the image."""
    limit = np.array(size, np.float32) + TOLERANCE
    named: list[tuple[str, Float32Array]] = []
    if isinstance(target, Detections):
        named = [(f"box {index} {box.tolist()} lies", box.reshape(2, 2)) for index, box in enumerate(target.boxes)]
    elif isinstance(target, Polygons):
        named = [("a point of a polygon lies", ring) for rings in target.polygons for ring in rings]
    elif isinstance(target, Quads):
        named = [
            (f"the corners of {words!r} lie", quad) for words, quad in zip(target.texts, target.quads, strict=True)
        ]
    for what, points in named:
        if (points < -TOLERANCE).any() or (points > limit).any():
            return what
    return ""
