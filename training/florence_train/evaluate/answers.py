"""Asking: every question of a record in one call, so that its image is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from florence_edge.errors import FlorenceError
from florence_edge.geometry import ImageSize
from florence_edge.grammar import ParseOptions, parse, prompt_for
from florence_edge.model import Florence
from florence_edge.options import SearchOptions
from florence_edge.results import Detections, Result, Text
from florence_edge.tasks import Grammar, Task, find
from florence_train.data import Record
from florence_train.examples import NOTHING, Given


@dataclass(frozen=True, eq=False)
class Answer:
    """A question about an image, its right answers (boxes are measured against the first), and the model's answer.

    `image` numbers the record, which several answers share. A question that the model could not answer has the empty
    answer as `found`, and the reason in `error`.
    """

    image: int
    record: Record
    task: Task
    given: Given
    truths: tuple[Result, ...]
    found: Result
    error: str = ""


def ask(
    model: Florence,
    records: Iterable[Record],
    *,
    search: SearchOptions | None = None,
    batch_size: int = 8,
    on_image: Callable[[], Any] = lambda: None,
) -> Iterator[Answer]:
    """The answers to all questions of the records, `batch_size` images at a time."""
    numbered = enumerate(records)
    while chunk := list(islice(numbered, batch_size)):
        questions = [question for image, record in chunk for question in _questions(image, record)]
        yield from _answered(model, questions, search, batch_size)
        for _ in chunk:
            on_image()


def _questions(image: int, record: Record) -> list[Answer]:
    """The distinct questions of a record, each with all its right answers and none of the model's yet."""
    asked: dict[tuple[str, str], Answer] = {}
    for example in record.examples:
        task = find(example.task)
        key = (task.token, prompt_for(task, example.input, record.size))
        truth = as_answer(task, example.target)
        known = asked.get(key)
        empty = nothing(task, example.input, record.size)
        asked[key] = (
            replace(known, truths=(*known.truths, truth))
            if known
            else Answer(image, record, task, example.input, (truth,), empty)
        )
    return list(asked.values())


def _answered(
    model: Florence, questions: Sequence[Answer], search: SearchOptions | None, batch_size: int
) -> list[Answer]:
    """The questions with the model's answers; a picture that cannot be read costs its own questions only."""
    pictures: dict[int, Any] = {}
    unread: dict[int, str] = {}
    for question in questions:
        if question.image not in pictures and question.image not in unread:
            try:
                pictures[question.image] = question.record.picture.load()
            except FlorenceError as error:
                unread[question.image] = str(error)
    items = [(pictures[q.image], q.task.token, q.given) for q in questions if q.image in pictures]
    found = iter(model.run_many(items, search=search, batch_size=batch_size, errors="return"))
    answers = []
    for question in questions:
        result = next(found) if question.image in pictures else unread[question.image]
        if isinstance(result, Result):
            answers.append(replace(question, found=result))
        else:
            answers.append(replace(question, error=str(result)))
    return answers


def as_answer(task: Task, target: Result) -> Result:
    """The truth in the form of the task's results: the words that say there is nothing become an empty answer."""
    if isinstance(target, Text) and target.text == NOTHING and task.grammar is not Grammar.TEXT:
        return nothing(task, None, target.size)
    return target


def nothing(task: Task, given: Given, size: ImageSize) -> Result:
    """The empty answer to a question."""
    return parse(task, "", size, options=ParseOptions.for_input(task, given))


def detections_in(result: Result) -> Detections:
    """The boxes of an answer; none for an answer of another kind."""
    if isinstance(result, Detections):
        return result
    empty = np.zeros(0, np.float32)
    boxes, ids = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return Detections(result.task, result.size, empty, boxes=boxes, labels=(), class_ids=ids)
