"""Our parser against the published post-processor (transformers), on thousands of answers of every task.

Every intended difference has a name, a row in docs/grammar.md, and one normalisation here, applied to what the
reference is given, to what it answers, or to what we answer. Whatever differs beyond those fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence_edge.grammar import parse
from florence_edge.phrases import UNGROUNDABLE
from florence_edge.results import Detections, Polygons, Quads, Result, Text
from florence_edge.tasks import TASKS, Grammar, Task
from florence_edge.vocabulary import SPECIAL_TOKENS
from support.answers import SIZES, answers
from support.processor import reference_processor

DOCUMENT = Path(__file__).parents[2] / "docs" / "grammar.md"
LABELLED = (Grammar.LABELLED_BOXES, Grammar.PHRASE_BOXES, Grammar.LABELLED_BOXES_OR_POLYGONS)
BRACKET, BREAK, MARK, BANNED = "\x01", "\x0b", "\x02", "\x03"
"""Characters that no answer here holds, in place of a `<` that begins no token and of a line break, and before every
label, by whether the reference leaves it out."""

_MARKERS = "|".join(token.strip("<>") for token in SPECIAL_TOKENS if not token.startswith("<loc_"))
ADDED = re.compile(rf"<(?:loc_[0-9]{{1,9}}|{_MARKERS})>")
CONTROL = re.compile(r"<s>|</s>|<pad>")
TOKEN = re.compile(f"({ADDED.pattern}|{CONTROL.pattern})")
SPAN = re.compile(r"[^<]+(?:<(?:loc_\d+|sep|/?poly)>)*|<[^>]*>")

REFERENCE = reference_processor([BANNED + phrase for phrase in UNGROUNDABLE])

Point = tuple[float, float]


@dataclass(frozen=True)
class Item:
    """What both sides are brought to: a label with a box, a quadrilateral or the rings of a mask, or a bare text."""

    label: str
    kind: str
    rings: tuple[tuple[Point, ...], ...] = ()


@dataclass(frozen=True)
class Case:
    """An answer on its way through the reference, which reads each of `texts` for itself."""

    task: Task
    size: tuple[int, int]
    texts: tuple[str, ...]
    items: tuple[Item, ...] = ()


# What the reference is given instead.


def ordinary_brackets(case: Case) -> Case:
    return _rewrite(case, lambda run: run.replace("<", BRACKET))


def line_breaks(case: Case) -> Case:
    return replace(case, texts=tuple(text.replace("\n", BREAK) for text in case.texts))


def blank_runs(case: Case) -> Case:
    if case.task.grammar is Grammar.TEXT:
        return case
    bare = replace(case, texts=tuple(CONTROL.sub("", text) for text in case.texts))
    return _rewrite(bare, lambda run: run if run.strip() else "")


def mixed_shapes(case: Case) -> Case:
    if case.task.grammar is not Grammar.LABELLED_BOXES_OR_POLYGONS:
        return case
    return replace(case, texts=tuple(span for text in case.texts for span in SPAN.findall(CONTROL.sub("", text))))


# What the reference answers, mended.


def text_tokens(case: Case) -> Case:
    if case.task.grammar is not Grammar.TEXT:
        return case
    return _relabel(case, lambda label: ADDED.sub("", label.replace("<pad>", "")).strip())


def line_tokens(case: Case) -> Case:
    if case.task.grammar is not Grammar.QUADS:
        return case
    mended = _relabel(case, lambda label: ADDED.split(label)[-1].strip())
    return replace(mended, items=tuple(item for item in mended.items if item.label))


def mask_labels(case: Case) -> Case:
    if case.task.grammar is Grammar.LABELLED_BOXES_OR_POLYGONS:
        return _relabel(case, _without_tokens)
    if case.task.grammar is not Grammar.POLYGONS:
        return case
    labels = [label for text in case.texts for label in _labels_of_masks(text)]
    assert len(labels) == len(case.items)
    return replace(
        case, items=tuple(replace(item, label=label) for item, label in zip(case.items, labels, strict=True))
    )


def leaked_tokens(case: Case) -> Case:
    if case.task.grammar not in LABELLED:
        return case
    items = []
    for item in case.items:
        _, mark, label = item.label.partition(MARK)
        if mark:
            items.append(replace(item, label=label))
    return replace(case, items=tuple(items))


def small_rings(case: Case) -> Case:
    items = [
        replace(item, rings=tuple(ring for ring in item.rings if item.kind != "mask" or len(ring) >= 3))
        for item in case.items
    ]
    return replace(case, items=tuple(item for item in items if item.kind == "text" or item.rings))


def clipped_coordinates(case: Case) -> Case:
    width, height = case.size
    return _move(case, lambda ring: tuple((min(x, width), min(y, height)) for x, y in ring))


def ordered_corners(case: Case) -> Case:
    return _move(case, lambda ring: _bounds(ring) if len(ring) == 2 else ring)


# What we answer, reduced to what the reference can say.


def float_coordinates(case: Case) -> Case:
    return _move(case, lambda ring: tuple((int(x), int(y)) for x, y in ring))


def unicode_labels(case: Case) -> Case:
    items = (
        replace(item, label=item.label.encode("ascii", "ignore").decode("ascii")) if item.kind == "box" else item
        for item in case.items
    )
    return replace(case, items=tuple(items))


Change = Callable[[Case], Case]
GIVEN: tuple[Change, ...] = (ordinary_brackets, line_breaks, blank_runs, mixed_shapes)
ANSWERED: tuple[Change, ...] = (
    leaked_tokens, text_tokens, line_tokens, mask_labels, small_rings, clipped_coordinates, ordered_corners,
)  # fmt: skip
OURS: tuple[Change, ...] = (float_coordinates, unicode_labels)
DIFFERENCES = (*GIVEN, *ANSWERED, *OURS)


def _rewrite(case: Case, change: Callable[[str], str]) -> Case:
    """Changes the text between added tokens."""
    return replace(case, texts=tuple(_between_tokens(text, change) for text in case.texts))


def _between_tokens(text: str, change: Callable[[str], str]) -> str:
    parts = TOKEN.split(text)
    parts[::2] = [change(part) for part in parts[::2]]
    return "".join(parts)


def _relabel(case: Case, change: Callable[[str], str]) -> Case:
    return replace(case, items=tuple(replace(item, label=change(item.label)) for item in case.items))


def _move(case: Case, change: Callable[[tuple[Point, ...]], tuple[Point, ...]]) -> Case:
    moved = (replace(item, rings=tuple(change(ring) for ring in item.rings)) for item in case.items)
    return replace(case, items=tuple(moved))


def _bounds(ring: tuple[Point, ...]) -> tuple[Point, Point]:
    xs, ys = zip(*ring, strict=True)
    return (min(xs), min(ys)), (max(xs), max(ys))


def _labels_of_masks(text: str) -> list[str]:
    """The label before each mask, or "", as the reference reads them where it wants one before each mask."""
    read = REFERENCE.post_processor.parse_description_with_polygons_from_text_and_spans
    size = (1000, 1000)
    labelled = [item for item in read(_marked(text), size) if MARK in item["cat_name"]]
    labels = []
    for mask in read(text, size, allow_empty_phrase=True):
        found = labelled and labelled[0]["polygons"] == mask["polygons"]
        labels.append(_without_tokens(_restored(labelled.pop(0)["cat_name"]).split(MARK)[1]) if found else "")
    assert not labelled
    return labels


def _without_tokens(label: str) -> str:
    return ADDED.sub("", label).strip() if ADDED.search(label) else label


def _marked(text: str, banned: Container[str] = ()) -> str:
    def mark(run: str) -> str:
        return re.sub(r"(?=\S)", BANNED if run.strip() in banned else MARK, run, count=1)

    return _between_tokens(text, mark)


def _restored(label: str) -> str:
    return label.replace(BRACKET, "<").replace(BREAK, "\n")


def ask_reference(case: Case) -> Case:
    """The case with what the reference answers; the labels of labelled shapes still hold their mark."""
    items: list[Item] = []
    for text in case.texts:
        banned = UNGROUNDABLE if case.task.grammar is Grammar.PHRASE_BOXES else ()
        given = _marked(text, banned) if case.task.grammar in LABELLED else text
        answer = REFERENCE.post_process_generation(text=given, task=case.task.token, image_size=case.size)[
            case.task.token
        ]
        if isinstance(answer, str):
            items.append(Item(answer, "text"))
            continue
        boxes = zip(answer.get("bboxes", ()), answer.get("bboxes_labels", answer.get("labels", ())), strict=False)
        masks = zip(answer.get("polygons", ()), answer.get("polygons_labels", answer.get("labels", ())), strict=False)
        quads = zip(answer.get("quad_boxes", ()), answer.get("labels", ()), strict=False)
        items += [Item(label, "box", (_points(box),)) for box, label in boxes]
        items += [_mask(label, rings) for rings, label in masks]
        items += [Item(label, "quad", (_points(quad),)) for quad, label in quads]
    return _relabel(replace(case, items=tuple(items)), _restored)


def _mask(label: str, rings: Iterable[Any]) -> Item:
    return Item(label, "mask", tuple(_points(ring) for ring in rings))


def _points(flat: Any) -> tuple[Point, ...]:
    return tuple((x, y) for x, y in np.asarray(flat, float).reshape(-1, 2).tolist())


def ours(case: Case, result: Result) -> Case:
    """The case with what we answer."""
    items: list[Item] = []
    if isinstance(result, Text):
        items = [Item(result.text, "text")]
    elif isinstance(result, Quads):
        items = [Item(text, "quad", (_points(quad),)) for text, quad in zip(result.texts, result.quads, strict=True)]
    elif isinstance(result, Polygons):
        items = [_mask(label, rings) for label, rings in zip(result.labels, result.polygons, strict=True)]
    elif isinstance(result, Detections):
        for label, box, rings in zip(result.labels, result.boxes, result.polygons, strict=True):
            items.append(_mask(label, rings) if rings else Item(label, "box", (_points(box),)))
            if rings:
                assert _bounds(_points(np.concatenate(rings))) == _points(box)
    return replace(case, items=tuple(items))


def both(task: Task, text: str, size: tuple[int, int], *, without: Change | None = None) -> tuple[Case, Case]:
    """The reference's answer and ours, after every normalisation but `without`."""
    theirs = Case(task, size, (text,))
    mine = ours(theirs, parse(task, text, size))
    for change in GIVEN:
        theirs = theirs if change is without else change(theirs)
    theirs = ask_reference(theirs)
    for change in ANSWERED:
        theirs = theirs if change is without else change(theirs)
    for change in OURS:
        mine = mine if change is without else change(mine)
    return _relabel(theirs, lambda label: label.replace(MARK, "")), mine


