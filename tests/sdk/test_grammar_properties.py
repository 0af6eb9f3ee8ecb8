"""Properties of the grammar: reading inverts writing, text and ids agree, and nothing raises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from florence_edge._pieces import reserved_in
from florence_edge.geometry import ImageSize
from florence_edge.grammar import ParseOptions, format_answer, parse
from florence_edge.locations import dequantise
from florence_edge.phrases import UNGROUNDABLE
from florence_edge.results import Detections, Polygons, Quads, Result, Text
from florence_edge.tasks import FREE_PROMPT, TASKS, Grammar, Task
from florence_edge.tokens import Tokens
from florence_edge.vocabulary import LOCATION_BINS
from support.answers import SIZES, answers
from support.vocabularies import published_tokens, small_tokens

ASKED = "the phrase asked for"
EVERY_TASK = pytest.mark.parametrize("task", [*TASKS, FREE_PROMPT], ids=lambda task: task.name)

sizes = st.builds(ImageSize, st.integers(1, 5000), st.integers(1, 5000))
labels = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
    .map(str.strip)
    .filter(lambda text: text and not reserved_in(text) and text not in UNGROUNDABLE)
)


def points(count: st.SearchStrategy[int]) -> st.SearchStrategy[Any]:
    """Lists of points in bins."""
    pair = st.tuples(*[st.integers(0, LOCATION_BINS - 1)] * 2)
    return count.flatmap(lambda size: st.lists(pair, min_size=size, max_size=size))


boxes = points(st.just(2)).map(lambda pair: np.sort(pair, axis=0))
masks = st.lists(points(st.integers(3, 6)), min_size=1, max_size=3)


@st.composite
def results(draw: st.DrawFn, task: Task) -> Result:
    """Any result whose coordinates are centres of bins, as parsed ones are."""
    size = draw(sizes)
    if task.grammar is Grammar.TEXT:
        text = draw(st.just("") | labels)
        return Text(task=task.token, size=size, scores=np.zeros(1, np.float32), text=text)
    names = tuple(draw(st.lists(labels, max_size=4)))
    common: dict[str, Any] = {"task": task.token, "size": size, "scores": np.zeros(len(names), np.float32)}
    if task.grammar is Grammar.QUADS:
        quads = [dequantise(draw(points(st.just(4))), size) for _ in names]
        return Quads(**common, quads=np.reshape(quads, (-1, 4, 2)), texts=names)
    if task.grammar is Grammar.POLYGONS:
        rings = tuple(tuple(dequantise(ring, size) for ring in draw(masks)) for _ in names)
        return Polygons(**common, polygons=rings, labels=(ASKED,) * len(names))
    corners = [dequantise(draw(boxes), size) for _ in names]
    shapes: list[tuple[Any, ...]] = [() for _ in names]
    if task.grammar is Grammar.LABELLED_BOXES_OR_POLYGONS:
        for index in range(len(names)):
            if draw(st.booleans()):
                shapes[index] = tuple(dequantise(ring, size) for ring in draw(masks))
                every = np.concatenate(shapes[index])
                corners[index] = np.stack([every.min(axis=0), every.max(axis=0)])
    return Detections(
        **common,
        boxes=np.reshape(corners, (-1, 4)),
        labels=("",) * len(names) if task.grammar is Grammar.BOXES else names,
        class_ids=np.zeros(len(names), np.int64),
        polygons=tuple(shapes),
    )


def content(result: Result) -> dict[str, Any]:
    """What an answer says, less what only ids know (scores, number of tokens) and what was not in it."""
    left_out = {"scores", "tokens", "class_ids", "finish", "raw", "task"}
    return {key: value for key, value in result.to_dict().items() if key not in left_out}


@EVERY_TASK
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_reading_inverts_writing(task: Task, data: st.DataObject) -> None:
    truth = data.draw(results(task))
    answer = format_answer(task, truth)
    tokens = data.draw(st.sampled_from([small_tokens(), published_tokens()]))
    options = ParseOptions(label=ASKED)
    from_text = parse(task, f"</s><s>{answer}</s><pad>", truth.size, options=options)
    from_ids = parse(task, tokens.encode(answer), truth.size, tokenizer=tokens, options=options)
    assert content(from_text) == content(from_ids) == content(truth)
    assert from_text.raw == from_ids.raw == answer
    assert format_answer(task, from_text) == answer


@EVERY_TASK
def test_text_and_ids_agree_on_malformed_answers(task: Task) -> None:
    tokens, compared = small_tokens(), 0
    for index, text in enumerate(answers(task.grammar, 300, seed=7)):
        ids = tokens.encode(text)[1:-1]
        size = SIZES[index % len(SIZES)]
        if spells_a_token(tokens, ids.tolist()):
            continue
        compared += 1
        from_ids = parse(task, ids, size, tokenizer=tokens)
        assert {**from_ids.to_dict(), "tokens": 0} == parse(task, tokens.decode(ids), size).to_dict()
    assert compared > 200


def spells_a_token(tokens: Tokens, ids: Sequence[int]) -> bool:
    """Whether text tokens spell an added token, which is text in ids but a token in their text."""
    vocabulary = tokens.vocabulary
    added = sum(index in (0, 1, 2, 3) or vocabulary.first <= index < vocabulary.size for index in ids)
    return len(reserved_in(tokens.decode(ids))) != added


@EVERY_TASK
@given(st.lists(st.integers(0, 1400) | st.integers(260, 300) | st.integers(-(2**63), 2**63 - 1), max_size=60), sizes)
@settings(max_examples=60, deadline=None)
def test_no_ids_raise_and_all_agree_with_their_text(task: Task, ids: list[int], size: ImageSize) -> None:
    tokens = small_tokens()
    logprobs = -np.arange(len(ids), dtype=np.float32)
    result = parse(task, ids, size, tokenizer=tokens, logprobs=logprobs)
    check_bounds(result)
    assume(not spells_a_token(tokens, ids))
    again = parse(task, tokens.decode(ids), size)
    assert content(again) == content(result)
    assert (again.raw, again.finish) == (result.raw, result.finish)


FRAGMENTS = (
    "<loc_1>", "<loc_999>", "<loc_1000>", "<loc_999999999>", "<loc_1><loc_2><loc_3><loc_4>", "<sep>", "<poly>",
    "</poly>", "<od>", "<s>", "</s>", "<pad>", "car", " ", "\n", "<", ">", "<loc_", "<loc_1", "loc_1>", "<loc_٣>",
    "No object detected.",
)  # fmt: skip
fragments = st.sampled_from(FRAGMENTS)


@EVERY_TASK
@given(st.lists(fragments, max_size=40).map("".join) | st.text(), sizes)
@settings(max_examples=60, deadline=None)
def test_no_text_raises(task: Task, text: str, size: ImageSize) -> None:
    check_bounds(parse(task, text, size))


def check_bounds(result: Result) -> None:
    """Whatever was read lies inside the image, has its shapes and types, and one score per item."""
    assert result.scores.dtype == np.float32
    assert result.dropped >= 0
    count = len(result.scores)
    arrays: list[Any] = []
    if isinstance(result, Detections):
        assert result.boxes.shape == (count, 4)
        assert len(result.labels) == len(result.class_ids) == len(result.polygons) == count
        assert (result.boxes[:, :2] <= result.boxes[:, 2:]).all()
        arrays = [result.boxes.reshape(-1, 2), *(ring for rings in result.polygons for ring in rings)]
    elif isinstance(result, Polygons):
        assert len(result.polygons) == len(result.labels) == count
        assert all(len(ring) >= 3 for rings in result.polygons for ring in rings)
        arrays = [ring for rings in result.polygons for ring in rings]
    elif isinstance(result, Quads):
        assert result.quads.shape == (count, 4, 2)
        assert len(result.texts) == count
        arrays = [result.quads.reshape(-1, 2)]
    for array in arrays:
        assert array.dtype == np.float32
        assert (array >= 0).all()
        assert (array <= result.size).all()
