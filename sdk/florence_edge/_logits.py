"""Arithmetic on one step's logits: log-softmax, the best of many scores, the tokens an n-gram ban forbids.

Knows nothing of beams or of when a search ends. Every function is a few passes over the vocabulary in NumPy.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from .geometry import Float32Array, Int64Array


def log_normaliser(logits: Float32Array, scratch: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Peak and log-sum [K, 1] with which `logits - peak - log_sum` is the log-softmax of each row of [K, V].

    `scratch` is overwritten and has the shape of `logits`. Two numbers and not their sum: subtracting the peak first
    keeps the likely tokens, whose log-probability is near zero, exact to the last bits.
    """
    peak = logits.max(axis=-1, keepdims=True)
    np.exp(np.subtract(logits, peak, out=scratch), out=scratch)
    return peak, np.log(scratch.sum(axis=-1, keepdims=True))


def log_softmax(logits: Float32Array, scratch: Float32Array) -> Float32Array:
    """Log-softmax over the last axis of [K, V], in place; `scratch` is overwritten."""
    peak, log_sum = log_normaliser(logits, scratch)
    logits -= peak
    logits -= log_sum
    return logits


def largest(scores: Float32Array, count: int) -> Int64Array:
    """Indices of the `count` largest of scores [M], best first; of equal scores the lower index comes first.

    The `count`-th largest of the maxima of blocks is a bound that at least `count` scores reach, so only the few scores
    that reach it are sorted. That takes two passes at memory speed, where a partition costs some five times as much.
    """
    peaks = np.maximum.reduceat(scores, np.arange(0, len(scores), max(isqrt(len(scores)), 1)))
    if len(peaks) > count:
        bound = np.partition(peaks, len(peaks) - count)[len(peaks) - count]
        found = np.flatnonzero(scores >= bound)
    else:
        found = np.arange(len(scores))
    return found[np.argsort(-scores[found], kind="stable")[:count]]


def repeating(history: Int64Array, size: int) -> tuple[Int64Array, Int64Array]:
    """The tokens that would repeat an n-gram of `size`: rows and token ids, in pairs.

    `history` [K, C] holds the tokens so far, the start token included. Comparing the last `size - 1` tokens with every
    earlier window costs less than keeping a table of n-grams that has to follow the beams.
    """
    windows = history.shape[1] - size + 1
    if size == 0 or windows < 1:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    match = np.ones((len(history), windows), dtype=bool)
    for offset in range(size - 1):
        match &= history[:, offset : offset + windows] == history[:, windows + offset, None]
    rows, starts = np.nonzero(match)
    return rows, history[rows, starts + size - 1]
