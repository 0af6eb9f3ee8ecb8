"""The beam step against a plain float64 search, and the rules that hold after every single step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.beam_search import EMPTY, Array, Found, Logits, Options, Search, reference
from support.kernel_cases import toy_model
from support.kernels import Kernels


def assert_same(found: Found, expected: Found) -> None:
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=1e-5, atol=2e-5)


GRID = [
    Options(beams=beams, early_stopping=stopping, length_penalty=penalty, max_length=10)
    for beams in (1, 2, 3, 5, 8)
    for stopping in (0, 1, 2)
    for penalty in (0.0, 1.0, 2.0)
]
EDGES = [
    Options(no_repeat_ngram=0),
    Options(no_repeat_ngram=1, vocab=40),
    Options(no_repeat_ngram=2),
    Options(no_repeat_ngram=4, vocab=6, beams=2),
    Options(no_repeat_ngram=20),
    Options(min_new_tokens=9, max_length=12),
    Options(min_new_tokens=30, max_length=30, length_penalty=0.5),
    Options(forced_bos_token=-1),
    Options(forced_eos_token=-1),
    Options(forced_bos_token=-1, forced_eos_token=-1, no_repeat_ngram=0, length_penalty=-1.0),
    Options(max_length=2),
    Options(max_length=3, early_stopping=1),
    Options(eos_token=22, start_token=5, forced_eos_token=22, forced_bos_token=7),
]


DEVICE_GRID = [GRID[i] for i in (7, 14, 23, 28)] + EDGES[:5]
"""Enough for every rule; the slow test runs the rest."""


def compare(kernels: Kernels, options: Options) -> None:
    models = [toy_model(seed, options, eos_bias=3.0 * seed) for seed in range(3)]
    for found, model in zip(Search(kernels, options, batch=3).run(models), models, strict=True):
        assert_same(found, reference(options, model))


@pytest.mark.parametrize("options", GRID + EDGES, ids=str)
def test_twin_finds_what_the_float64_search_finds(twin: Kernels, options: Options) -> None:
    compare(twin, options)


@pytest.mark.parametrize("options", DEVICE_GRID, ids=str)
def test_finds_what_the_float64_search_finds(kernels: Kernels, options: Options) -> None:
    compare(kernels, options)


@pytest.mark.slow
@pytest.mark.parametrize("options", GRID + EDGES, ids=str)
def test_device_code_finds_it_for_every_setting(kernels: Kernels, options: Options) -> None:
    compare(kernels, options)


@pytest.mark.parametrize("spare", [1, 30])
def test_room_behind_the_longest_sequence_changes_nothing(kernels: Kernels, spare: int) -> None:
    """Many searches of other lengths use one block, whose layout follows from its capacity."""
    options = Options(max_length=7)
    models = [toy_model(seed, options) for seed in range(2)]
    search = Search(kernels, options, batch=2, capacity=options.max_length + spare)
    for found, model in zip(search.run(models), models, strict=True):
        assert_same(found, reference(options, model))
    assert (search.get("running_tokens")[:, :, options.max_length :] == np.int32(-0x54545455)).all(), "0xAB, as before"
    longer = Search(kernels, Options(max_length=options.max_length + spare), batch=2)
    for name, *_ in search.state._fields_:
        assert getattr(search.state, name) - search.base == getattr(longer.state, name) - longer.base


def third_of_all(seed: int, options: Options) -> Logits:
    """1 for the tokens that may follow a sequence: a third of all, another third behind each, and always the end."""
    draw = toy_model(seed, options)

    def allowed(tokens: Sequence[int]) -> Array:
        may = draw(tokens) > 1.3
        may[options.eos_token] = True
        return may.astype(np.float32)

    return allowed


@pytest.mark.parametrize(
    "options",
    [
        Options(no_repeat_ngram=0),
        Options(beams=1, early_stopping=1, vocab=17),
        Options(beams=8, vocab=41, no_repeat_ngram=2),
        Options(vocab=8205, max_length=5, forced_bos_token=-1),
        Options(vocab=19, beams=5, early_stopping=2, length_penalty=2.0),
    ],
    ids=str,
)
def test_only_what_is_allowed_follows(kernels: Kernels, options: Options) -> None:
    models = [toy_model(seed, options) for seed in (5, 6)]
    rules = [third_of_all(seed, options) for seed in (7, 8)]
    for found, model, rule in zip(Search(kernels, options, batch=2).run(models, rules), models, rules, strict=True):
        assert_same(found, reference(options, model, rule))
        for end in range(1, len(found.tokens)):
            forced = options.forced_bos_token >= 0 and end == 1
            assert forced or rule(found.tokens[:end])[found.tokens[end]]


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_logits(kernels: Kernels, dtype: str) -> None:
    options = Options(vocab=400)
    model = toy_model(3, options, dtype)
    assert_same(Search(kernels, options, dtype=dtype).run([model])[0], reference(options, model))


@pytest.mark.parametrize("vocab", [8191, 8192, 8193, 20000])
def test_vocabularies_around_the_size_of_a_part(kernels: Kernels, vocab: int) -> None:
    options = Options(vocab=vocab, max_length=5, beams=2)
    model = toy_model(1, options)
    assert_same(Search(kernels, options).run([model])[0], reference(options, model))


def test_full_vocabulary(kernels: Kernels) -> None:
    options = Options(vocab=51289, max_length=4)
    model = toy_model(1, options)
    assert_same(Search(kernels, options).run([model])[0], reference(options, model))


def first_step(kernels: Kernels, options: Options, rows: list[np.ndarray], batch: int = 1) -> Search:
    """The state after two steps, the second of which sees `rows`, one per beam."""
    search = Search(kernels, options, batch=batch)
    search.step(np.zeros((batch * options.beams, options.vocab), np.float32))
    search.step(np.tile(np.array(rows, np.float32), (batch, 1)))
    return search


def test_enough_candidates_are_kept_when_eos_leads(kernels: Kernels) -> None:
    """EOS takes one of the best places and cannot run on; the next beams still all come from the only live one."""
    search = first_step(kernels, Options(eos_token=22, forced_eos_token=22), [np.arange(23.0)] * 3)
    assert search.get("next_tokens").tolist() == [[21, 20, 19]]
    assert search.get("parents").tolist() == [[0, 0, 0]]
    assert search.get("finished_flags").tolist() == [[1, 0, 0]]


def test_equal_logits_are_taken_in_token_order(kernels: Kernels) -> None:
    search = first_step(kernels, Options(eos_token=22, forced_eos_token=22), [np.zeros(23)] * 3)
    assert search.get("next_tokens").tolist() == [[0, 1, 2]]
    assert search.get("parents").tolist() == [[0, 0, 0]]


def test_the_two_best_times_beams_are_exact_when_one_part_holds_them_all(kernels: Kernels) -> None:
    options = Options(vocab=20000, beams=8, eos_token=1, no_repeat_ngram=0, forced_eos_token=-1)
    row = np.zeros(20000)
    row[9000:9016] = np.arange(16) + 5.0
    search = first_step(kernels, options, [row] * 8)
    assert search.get("next_tokens").tolist() == [list(range(9015, 9007, -1))]


def test_a_row_of_minus_infinity_gives_nothing(kernels: Kernels) -> None:
    options = Options(eos_token=22, forced_eos_token=22)
    search = first_step(kernels, options, [np.full(23, -np.inf), np.zeros(23), np.zeros(23)])
    assert search.get("running_scores").max() < EMPTY / 2
    assert ((search.get("next_tokens") >= 0) & (search.get("next_tokens") < 23)).all()


def test_all_rows_of_minus_infinity_end_the_search_without_a_hypothesis(kernels: Kernels) -> None:
    search = first_step(kernels, Options(), [np.full(23, -np.inf)] * 3)
    assert search.images_left() == 0
    assert not search.get("finished_flags").any()


def test_a_nan_counts_as_minus_infinity(kernels: Kernels) -> None:
    clean = np.linspace(0, 1, 23)
    broken = clean.copy()
    clean[22], broken[22] = -np.inf, np.nan
    options = Options(eos_token=1, forced_eos_token=1)
    states = [first_step(kernels, options, [row] * 3) for row in (clean, broken)]
    for name in ("next_tokens", "running_scores"):
        np.testing.assert_array_equal(states[0].get(name), states[1].get(name))


def test_an_infinite_logit_takes_all_the_probability(kernels: Kernels) -> None:
    row = np.zeros(23)
    row[7] = np.inf
    search = first_step(kernels, Options(eos_token=1, forced_eos_token=1), [row] * 3)
    assert search.get("next_tokens")[0, 0] == 7
    assert search.get("running_scores")[0, 0] == 0.0


def test_a_finished_image_no_longer_changes(kernels: Kernels) -> None:
    options = Options(early_stopping=1, max_length=12)
    models = [toy_model(0, options, eos_bias=20.0), toy_model(1, options, eos_bias=-20.0)]
    search = Search(kernels, options, batch=2)
    frozen: dict[str, np.ndarray] = {}
    names = [
        "running_tokens",
        "running_scores",
        "finished_tokens",
        "finished_logprobs",
        "finished_scores",
        "indirection",
    ]
    for _ in range(options.max_length):
        search.step(search.logits(models))
        if search.get("image_done")[0] and not frozen:
            frozen = {name: search.get(name)[0].tobytes() for name in names}
            assert search.images_left() == 1
        if search.images_left() == 0:
            break
    assert {name: search.get(name)[0].tobytes() for name in names} == frozen
    assert_same(search.best(1), reference(options, models[1]))


def test_steps_after_the_end_change_nothing(kernels: Kernels) -> None:
    options = Options(max_length=6)
    search = Search(kernels, options)
    search.run([toy_model(2, options)])
    before = search.get("position"), search.block.tobytes()
    for _ in range(3):
        search.step(np.ones((3, 23), np.float32))
    assert (search.get("position"), search.block.tobytes()) == before


def test_indirection_retraces_every_running_beam(kernels: Kernels) -> None:
    """A cache that is written in the own slot and never moved must read back the running sequence."""
    options = Options(beams=4, max_length=12, early_stopping=2)
    model, search = toy_model(5, options), Search(kernels, options)
    cache = np.full((options.beams, options.max_length), -1)
    steps = 0
    while search.images_left():
        position = int(search.get("position")[0])
        running, slots = search.get("running_tokens")[0], search.get("indirection")[0]
        cache[:, position] = search.get("next_tokens")[0]
        for beam in range(options.beams):
            for t in range(position + 1):
                assert cache[slots[beam, t], t] == running[beam, t]
        search.step(search.logits([model]))
        steps += 1
    assert steps > 5


def test_progress_reports_images_left_and_length(kernels: Kernels) -> None:
    options = Options(max_length=5)
    search = Search(kernels, options, batch=2)
    assert search.images_left() == 2
    assert search.progress.tolist() == [2, 1]
    search.run([toy_model(0, options), toy_model(1, options)])
    assert search.progress[0] == 0
    assert search.progress[1] <= 5


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    beams=st.integers(1, 8),
    vocab=st.integers(17, 60),
    max_length=st.integers(2, 12),
    ngram=st.integers(0, 4),
    min_new=st.integers(0, 12),
    stopping=st.integers(0, 2),
    penalty=st.floats(-2, 3),
    eos_bias=st.floats(-3, 6),
)
def test_any_options(twin: Kernels, seed: int, beams: int, vocab: int, max_length: int, ngram: int, min_new: int,
                     stopping: int, penalty: float, eos_bias: float) -> None:  # fmt: skip
    options = Options(
        beams=beams,
        vocab=vocab + max_length,
        max_length=max_length,
        no_repeat_ngram=ngram,
        min_new_tokens=min(min_new, max_length),
        early_stopping=stopping,
        length_penalty=penalty,
    )
    model = toy_model(seed, options, eos_bias=eos_bias)
    assert_same(Search(twin, options).run([model])[0], reference(options, model))
