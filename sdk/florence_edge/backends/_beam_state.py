"""The state of a search that runs on a device, seen from the host: what is asked of it, and what it found.

Layout and meaning are those of `florence_beam_state` in kernels/include/florence_kernels.h. NumPy only: whoever runs
the search copies its block to the host.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from florence_edge._beams import NEVER, ban, finish
from florence_edge._guide import Guide
from florence_edge.errors import BackendError
from florence_edge.geometry import AnyArray, Float32Array, Int64Array, UInt8Array
from florence_edge.options import SearchConfig

from . import Hypothesis
from .kernel_library import DTYPES, EARLY_STOPPING, BeamDims, BeamState

_NO_TOKEN = -1


class Binder(Protocol):
    """What fills a `florence_beam_state` with pointers into a block: `kernel_library.KernelLibrary`."""

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function of the library."""
        ...


def beam_dims(config: SearchConfig, *, batch: int, vocabulary: int, capacity: int) -> ctypes.Structure:
    """A search as the kernels take it, over float32 logits, in memory for `capacity` tokens a sequence.

    One beam: greedy search, over with its first answer.
    """
    return BeamDims(
        batch=batch,
        beams=config.beams,
        vocab=vocabulary,
        max_length=config.max_new_tokens + 1,
        capacity=capacity,
        dtype=DTYPES["float32"],
        start_token=config.decoder_start,
        eos_token=config.eos,
        forced_bos_token=_NO_TOKEN if config.forced_bos is None else config.forced_bos,
        forced_eos_token=_NO_TOKEN if config.forced_eos is None else config.forced_eos,
        no_repeat_ngram=config.no_repeat_ngram,
        min_new_tokens=config.min_new_tokens,
        early_stopping=EARLY_STOPPING[config.early_stopping if config.beams > 1 else True],
        length_penalty=config.length_penalty,
    )


def allowed_bits(history: Int64Array, config: SearchConfig, guide: Guide | None, scratch: Float32Array) -> UInt8Array:
    """The tokens that may follow each of K histories [K, C], as `florence_beam_step` takes them: [K, ceil(V / 8)].

    All rules of `config` are in them, so the step must not apply its own: n-gram ban and least length yield where they
    and the form leave nothing. `scratch` [K, V] is overwritten.
    """
    scratch.fill(0)
    ban(scratch, history, config, guide)
    return np.packbits(scratch == 0, axis=1, bitorder="little")


class SearchResult:
    """A host copy of a state block [bytes] uint8, whose views follow when the copy is renewed."""

    def __init__(self, binder: Binder, dims: Any, block: UInt8Array, config: SearchConfig) -> None:
        self._config = config
        pointers = BeamState()
        binder.call("florence_beam_state_bind", dims, block.ctypes.data, pointers)
        beams, tokens = (dims.batch, dims.beams), (dims.batch, dims.beams, dims.capacity)

        def view(name: str, shape: tuple[int, ...], dtype: type) -> AnyArray:
            start = getattr(pointers, name) - block.ctypes.data
            size = math.prod(shape) * np.dtype(dtype).itemsize
            return block[start : start + size].view(dtype).reshape(shape)

        self._running = view("running_tokens", tokens, np.int32)
        self._running_scores = view("running_scores", beams, np.float32)
        self._tokens = view("finished_tokens", tokens, np.int32)
        self._logprobs = view("finished_logprobs", tokens, np.float32)
        self._scores = view("finished_scores", beams, np.float32)
        self._lengths = view("finished_lengths", beams, np.int32)
        self._flags = view("finished_flags", beams, np.int32)
        self._done = view("image_done", beams[:1], np.int32)

    def hypothesis(self, image: int) -> Hypothesis:
        """The best hypothesis of one prompt; `BackendError` where there is none."""
        score, end = float(self._scores[image, 0]), int(self._lengths[image, 0])
        if not self._flags[image, 0] or not math.isfinite(score):
            raise BackendError(
                f"the search found no answer to prompt {image}: n-gram ban and min_new_tokens forbid all tokens (lower "
                "no_repeat_ngram or min_new_tokens), or the decoder's logits are not finite (use engines in fp32)"
            )
        ids = self._tokens[image, 0, 1:end].astype(np.int64)
        return Hypothesis(ids, score, self._logprobs[image, 0, 1:end].copy(), finish(ids, self._config))

    def running(self, length: int) -> Iterator[Int64Array | None]:
        """The running sequences [K, C] of every image, the start token among them; None for one that is done.

        C is `length`, the tokens that sequences hold.
        """
        for tokens, done in zip(self._running, self._done, strict=True):
            yield None if done else tokens[:, :length].astype(np.int64)

    def certain(self, image: int, length: int) -> Int64Array:
        """The tokens [n] that the answer is sure to begin with, while sequences hold `length` tokens.

        Log-probabilities only fall, so a running beam's score is at most its present sum at the length that divides it
        best; beams that cannot pass the best finished hypothesis no longer matter.
        """
        config, best = self._config, NEVER
        rivals = []
        if self._flags[image, 0]:
            best = self._scores[image, 0]
            rivals.append(self._tokens[image, 0, 1 : self._lengths[image, 0]])
        longest = config.max_new_tokens if config.length_penalty > 0 else max(length - 1, 1)
        bounds = self._running_scores[image] / np.float32(longest**config.length_penalty)
        rivals += [*self._running[image, bounds > best, 1:length]]
        if not rivals:
            return np.empty(0, np.int64)
        shortest = min(map(len, rivals))
        agree = (np.stack([ids[:shortest] for ids in rivals]) == rivals[0][:shortest]).all(axis=0)
        return rivals[0][: shortest if agree.all() else int(agree.argmin())].astype(np.int64)
