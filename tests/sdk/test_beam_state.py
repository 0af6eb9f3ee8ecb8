"""What is read from a search on the device, against the search in NumPy, token by token."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge._beams import begin, guide_of
from florence_edge.backends._beam_state import SearchResult, allowed_bits, beam_dims
from florence_edge.backends.kernel_library import BeamState, KernelLibrary
from florence_edge.codec import Codec
from florence_edge.errors import BackendError
from florence_edge.geometry import Float32Array, UInt8Array
from florence_edge.options import EarlyStopping, FormedConfig, SearchConfig
from florence_edge.tasks import TASKS, InputKind
from support.kernels import native_library
from support.manifests import manifest
from support.vocabularies import small_tokens

VOCABULARY, START = 19, 2
GIVEN = {
    InputKind.NONE: None,
    InputKind.PHRASE: "a car",
    InputKind.CLASSES: ("car", "Red thing"),
    InputKind.BOX: (1, 2, 30, 40),
}


@pytest.fixture(scope="module")
def library() -> KernelLibrary:
    return KernelLibrary(native_library())


class Twin:
    """A search by the CPU twins, its state on the host."""

    def __init__(self, library: KernelLibrary, config: SearchConfig, vocabulary: int = VOCABULARY) -> None:
        capacity = config.max_new_tokens + 3
        self._library, self._state = library, BeamState()
        self._dims = beam_dims(config, batch=1, vocabulary=vocabulary, capacity=capacity)
        size = library.size("florence_beam_state_size", self._dims)
        raw: UInt8Array = np.zeros(size + 256, np.uint8)
        block = raw[-raw.ctypes.data % 256 :][:size]
        library.call("florence_beam_state_bind", self._dims, block.ctypes.data, self._state)
        self.progress = np.zeros(2, np.int32)
        library.call("florence_beam_begin_cpu", self._dims, self._state, self.progress.ctypes.data, None)
        self.result = SearchResult(library, self._dims, block, config)

    def step(self, logits: Float32Array, bits: UInt8Array | None = None) -> None:
        allowed = None if bits is None else bits.ctypes.data
        arguments: tuple[Any, ...] = (self._dims, self._state, logits.ctypes.data, allowed, self.progress.ctypes.data)
        self._library.call("florence_beam_step_cpu", *arguments, None, None)

    @property
    def tokens(self) -> list[int]:
        """What the running beams end with."""
        found = ctypes.cast(self._state.next_tokens, ctypes.POINTER(ctypes.c_int32))
        return [int(found[beam]) for beam in range(self._dims.beams)]


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("beams", [1, 2, 4])
def test_every_step_tells_what_the_numpy_search_tells(
    library: KernelLibrary, beams: int, early_stopping: EarlyStopping
) -> None:
    finishes = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        config = SearchConfig(
            beams=beams,
            max_new_tokens=int(rng.integers(2, 14)),
            length_penalty=float(rng.choice([0.0, 1.0, 2.0])),
            early_stopping=early_stopping,
            no_repeat_ngram=int(rng.integers(0, 4)),
        )
        twin, answer = Twin(library, config), begin(config)
        for position in range(config.max_new_tokens):
            logits = (2 * rng.normal(size=(beams, VOCABULARY))).astype(np.float32)
            twin.step(logits)
            if position == 0 or position + 1 == config.max_new_tokens:
                answer.force(START if position else 0)
            else:
                answer.advance(logits.copy())
            if answer.done:
                break
            assert twin.tokens == answer.tokens.tolist()
            assert twin.result.certain(0, int(twin.progress[1])).tolist() == answer.certain().tolist()
        wanted, found = answer.hypothesis(), twin.result.hypothesis(0)
        assert found.ids.tolist() == wanted.ids.tolist()
        assert found.finish == wanted.finish
        np.testing.assert_allclose(found.token_logprobs, wanted.token_logprobs, atol=1e-5)
        assert found.score == pytest.approx(wanted.score, abs=1e-5)
        finishes.add(found.finish)
    assert finishes == {"eos", "length"}


@settings(max_examples=60)
@given(data=st.data())
def test_an_answer_with_a_form_is_that_of_the_numpy_search(library: KernelLibrary, data: st.DataObject) -> None:
    """Random logits; the form, the ban and the least length travel as bits."""
    codec, task = Codec(small_tokens(), manifest()), data.draw(st.sampled_from(TASKS))
    limit = data.draw(st.integers(2, 30))
    plain = SearchConfig(
        beams=data.draw(st.integers(1, 4)),
        max_new_tokens=limit,
        min_new_tokens=data.draw(st.sampled_from([0, min(5, limit), limit])),
        no_repeat_ngram=data.draw(st.integers(0, 3)),
        early_stopping=data.draw(st.sampled_from([True, False, "never"])),
        forced_bos=data.draw(st.sampled_from([0, None])),
        forced_eos=data.draw(st.sampled_from([2, None])),
    )
    config = FormedConfig(**plain.to_dict(), form=codec.form(task, GIVEN[task.input]))
    size = small_tokens().vocabulary.size
    twin, answer = Twin(library, replace(plain, no_repeat_ngram=0, min_new_tokens=0), size), begin(config)
    guide, scratch = guide_of(config), np.empty((config.beams, size), np.float32)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    for position in range(limit):
        (history,) = twin.result.running(position + 1)
        assert history is not None
        logits = (4 * rng.normal(size=scratch.shape)).astype(np.float32)
        twin.step(logits, allowed_bits(history, plain, guide, scratch))
        forced = config.forced_eos if position + 1 == limit else None
        if position == 0 and forced is None:
            forced = config.forced_bos
        answer.advance(logits.copy()) if forced is None else answer.force(forced)
        if answer.done:
            break
    wanted, found = answer.hypothesis(), twin.result.hypothesis(0)
    assert found.ids.tolist() == wanted.ids.tolist()
    assert found.finish == wanted.finish
    np.testing.assert_allclose(found.token_logprobs, wanted.token_logprobs, atol=1e-5)


def test_no_answer_is_an_error(library: KernelLibrary) -> None:
    twin = Twin(library, SearchConfig(beams=2, max_new_tokens=6))
    for _ in range(6):
        twin.step(np.full((2, VOCABULARY), np.nan, np.float32))
    assert twin.progress[0] == 0
    with pytest.raises(BackendError, match=r"found no answer to prompt 0: .*not finite \(use engines in fp32\)"):
        twin.result.hypothesis(0)
