"""What holds for every search, whatever the model: properties over random tables of logits, and faults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge._logits import largest, log_softmax, repeating
from florence_edge.backends import Hypothesis
from florence_edge.errors import BackendError
from florence_edge.geometry import Float32Array, Int64Array
from florence_edge.options import SearchConfig
from florence_edge.search import Decoder, generate, stream
from support.toys import Replay, table_decoder

VOCABULARY = 17


@st.composite
def configs(draw: st.DrawFn) -> SearchConfig:
    limit = draw(st.integers(1, 14))
    return SearchConfig(
        beams=draw(st.integers(1, 5)),
        max_new_tokens=limit,
        min_new_tokens=draw(st.integers(0, limit)),
        length_penalty=draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])),
        early_stopping=draw(st.sampled_from([True, False, "never"])),
        no_repeat_ngram=draw(st.sampled_from([0, 2, 3])),
        forced_bos=draw(st.sampled_from([0, None])),
        forced_eos=draw(st.sampled_from([2, None])),
    )


def drain(decoder: Decoder, config: SearchConfig) -> tuple[list[Int64Array], Hypothesis]:
    steps = stream(decoder, config)
    told: list[Int64Array] = []
    while True:
        try:
            told.append(next(steps))
        except StopIteration as stop:
            return told, stop.value


def same(one: Hypothesis, other: Hypothesis) -> bool:
    return one.ids.tolist() == other.ids.tolist() and one.score == other.score and one.finish == other.finish


@settings(max_examples=150, deadline=None)
@given(config=configs(), seed=st.integers(0, 10_000), rounded=st.sampled_from([None, 0]))
def test_every_answer_keeps_the_rules(config: SearchConfig, seed: int, rounded: int | None) -> None:
    (answer,) = generate(table_decoder(seed, vocabulary=VOCABULARY, decimals=rounded), 1, config)
    ids = answer.ids.tolist()
    assert answer.ids.dtype == np.int64
    assert max(config.min_new_tokens, 1) <= len(ids) <= config.max_new_tokens
    assert len(ids) == len(answer.token_logprobs)
    assert (answer.token_logprobs <= 0).all()
    assert config.eos not in ids[:-1]
    assert answer.finish == ("eos" if len(ids) < config.max_new_tokens else answer.finish)
    if len(ids) == config.max_new_tokens and config.forced_eos is not None:
        assert (ids[-1], answer.finish) == (config.forced_eos, "length")
    if config.forced_bos is not None and config.max_new_tokens > 1:
        assert ids[0] == config.forced_bos
    history = [config.decoder_start, *ids]
    free = history[:-1] if answer.finish == "length" and config.forced_eos is not None else history
    size = config.no_repeat_ngram
    ngrams = [tuple(free[i : i + size]) for i in range(len(free) - size + 1)] if size else []
    assert len(ngrams) == len(set(ngrams))
    total = float(answer.token_logprobs.sum(dtype=np.float64))
    assert answer.score == pytest.approx(total / len(ids) ** config.length_penalty, rel=1e-5, abs=1e-5)


@settings(max_examples=100, deadline=None)
@given(config=configs(), seed=st.integers(0, 10_000), rounded=st.sampled_from([None, 0]))
def test_what_is_streamed_is_the_answer(config: SearchConfig, seed: int, rounded: int | None) -> None:
    told, answer = drain(table_decoder(seed, vocabulary=VOCABULARY, decimals=rounded), config)
    (whole,) = generate(table_decoder(seed, vocabulary=VOCABULARY, decimals=rounded), 1, config)
    assert same(answer, whole)
    assert np.concatenate(told).tolist() == answer.ids.tolist()
    assert all(len(piece) == 1 if config.beams == 1 else len(piece) > 0 for piece in told)


@settings(max_examples=100, deadline=None)
@given(config=configs(), seed=st.integers(0, 10_000), batch=st.integers(2, 4))
def test_a_batch_equals_its_single_runs(config: SearchConfig, seed: int, batch: int) -> None:
    def row(number: int) -> Replay:
        return table_decoder(seed + number, vocabulary=VOCABULARY)

    def together(histories: Int64Array) -> Float32Array:
        return np.concatenate([row(i).logits_of(histories[i : i + 1]) for i in range(batch)])

    answers = generate(Replay(together), batch, config)
    for number, answer in enumerate(answers):
        (alone,) = generate(row(number), 1, config)
        assert same(answer, alone)


def test_beams_stream_before_the_answer_is_complete() -> None:
    """What all beams agree on is told while the rest is still open, not only at the end."""
    early, whole = 0, 0
    for seed in range(10):
        decoder = table_decoder(seed, vocabulary=VOCABULARY)
        steps = stream(decoder, SearchConfig(min_new_tokens=20, max_new_tokens=40))
        for ids in steps:
            early += len(ids) if len(decoder.fed) <= 10 else 0
            whole += len(ids)
    assert whole > early > 30, "more than the forced start of each"


def test_the_first_and_the_last_forced_token_cost_no_arithmetic() -> None:
    """`<s>` needs the start token in the cache but no logits, the `</s>` at the limit needs nothing."""
    decoder = table_decoder(0, vocabulary=VOCABULARY)
    decoder.logits_of = lambda histories: np.full((*histories.shape[:2], VOCABULARY), np.nan, np.float32)
    (answer,) = generate(decoder, 1, SearchConfig(max_new_tokens=2))
    assert answer.ids.tolist() == [0, 2]
    assert answer.token_logprobs.tolist() == [0, 0]
    assert len(decoder.fed) == 1


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_name_prompt_and_step(beams: int, value: float) -> None:
    decoder = table_decoder(0, vocabulary=VOCABULARY)
    healthy = decoder.logits_of

    def spoilt(histories: Int64Array) -> Float32Array:
        logits = healthy(histories)
        if histories.shape[2] == 4:
            logits[1, -1, 5] = value
        return logits

    decoder.logits_of = spoilt
    with pytest.raises(BackendError, match=r"prompt 1 at step 3"):
        generate(decoder, 2, SearchConfig(beams=beams, min_new_tokens=8, max_new_tokens=9))


@pytest.mark.parametrize("beams", [1, 2])
def test_a_search_in_which_everything_is_banned_ends_with_an_error(beams: int) -> None:
    config = SearchConfig(
        beams=beams, max_new_tokens=30, min_new_tokens=30, no_repeat_ngram=1, forced_bos=None, forced_eos=None
    )
    with pytest.raises(BackendError, match="forbid all"):
        generate(table_decoder(0, vocabulary=4), 1, config)
    with pytest.raises(BackendError, match="forbid all"):
        drain(table_decoder(0, vocabulary=4), config)


@pytest.mark.parametrize("beams", [1, 3])
def test_equal_logits_go_to_the_lower_id(beams: int) -> None:
    def flat(histories: Int64Array) -> Float32Array:
        return np.zeros((*histories.shape[:2], VOCABULARY), np.float32)

    config = SearchConfig(beams=beams, max_new_tokens=4, no_repeat_ngram=0, forced_bos=None, forced_eos=None)
    (answer,) = generate(Replay(flat), 1, replace(config, min_new_tokens=4))
    assert answer.ids.tolist() == [0, 0, 0, 0]


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(1, 700), count=st.integers(1, 12), kinds=st.sampled_from([2, 50, 10**9]), seed=st.integers(0, 999)
)
def test_largest_is_a_stable_sort(size: int, count: int, kinds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(kinds, size=size).astype(np.float32)
    scores[rng.random(size) < 0.1] = -np.inf
    assert largest(scores, count).tolist() == np.argsort(-scores, kind="stable")[:count].tolist()


@pytest.mark.parametrize("spread", [0.1, 10.0, 1e4])
def test_log_softmax_is_that_of_fp64(spread: float) -> None:
    logits = np.random.default_rng(0).normal(scale=spread, size=(3, 51289)).astype(np.float32)
    wide = logits.astype(np.float64)
    exact = wide - wide.max(axis=1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    ours = log_softmax(logits, np.empty_like(logits))
    np.testing.assert_allclose(ours, exact, rtol=3e-7, atol=2e-6)
    np.testing.assert_allclose(np.exp(ours.astype(np.float64)).sum(axis=1), 1, atol=5e-6)


@given(
    history=st.lists(st.lists(st.integers(0, 3), min_size=9, max_size=9), min_size=1, max_size=4),
    length=st.integers(1, 9),
    size=st.integers(0, 4),
)
def test_repeating_is_the_definition(history: list[list[int]], length: int, size: int) -> None:
    ids = np.asarray(history, dtype=np.int64)[:, :length]
    found = set(zip(*(side.tolist() for side in repeating(ids, size)), strict=True))
    expected = set()
    for row, tokens in enumerate(ids.tolist()):
        ngrams = {tuple(tokens[i : i + size]) for i in range(length - size + 1)} if size else set()
        for token in range(4):
            if size and tuple([*tokens, token][length + 1 - size :]) in ngrams and length + 1 >= size:
                expected.add((row, token))
    assert found == expected