def cases(task: Task, count: int, seed: int = 0) -> Iterator[tuple[str, tuple[int, int]]]:
    for index, text in enumerate(answers(task.grammar, count, seed=seed)):
        yield text, SIZES[index % len(SIZES)]


def check(task: Task, count: int, seed: int) -> None:
    for text, size in cases(task, count, seed):
        theirs, mine = both(task, text, size)
        assert mine.items == theirs.items, (text, size)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_parser_equals_the_reference(task: Task) -> None:
    check(task, 1000, seed=TASKS.index(task))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_parser_equals_the_reference_on_ten_thousand(task: Task) -> None:
    check(task, 10_000, seed=100 + TASKS.index(task))


@pytest.mark.parametrize("change", DIFFERENCES, ids=lambda change: change.__name__)
def test_no_normalisation_is_idle(change: Change) -> None:
    tasks = list({task.grammar: task for task in TASKS}.values())
    rounds = zip(*(cases(task, 1000, seed=1) for task in tasks), strict=True)
    pairs = (both(task, *case, without=change) for texts in rounds for task, case in zip(tasks, texts, strict=True))
    assert any(theirs.items != mine.items for theirs, mine in pairs)


def test_every_normalisation_is_documented_and_nothing_else() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").split("## Differences", 1)[1].split("\n## ", 1)[0]
    documented = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert sorted(documented) == sorted(change.__name__ for change in DIFFERENCES)
