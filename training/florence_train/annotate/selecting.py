"""Answers through the filters: what stays becomes training data, what goes is counted by filter and task."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from florence_edge.errors import InputError
from florence_edge.geometry import BoolArray, ImageSize
from florence_edge.grammar import ParseOptions, parse
from florence_edge.results import Detections, Polygons, Quads, Result, Text
from florence_edge.selection import take
from florence_train.data.turns import check_example, read_turn, write_turn
from florence_train.examples import Example

from .filters import Filter, alike, noun_phrases, regions
from .plan import Answered, Plan

BINS = 10
ORPHAN, EMPTY, UNWRITABLE = "input removed", "nothing found", "not writable"
"""Steps behind the filters: questions whose input a filter took, answers without items, answers no file can hold."""

ASKED, KEPT = "asked", "kept"
"""What there was before all steps, and what is left behind them."""


@dataclass
class Tally:
    """Counts of one task: `items` before and after each step, `answers` likewise, and histograms of items by number."""

    answers: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def count(self, stage: str, answered: Answered) -> None:
        """Counts an answer and its items at a stage, `ASKED` or `KEPT`."""
        self.answers[stage] += 1
        self.items[stage] += len(answered.result)
        for name, places in _measured(answered).items():
            rows = self.histograms.setdefault(name, {})
            row = rows.setdefault(stage, [0] * BINS)
            for place in places:
                row[place] += 1

    def to_dict(self, steps: Sequence[str]) -> dict[str, Any]:
        """Plain values; `removed` has every step in order."""
        return {
            "answers": {stage: self.answers[stage] for stage in (ASKED, KEPT)},
            "items": {stage: self.items[stage] for stage in (ASKED, KEPT)},
            "removed": {step: self.items[step] for step in steps},
            "removed_answers": {step: self.answers[step] for step in steps},
            "histograms": self.histograms,
        }


def restore(line: Mapping[str, Any]) -> list[Answered]:
    """The answers of one line of `answers.jsonl`, with their scores."""
    return [Answered.of(prefix, _result(prefix, values)) for prefix, values in line["results"].items()]


def select(
    image: Sequence[Answered], filters: Sequence[Filter], *, plan: Plan, tallies: dict[str, Tally]
) -> list[Answered]:
    """What the filters leave of the answers about one image."""
    for answered in image:
        tallies.setdefault(answered.task.token, Tally()).count(ASKED, answered)
    # An answer without items has nothing that a filter could keep.
    left = _step(EMPTY, image, [alike(answered, stay=_has_content(answered)) for answered in image], tallies)
    for step in filters:
        left = _step(step.name, left, [step(answered, left) for answered in left], tallies)
    derived = {task.token for task, _ in plan.derived}
    asked = plan.questions(answered.result for answered in left)
    stays = [answered.task.token not in derived or answered.prefix in asked for answered in left]
    left = _step(ORPHAN, left, [alike(a, stay=stay) for a, stay in zip(left, stays, strict=True)], tallies)
    left = _step(UNWRITABLE, left, [alike(a, stay=_is_writable(a)) for a in left], tallies)
    for answered in left:
        tallies[answered.task.token].count(KEPT, answered)
    return left


def turn(answered: Answered, *, image: str, run: str) -> dict[str, Any]:
    """An answer as a line of training data; `run` (as in `answers.jsonl`) and `scores` say where the label is from."""
    prefix, suffix = write_turn(_example(answered), answered.result.size)
    scores = [None if math.isnan(score) else round(score, 6) for score in answered.result.scores.tolist()]
    return {"image": image, "prefix": prefix, "suffix": suffix, "run": run, "scores": scores}


def steps_of(filters: Iterable[Filter]) -> list[str]:
    """Names of all steps in the order they are taken."""
    return [EMPTY, *(step.name for step in filters), ORPHAN, UNWRITABLE]


def _step(
    name: str, image: Sequence[Answered], marks: Sequence[BoolArray], tallies: Mapping[str, Tally]
) -> list[Answered]:
    """The answers with the marked items; those left without any go."""
    left = []
    for answered, keep in zip(image, marks, strict=True):
        tally = tallies[answered.task.token]
        tally.items[name] += int((~keep).sum())
        if keep.any():
            left.append(_taken(answered, keep))
        else:
            tally.answers[name] += 1
    return left


def _taken(answered: Answered, keep: BoolArray) -> Answered:
    if not isinstance(answered.result, (Detections, Polygons, Quads)):
        return answered
    return replace(answered, result=take(answered.result, keep))


def _has_content(answered: Answered) -> bool:
    return bool(answered.result.text) if isinstance(answered.result, Text) else len(answered.result) > 0


def _example(answered: Answered) -> Example:
    return Example(answered.task.token, answered.given, answered.result)


def _is_writable(answered: Answered) -> bool:
    """Whether training can read the answer back as it is meant."""
    try:
        prefix, suffix = write_turn(_example(answered), answered.result.size)
        check_example(read_turn(prefix, suffix, answered.result.size), answered.result.size)
    except InputError:
        return False
    return True


def _result(prefix: str, values: Mapping[str, Any]) -> Result:
    """A result from its plain values; its raw text holds everything but scores and how it ended."""
    size = ImageSize(values["size"]["width"], values["size"]["height"])
    empty = parse(values["task"], "", size)
    question = Answered.of(prefix, empty)
    options = ParseOptions.for_input(question.task, question.given)
    scores = np.array([np.nan if score is None else score for score in values["scores"]], np.float32)
    ending = {name: values[name] for name in ("finish", "tokens", "dropped")}
    return replace(parse(question.task, values["raw"], size, options=options), scores=scores, **ending)


def _measured(answered: Answered) -> dict[str, list[int]]:
    """Histogram -> the bin of every item: scores and areas in tenths, lengths of texts in words, things named."""
    result = answered.result
    known = result.scores[~np.isnan(result.scores)]
    found = {"score": _tenths(known)}
    boxes, _ = regions(answered)
    if len(boxes):
        sides = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / (result.size.width * result.size.height)
        found["side, as a share of the image's"] = _tenths(np.sqrt(sides))
    if isinstance(result, Text) and answered.task.token.endswith("CAPTION>"):
        found["things named"] = [min(noun_phrases(result.text), BINS - 1)]
    return found


def _tenths(shares: Any) -> list[int]:
    places: list[int] = np.clip((np.asarray(shares) * BINS).astype(int), 0, BINS - 1).tolist()
    return places
