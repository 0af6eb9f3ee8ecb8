"""Searches that never leave the device against the SDK's search on the host: the same model, hundreds of settings.

The native kernels run as their CPU twins here. All that a GPU adds is the recording of what is called directly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from florence_edge import search
from florence_edge.backends import Hypothesis
from florence_edge.backends.request import Request
from florence_edge.errors import BackendError
from florence_edge.options import SearchConfig
from florence_train.backend import _TorchDecoder
from florence_train.kernels.device import DeviceEngine
from florence_train.kernels.operations import KERNELS, TORCH, Operations
from florence_train.kernels.search_state import SearchPlan, SearchState
from support.kernel_model import VOCABULARY, random_config, random_request, small_model
from support.kernels import native_library

IMAGES = 3


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    native_library()


@pytest.fixture(scope="module", params=[KERNELS, TORCH], ids=lambda operations: operations.name)
def engine(request: pytest.FixtureRequest) -> DeviceEngine:
    return DeviceEngine(small_model(), request.param)


@pytest.fixture(scope="module")
def features() -> Tensor:
    with torch.inference_mode():
        return small_model().encode_image(torch.randn(IMAGES, 3, 64, 96, generator=torch.Generator().manual_seed(2)))


def on_the_host(features: Tensor, request: Request) -> list[Hypothesis]:
    return search.generate(_TorchDecoder(small_model(), features, request), len(request.prompt_ids), request.config)


def outcome(answers: list[Hypothesis]) -> list[tuple[list[int], str]]:
    return [(answer.ids.tolist(), answer.finish) for answer in answers]


def is_dead_end(answer: Callable[[Tensor, Request], list[Hypothesis]], features: Tensor, request: Request) -> bool:
    with pytest.raises(BackendError) as raised:
        answer(features, request)
    return "no token may follow" in str(raised.value)


def compare(engine: DeviceEngine, features: Tensor, request: Request) -> list[Hypothesis]:
    """Both searches, which must end alike; returns the answers, none where both found that everything is banned."""
    try:
        expected = on_the_host(features, request)
    except BackendError:
        assert is_dead_end(on_the_host, features, request)
        assert is_dead_end(engine.generate, features, request)
        return []
    actual = engine.generate(features, request)
    assert outcome(actual) == outcome(expected), str(request.config)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=1e-4, rel=1e-6)
        np.testing.assert_allclose(ours.token_logprobs, theirs.token_logprobs, atol=1e-4)
        assert ours.ids.dtype == theirs.ids.dtype
    return actual


def compare_many(engine: DeviceEngine, features: Tensor, seeds: range) -> None:
    answers = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        answers += compare(engine, features, random_request(rng, IMAGES, random_config(rng)))
    assert {answer.finish for answer in answers} == {"eos", "length"}, "the settings must cover both ends"
    assert len({len(answer.ids) for answer in answers}) > 8, "and many lengths"


def test_random_settings_give_the_answers_of_the_search_on_the_host(engine: DeviceEngine, features: Tensor) -> None:
    compare_many(engine, features, range(40))


@pytest.mark.slow
def test_hundreds_of_random_settings(engine: DeviceEngine, features: Tensor) -> None:
    compare_many(engine, features, range(1000, 1400))


def test_an_engine_that_has_answered_before_answers_the_same(engine: DeviceEngine, features: Tensor) -> None:
    """Caches, source and state are used again: nothing of an earlier search may be seen by a later one."""
    config = SearchConfig(max_new_tokens=14)
    requests = [random_request(np.random.default_rng(seed), IMAGES, config) for seed in range(6)]
    first = [outcome(engine.generate(features, request)) for request in requests]
    assert first != first[::-1]
    assert [outcome(engine.generate(features, request)) for request in reversed(requests)] == first[::-1]


@pytest.mark.parametrize("operations", [KERNELS, TORCH], ids=lambda operations: operations.name)
def test_images_are_encoded_as_by_the_model(operations: Operations) -> None:
    """Windows that are filled up, one that is not, another batch; the same shape twice with other pixels."""
    model, engine = small_model(), DeviceEngine(small_model(), operations)
    generator = torch.Generator().manual_seed(1)
    for shape in [(1, 3, 64, 64), (2, 3, 72, 100), (1, 3, 40, 128), (2, 3, 72, 100)]:
        pixels = torch.randn(shape, generator=generator)
        with torch.inference_mode():
            torch.testing.assert_close(engine.encode_image(pixels), model.encode_image(pixels), atol=1e-5, rtol=1e-4)


def test_weights_are_used_where_they_are(features: Tensor) -> None:
    """A model that is trained on is answered with as it stands, its fused projections included."""
    model, request = small_model(), random_request(np.random.default_rng(3), IMAGES, SearchConfig(max_new_tokens=12))
    engine = DeviceEngine(model, KERNELS)
    before = compare(engine, features, request)
    weight = model.get_parameter("decoder.layers.0.self_attention.value.weight")
    with torch.no_grad():
        kept = weight.clone()
        weight.mul_(-1.0)
        try:
            after = compare(engine, features, request)
        finally:
            weight.copy_(kept)
    assert outcome(before) != outcome(after)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("beams", [1, 2, 3, 8])
def test_steps_in_torch_leave_what_the_twins_leave(beams: int, early_stopping: bool) -> None:
    """Every array of the state, after every step, and four steps past the end.

    No token is forced at first: beams that are still alike tie then, and torch orders ties as it likes.
    """
    config = SearchConfig(
        beams=beams, max_new_tokens=11, early_stopping=early_stopping, no_repeat_ngram=2, forced_bos=None
    )
    plan = SearchPlan.of(3, VOCABULARY, config)
    states = [SearchState.allocate(plan, torch.device("cpu")) for _ in range(2)]
    generator = torch.Generator().manual_seed(beams)
    for state, operations in zip(states, (KERNELS, TORCH), strict=True):
        operations.beam_begin(state)
    over = 0
    while over < 4:
        logits = 3 * torch.randn(plan.rows, VOCABULARY, generator=generator)
        logits[:, config.eos] += 4
        for state, operations in zip(states, (KERNELS, TORCH), strict=True):
            operations.beam_step(logits, state)
        same(states[0], states[1])
        over += int(states[0].progress[0] == 0)


def same(ours: SearchState, theirs: SearchState) -> None:
    length = int(ours.position) + 1
    for name in ("position", "next_tokens", "parents", "progress", "can_improve", "image_done", "finished_flags"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    for name in ("indirection", "running_tokens"):
        assert torch.equal(getattr(ours, name)[..., :length], getattr(theirs, name)[..., :length]), name
    for name in ("running_scores", "finished_scores", "length_norms"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-4, rtol=1e-5)
    kept = ours.finished_flags == 1
    assert torch.equal(ours.finished_lengths[kept], theirs.finished_lengths[kept])
    for a, b, size in zip(
        ours.finished_tokens[kept], theirs.finished_tokens[kept], ours.finished_lengths[kept], strict=True
    ):
        assert torch.equal(a[:size], b[:size])


def test_logits_that_are_not_finite_are_an_error_that_says_where(engine: DeviceEngine, features: Tensor) -> None:
    model = small_model()
    request = random_request(np.random.default_rng(8), IMAGES, SearchConfig(max_new_tokens=9, min_new_tokens=8))
    engine.generate(features, request)
    row = model.decoder.positions.weight[5]  # position 3
    kept = row.clone()
    with torch.no_grad():
        row.fill_(torch.inf)
        try:
            with pytest.raises(BackendError, match="non-finite logits for prompt 0 at step 3"):
                engine.generate(features, request)
        finally:
            row.copy_(kept)
    compare(engine, features, request)
