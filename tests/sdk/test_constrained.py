"""`constrained=True`: whatever the logits say, an answer is well formed, whole within its limit, and can be written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from florence_edge import _guide
from florence_edge.backends import Hypothesis
from florence_edge.backends.request import Bounds, make_request
from florence_edge.codec import Codec
from florence_edge.errors import InputError
from florence_edge.forms import SHAPES, Form, State
from florence_edge.geometry import Float32Array, ImageSize, Int64Array
from florence_edge.grammar import ParseOptions, format_answer, parse, parse_ids
from florence_edge.manifest import Limits
from florence_edge.options import FormedConfig, FormedOptions, SearchConfig, SearchOptions
from florence_edge.results import Detections
from florence_edge.search import generate, stream
from florence_edge.tasks import TASKS, Grammar, InputKind, Task, find
from support.manifests import manifest
from support.toys import Replay
from support.vocabularies import small_tokens

SIZE = ImageSize(640, 480)
CLASSES = ("car", "Red thing")
GIVEN = {InputKind.NONE: None, InputKind.PHRASE: "a car", InputKind.CLASSES: CLASSES, InputKind.BOX: (1, 2, 30, 40)}
EVERY_TASK = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


@cache
def codec() -> Codec:
    return Codec(small_tokens(), manifest())


def noise(seed: int, *, sharp: float, markers: float, end: float = 0.0) -> Replay:
    """Random logits for every history; `markers` and `end` make structure tokens and `</s>` likelier than others."""
    vocabulary = small_tokens().vocabulary
    liked = [vocabulary.separator, vocabulary.polygon_open, vocabulary.polygon_close]

    def logits_of(histories: Int64Array) -> Float32Array:
        rows = [
            np.random.default_rng([seed, *history]).normal(size=vocabulary.size)
            for history in histories.reshape(-1, histories.shape[-1]).tolist()
        ]
        logits = sharp * np.reshape(rows, (*histories.shape[:2], -1))
        logits[..., liked] += markers
        logits[..., vocabulary.eos] += end
        return logits.astype(np.float32)

    return Replay(logits_of)


@st.composite
def configs(draw: st.DrawFn) -> SearchConfig:
    limit = draw(st.integers(2, 40))
    return SearchConfig(
        beams=draw(st.sampled_from([1, 1, 2, 3])),
        max_new_tokens=limit,
        min_new_tokens=draw(st.sampled_from([0, 0, 5, limit])) if limit > 5 else 0,
        no_repeat_ngram=draw(st.sampled_from([0, 1, 2, 3])),
        forced_bos=draw(st.sampled_from([0, None])),
    )


def formed(config: SearchConfig, task: Task) -> FormedConfig:
    return FormedConfig(**config.to_dict(), form=codec().form(task, GIVEN[task.input]))


def kinds(ids: Sequence[int]) -> set[str]:
    vocabulary = small_tokens().vocabulary
    return {"location" if vocabulary.bin_of(i) is not None else "added" for i in ids if i >= vocabulary.first}


@EVERY_TASK
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_answer_is_well_formed_and_can_be_written(task: Task, data: st.DataObject) -> None:
    config = formed(data.draw(configs()), task)
    seed, sharp, markers, end = data.draw(
        st.tuples(st.integers(0, 10**6), st.sampled_from([0.1, 4.0]), *[st.sampled_from([0.0, 12.0])] * 2)
    )
    decoder = noise(seed, sharp=sharp, markers=markers, end=end)
    (answer,) = generate(decoder, 1, config)
    ids, tokens = answer.ids, small_tokens()
    assert len(ids) <= config.max_new_tokens
    assert ids[-1] == config.eos
    assert np.isfinite(answer.token_logprobs).all()
    options = ParseOptions.for_input(task, GIVEN[task.input])
    result = parse_ids(task, ids, SIZE, tokens=tokens, logprobs=answer.token_logprobs, options=options)
    assert result.dropped == 0
    written = format_answer(task, result)
    again = parse(task, f"<s>{written}</s>", SIZE, options=options)
    assert again.dropped == 0
    assert format_answer(task, again) == written
    ours, theirs = (drop(value.to_dict()) for value in (result, again))
    assert ours == theirs
    if task.grammar is Grammar.TEXT:
        assert kinds(ids.tolist()) == set()
    if task.input is InputKind.CLASSES:
        assert isinstance(result, Detections)
        assert set(result.class_ids.tolist()) <= {0, 1}, "only the classes asked for"


def drop(values: dict[str, object]) -> dict[str, object]:
    """A result less what only ids know."""
    return {key: value for key, value in values.items() if key not in ("scores", "tokens", "raw", "finish")}


@EVERY_TASK
def test_random_logits_make_answers_of_every_shape(task: Task) -> None:
    """The property above is not about empty answers only."""
    config = formed(SearchConfig(beams=1, max_new_tokens=40, no_repeat_ngram=0), task)
    answers = [generate(noise(seed, sharp=4.0, markers=12.0, end=seed), 1, config)[0] for seed in range(10)]
    found = set().union(*(kinds(answer.ids.tolist()) for answer in answers))
    shape = SHAPES.get(task.grammar)
    assert ("location" in found) == (shape is not None)
    assert ("added" in found) == (shape is not None and shape.masks)
    assert len({len(answer.ids) for answer in answers}) > 1


@settings(max_examples=20, deadline=None)
@given(config=configs(), seed=st.integers(0, 10**6), task=st.sampled_from(TASKS))
def test_a_stream_tells_the_same_answer_and_a_batch_answers_as_single_runs(
    config: SearchConfig, seed: int, task: Task
) -> None:
    setting = formed(config, task)
    (whole,) = generate(noise(seed, sharp=4.0, markers=5.0, end=5.0), 1, setting)
    steps, told = stream(noise(seed, sharp=4.0, markers=5.0, end=5.0), setting), []
    final: Hypothesis | None = None
    while final is None:
        try:
            told += next(steps).tolist()
        except StopIteration as stop:
            final = stop.value
    assert told == whole.ids.tolist() == final.ids.tolist()
    for answer in generate(noise(seed, sharp=4.0, markers=5.0, end=5.0), 2, setting):
        assert answer.ids.tolist() == whole.ids.tolist()


@settings(max_examples=30, deadline=None)
@given(config=configs(), seed=st.integers(0, 10**6))
@example(config=SearchConfig(beams=1, max_new_tokens=2, no_repeat_ngram=1, forced_bos=None), seed=1)
def test_what_is_well_formed_anyway_does_not_change(config: SearchConfig, seed: int) -> None:
    """Where the unconstrained answer of one beam keeps the form, it is the constrained one."""
    config = replace(config, beams=1)
    task = find("<CAPTION>")
    (free,) = generate(noise(seed, sharp=4.0, markers=0.0, end=14.0), 1, config)
    (bound,) = generate(noise(seed, sharp=4.0, markers=0.0, end=14.0), 1, formed(config, task))
    barred, blank = (set(ids.tolist()) for ids in _guide.text_tokens(small_tokens())[:2])
    vocabulary = small_tokens().vocabulary
    written = free.ids.tolist()[config.forced_bos is not None :]
    allowed = all(i == vocabulary.eos or (i < vocabulary.first and i not in barred) for i in written)
    if allowed and any(i < vocabulary.first and i not in blank for i in written):  # white space alone is no caption
        assert bound.ids.tolist() == free.ids.tolist()


def walk(form: Form, ids: Sequence[int]) -> State:
    state = State()
    for index in ids:
        state = form.after(state, index)
    return state


@pytest.mark.parametrize(
    ("task", "text", "left"),
    [
        ("<OD>", "", 0),
        ("<OD>", "car", 4),
        ("<OD>", " ", 5),
        ("<OD>", "car<loc_1><loc_2><loc_3>", 1),
        ("<OD>", "car<loc_1><loc_2><loc_3><loc_4>", 0),
        ("<OCR_WITH_REGION>", "STOP", 8),
        ("<OCR_WITH_REGION>", "STOP<loc_1><loc_2><loc_3>", 5),
        ("<REGION_PROPOSAL>", "<loc_1>", 3),
        ("<REGION_TO_SEGMENTATION>", "<loc_1>", 5),
        ("<REGION_TO_SEGMENTATION>", "<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7>", 1),
        ("<REGION_TO_SEGMENTATION>", "<poly>", 7),
        ("<REGION_TO_SEGMENTATION>", "<poly><loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><sep>", 7),
        ("<REGION_TO_SEGMENTATION>", "<poly><loc_1><loc_2><loc_3><loc_4><loc_5><loc_6></poly>", 0),
        ("<OPEN_VOCABULARY_DETECTION>", "car", 4),
        ("<OPEN_VOCABULARY_DETECTION>", "car<poly>", 7),
        ("<CAPTION>", "a car", 0),
    ],
)
def test_how_much_an_answer_lacks(task: str, text: str, left: int) -> None:
    row, tokens = find(task), small_tokens()
    form = codec().form(row, GIVEN[row.input])
    assert form.left(walk(form, tokens.encode(text)[1:-1].tolist())) == left


def test_a_label_of_a_class_is_written_to_its_end() -> None:
    form = codec().form(find("<OPEN_VOCABULARY_DETECTION>"), ("naked", "names"))
    first, *rest = next(label for label in form.labels if len(label) > 2)
    assert form.left(walk(form, [first])) == len(rest) + 4
    assert set(form.following(walk(form, [first]))) == {label[1] for label in form.labels if label[0] == first}


def test_nothing_can_still_be_said() -> None:
    """The sentence of the published checkpoints for "nothing here" may stand for the whole answer, and only for it."""
    for task in TASKS:
        if task.grammar is Grammar.TEXT:
            continue
        form = codec().form(task, GIVEN[task.input])
        state = walk(form, form.nothing)
        assert form.left(state) == 0 or SHAPES[task.grammar].labelled
        assert "END" in {getattr(kind, "name", "") for kind in form.following(state)}
        boxed = walk(form, [small_tokens().vocabulary.first_location] * 8)
        state = boxed
        for index in form.nothing:
            state = form.after(state, index)
        assert "END" not in {getattr(kind, "name", "") for kind in form.following(state)}


def test_the_options_carry_the_form_and_nothing_of_it_is_kept() -> None:
    task = find("<OD>")
    question = codec().question(task, None, SIZE, SearchOptions(constrained=True, max_new_tokens=20))
    assert isinstance(question.options, FormedOptions)
    assert question.options == codec().question(task, None, SIZE, question.options).options
    config = manifest().search.over(question.options)
    assert isinstance(config, FormedConfig)
    assert SearchConfig(**config.to_dict()) == manifest().search.over(SearchOptions(max_new_tokens=20))
    assert type(manifest().search.over(SearchOptions(constrained=False))) is SearchConfig
    assert asdict(SearchOptions())["constrained"] is None


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"min_new_tokens": 50, "max_new_tokens": 20}], ids=str)
def test_options_that_cannot_be_are_refused_before_anything_is_encoded(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="it must lie in"):
        codec().question(find("<OD>"), None, SIZE, SearchOptions(**wrong))  # type: ignore[arg-type]  # some are no integers


def test_without_a_form_it_is_refused() -> None:
    bounds = Bounds(Limits(50, 100), SearchConfig(max_new_tokens=100), 1000)
    with pytest.raises(InputError, match="constrained needs the form"):
        make_request(bounds, 1, [np.asarray([0, 5, 2])], SearchOptions(constrained=True), None)
