"""What is asked about every image: tasks, and where the inputs of those that need one come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from florence_edge.errors import FlorenceError, InputError, listing
from florence_edge.model import Florence
from florence_edge.options import SearchOptions
from florence_edge.results import Detections, Quads, Result, Text
from florence_edge.stream import Ask
from florence_edge.stream.asks import as_asks
from florence_edge.tasks import InputKind, Task, find
from florence_edge.view import Prepared, View
from florence_train.data.turns import read_prefix, write_prefix
from florence_train.examples import Given, as_box

_REGIONS = ("<OD>", "<DENSE_REGION_CAPTION>", "<OPEN_VOCABULARY_DETECTION>", "<REGION_PROPOSAL>")

INPUTS_FROM: Mapping[str, tuple[str, ...]] = {
    "<CAPTION_TO_PHRASE_GROUNDING>": ("<DETAILED_CAPTION>", "<CAPTION>", "<MORE_DETAILED_CAPTION>"),
    "<REFERRING_EXPRESSION_SEGMENTATION>": ("<DENSE_REGION_CAPTION>", "<OD>"),
    "<REGION_TO_SEGMENTATION>": _REGIONS,
    "<REGION_TO_CATEGORY>": _REGIONS,
    "<REGION_TO_DESCRIPTION>": _REGIONS,
    "<REGION_TO_OCR>": ("<OCR_WITH_REGION>", *_REGIONS),
}
"""Task -> the tasks whose answers can give its inputs; the first of them that is asked does."""


@dataclass(frozen=True)
class Plan:
    """The questions about every image.

    `asks` are asked as they stand; each of `derived` (a task and the task its inputs come from) once for every caption,
    phrase or box of an answer, at most `most` times an image. `search` changes how answers are searched for.
    """

    asks: tuple[Ask, ...]
    derived: tuple[tuple[Task, str], ...] = ()
    most: int = 32
    search: SearchOptions | None = None

    @classmethod
    def of(
        cls,
        tasks: Iterable[str | Sequence[Any]],
        *,
        most: int = 32,
        search: SearchOptions | None = None,
    ) -> Plan:
        """The plan for tasks as users name them, each alone or as `(task, input)`; `InputError` lists all faults.

        A task that takes an input and is given none gets its inputs from another task of the plan.
        """
        given = [(task, None) if isinstance(task, str) else tuple(task) for task in tasks]
        rows = [find(entry[0], with_input=entry[1] is not None) for entry in given]
        asked = [row.token for row in rows]
        faults = [f"{token} is given twice" for token in dict.fromkeys(asked) if asked.count(token) > 1]
        roots: list[Any] = []
        derived: list[tuple[Task, str]] = []
        for row, entry in zip(rows, given, strict=True):
            if row.input is InputKind.NONE or entry[1] is not None:
                roots.append((row.token, *entry[1:]))
                continue
            sources = INPUTS_FROM.get(row.token, ())
            source = next((token for token in sources if token in asked and token != row.token), None)
            if source is None:
                others = f", or ask one of {', '.join(sources)} besides" if sources else ""
                faults.append(f"{row.token} takes {row.input.value}; give it one{others}")
            else:
                derived.append((row, source))
        if most < 1:
            faults.append(f"most is {most}; it must be 1 or more")
        if faults:
            raise InputError(listing("this plan cannot be followed:", faults))
        return cls(as_asks(roots), tuple(derived), most, search)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tokens of all tasks asked."""
        return tuple(dict.fromkeys([*(ask.row.token for ask in self.asks), *(task.token for task, _ in self.derived)]))

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides the questions, as plain values."""
        return {
            "asks": [ask.to_dict() for ask in self.asks],
            "derived": [[task.token, source] for task, source in self.derived],
            "most": self.most,
            "search": asdict(self.search or SearchOptions()),
        }

    def questions(self, answers: Iterable[Result]) -> dict[str, tuple[Task, Given]]:
        """What the answers to `asks` lead to ask, by prefix: the distinct inputs of the derived tasks.

        Inputs that no question can hold, such as an empty caption, are left out.
        """
        results = list(answers)
        questions: dict[str, tuple[Task, Given]] = {}
        for task, source in self.derived:
            found: dict[str, tuple[Task, Given]] = {}
            for result in results:
                for given in _inputs(task, result) if result.task == source else ():
                    with suppress(InputError):
                        found[write_prefix(task, given, result.size)] = (task, given)
            questions |= dict(islice(found.items(), self.most))
        return questions


@dataclass(frozen=True, eq=False)
class Answered:
    """A question about an image with the model's answer; `prefix` is the question as training data spells it."""

    prefix: str
    task: Task
    given: Given
    result: Result

    @classmethod
    def of(cls, prefix: str, result: Result) -> Answered:
        """The answer to the question that a prefix spells."""
        task, given = read_prefix(prefix, result.size)
        return cls(prefix, task, given, result)


def answer(model: Florence, image: Prepared, *, plan: Plan) -> tuple[dict[str, Result], dict[str, FlorenceError]]:
    """All answers about one image, and the errors of questions that have none, by prefix; the image is encoded once.

    An input of the plan's that does not fit this image, such as a box outside it, is an error of its question, too.
    """
    view = model.encode(image)
    errors: dict[str, FlorenceError] = {}
    questions: dict[str, tuple[Task, Given]] = {}
    for ask in plan.asks:
        task, given = ask.row, _given(ask)
        try:
            questions[write_prefix(task, given, view.size)] = (task, given)
        except InputError as error:
            errors[task.token] = error
    answers = _asked(model, view, questions, plan.search)
    first = (found for found in answers.values() if isinstance(found, Result))
    answers |= _asked(model, view, plan.questions(first), plan.search)
    results = {prefix: found for prefix, found in answers.items() if isinstance(found, Result)}
    errors |= {prefix: found for prefix, found in answers.items() if isinstance(found, FlorenceError)}
    return results, errors


def _asked(
    model: Florence, view: View, questions: Mapping[str, tuple[Task, Given]], search: SearchOptions | None
) -> dict[str, Result | FlorenceError]:
    """The answers to questions about an image, all in one batch, by prefix."""
    items = [(view, task.token, given) for task, given in questions.values()]
    answers = model.run_many(items, search=search, batch_size=len(items), errors="return") if items else []
    return dict(zip(questions, answers, strict=True))


def _given(ask: Ask) -> Given:
    """An input of one's own in the form of training data."""
    kind = ask.row.input
    if kind is InputKind.CLASSES:
        return ask.labels()
    if kind is InputKind.BOX:
        return as_box(np.asarray(ask.input, np.float64))
    return None if ask.input is None else str(ask.input)


def _inputs(task: Task, result: Result) -> Iterator[Given]:
    """The inputs for a task that an answer of another holds; of phrases those that occur once: the others are vague."""
    if task.input is InputKind.PHRASE:
        texts = (result.text,) if isinstance(result, Text) else getattr(result, "labels", ())
        yield from (text for text in texts if text and texts.count(text) == 1)
    elif isinstance(result, (Detections, Quads)):
        yield from map(as_box, result.boxes() if isinstance(result, Quads) else result.boxes)
