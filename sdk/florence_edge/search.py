"""The search for an answer: from "logits for these tokens" to token ids, with the semantics of `transformers` >= 4.50.

This module owns the loop over steps and what the engine is told; `_beams` owns the choice of tokens, `_logits` the
arithmetic. NumPy only: an engine that offers `Decoder` gets beams, bans, forced tokens and stopping for nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Protocol

import numpy as np

from ._beams import Answer, begin
from .backends import Hypothesis
from .errors import BackendError
from .geometry import Float32Array, Int32Array, Int64Array
from .options import SearchConfig


class Decoder(Protocol):
    """One run of an engine over B prompts with K beams each; it owns the caches and appends to them at every call."""

    def step(self, token_ids: Int64Array, ancestors: Int32Array) -> Float32Array:
        """Feeds one token per beam [B, K]; returns the logits [B, K, V] float32 of the next, which may be overwritten.

        Call number p (from 0) feeds position p. `ancestors` [B, K, p] names the beam slot that holds the cache entry of
        every earlier position of each beam's history: entries never move, histories are looked up.
        """
        ...


def generate(decoder: Decoder, batch: int, config: SearchConfig) -> list[Hypothesis]:
    """Searches for the best hypothesis of each of `batch` prompts.

    Ends after `max_new_tokens` steps at the latest. Every answer is what its prompt gives alone. Raises `BackendError`
    for non-finite logits, naming prompt and step.
    """
    answers = [begin(config) for _ in range(batch)]
    for _ in _steps(decoder, answers, config):
        pass
    return [answer.hypothesis() for answer in answers]


def stream(decoder: Decoder, config: SearchConfig) -> Generator[Int64Array, None, Hypothesis]:
    """The same search for one prompt, yielding token ids [n] as soon as they are certain; returns the hypothesis.

    With one beam these are the tokens as they are chosen; with several, what all hypotheses that may still win agree
    on. Joined, they are the ids of the hypothesis.
    """
    answer = begin(config)
    told = 0
    for _ in _steps(decoder, [answer], config):
        certain = answer.certain()
        if len(certain) > told:
            yield certain[told:]
            told = len(certain)
    return answer.hypothesis()


def _steps(decoder: Decoder, answers: Sequence[Answer], config: SearchConfig) -> Iterator[None]:
    """Advances all answers together, one token at a time, until each is decided."""
    for position in range(config.max_new_tokens):
        running = [index for index, answer in enumerate(answers) if not answer.done]
        if not running:
            return
        forced = _forced(position, config)
        ends = position + 1 == config.max_new_tokens or forced == config.eos
        # A forced token needs no logits. The engine still has to see what was fed, unless nothing comes after it.
        if forced is None or not ends:
            logits = decoder.step(*_fed(answers, running, position, config))
        for index in running:
            if forced is None:
                answers[index].advance(_finite(logits[index], index, position))
            else:
                answers[index].force(forced)
        yield


def _forced(position: int, config: SearchConfig) -> int | None:
    """The token that must follow the one at a position, if there is one; the end at the limit goes before the rest."""
    if position + 1 == config.max_new_tokens and config.forced_eos is not None:
        return config.forced_eos
    return config.forced_bos if position == 0 else None


def _fed(
    answers: Sequence[Answer], running: Sequence[int], position: int, config: SearchConfig
) -> tuple[Int64Array, Int32Array]:
    """Tokens [B, K] and ancestors [B, K, position]; decided answers stay in the batch as padding."""
    tokens = np.full((len(answers), config.beams), config.pad, np.int64)
    ancestors = np.zeros((len(answers), config.beams, position), np.int32)
    for index in running:
        tokens[index] = answers[index].tokens
        ancestors[index] = answers[index].ancestors
    return tokens, ancestors


def _finite(logits: Float32Array, index: int, position: int) -> Float32Array:
    if not np.isfinite(logits).all():
        raise BackendError(
            f"the decoder gave non-finite logits for prompt {index} at step {position}; the weights or the pixels are "
            "damaged, or the precision overflows: verify the bundle, or use one in fp32"
        )
    return logits
