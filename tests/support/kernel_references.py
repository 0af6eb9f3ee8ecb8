"""What every kernel must compute, in float64 NumPy: loops and reshapes that follow the definitions, nothing clever."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
HEAD = 32


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def window_attention(qkv: Array, bias: Array, size: tuple[int, int], window: int) -> Array:
    """qkv [B, H*W, 3C], bias [3C] -> [B, H*W, C] float64; pad tokens are the bias and take part."""
    batch, _, triple = qkv.shape
    (height, width), channels = size, triple // 3
    rows, columns = -(-height // window), -(-width // window)
    padded = np.tile(bias.astype(np.float64), (batch, rows * window, columns * window, 1))
    padded[:, :height, :width] = qkv.astype(np.float64).reshape(batch, height, width, triple)
    tiles = padded.reshape(batch, rows, window, columns, window, 3, channels // HEAD, HEAD)
    q, k, v = tiles.transpose(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, batch, rows, columns, -1, window * window, HEAD)
    out = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(HEAD)) @ v
    out = out.reshape(batch, rows, columns, -1, window, window, HEAD).transpose(0, 1, 4, 2, 5, 3, 6)
    out = out.reshape(batch, rows * window, columns * window, channels)[:, :height, :width]
    return np.asarray(out.reshape(batch, height * width, channels))


def channel_attention(qkv: Array) -> Array:
    """qkv [B, N, 3C] -> [B, N, C] float64."""
    batch, tokens, triple = qkv.shape
    q, k, v = qkv.astype(np.float64).reshape(batch, tokens, 3, -1, HEAD).transpose(2, 0, 3, 4, 1)
    out = softmax(q @ k.swapaxes(-1, -2) * tokens**-0.5) @ v
    return np.asarray(out.transpose(0, 3, 1, 2).reshape(batch, tokens, triple // 3))


def attend(q: Array, keys: Array, values: Array, scale: float) -> Array:
    """q [D], keys and values [N, D] -> [D] float64; zero without keys."""
    if len(keys) == 0:
        return np.zeros(len(q))
    scores = keys.astype(np.float64) @ q.astype(np.float64) * scale
    return np.asarray(softmax(scores) @ values.astype(np.float64))
