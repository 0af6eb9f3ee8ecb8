"""Random inputs for every kernel and one function each that runs it: what the tests of the kernels share."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from support.beam_search import Logits, Options
from support.kernel_references import attend
from support.kernels import DTYPES, Kernels, dims

Array = npt.NDArray[Any]
LENGTH = 70
"""Positions in the cache of a `SelfCase`."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def number_of(kind: np.dtype[Any]) -> int:
    """The florence_dtype of a NumPy dtype."""
    return next(number for number, known in DTYPES.values() if kind == known)


def noise_image(height: int, width: int) -> Array:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), np.uint8)


def resize(kernels: Kernels, image: Array, out_size: tuple[int, int], dtype: str = "fp32", order: int = 0) -> Array:
    out = np.full((3, *out_size), np.nan, DTYPES[dtype][1])
    height, width = image.shape[:2]
    given = dims(
        "resize",
        in_height=height,
        in_width=width,
        row_stride=image.strides[0],
        out_height=out_size[0],
        out_width=out_size[1],
        channel_order=order,
        dtype=DTYPES[dtype][0],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    rows = np.ascontiguousarray(image if image.base is None else image.base)
    kernels.run("florence_resize_normalize", given, rows, out)
    return out


def random_windows(
    size: tuple[int, int], heads: int, dtype: str, batch: int = 1, spread: float = 1.0
) -> tuple[Array, Array]:
    generator = np.random.default_rng(size[0] * 100 + size[1])
    kind = DTYPES[dtype][1]
    qkv = (generator.standard_normal((batch, size[0] * size[1], 3 * 32 * heads)) * spread).astype(kind)
    return qkv, (generator.standard_normal(3 * 32 * heads) * spread).astype(kind)


def window_attention(kernels: Kernels, qkv: Array, bias: Array | None, size: tuple[int, int], **options: int) -> Array:
    channels = qkv.shape[2] // 3
    out = np.full((*qkv.shape[:2], channels), np.nan, qkv.dtype)
    given = dims(
        "window",
        batch=len(qkv),
        height=size[0],
        width=size[1],
        channels=channels,
        heads=channels // 32,
        window=options.get("window", 12),
        dtype=number_of(qkv.dtype),
        path=options.get("path", 0),
    )
    kernels.run("florence_window_attention", given, qkv, bias, out)
    return out


def channel_attention(kernels: Kernels, qkv: Array, path: int = 0) -> Array:
    batch, tokens, triple = qkv.shape
    out = np.full((batch, tokens, triple // 3), np.nan, qkv.dtype)
    given = dims(
        "channel",
        batch=batch,
        tokens=tokens,
        channels=triple // 3,
        groups=triple // 96,
        dtype=number_of(qkv.dtype),
        path=path,
    )
    kernels.run("florence_channel_attention", given, qkv, out)
    return out


def random_channels(batch: int, tokens: int, groups: int, dtype: str) -> Array:
    generator = np.random.default_rng(tokens)
    return generator.standard_normal((batch, tokens, 96 * groups)).astype(DTYPES[dtype][1])


class SelfCase:
    """Random inputs of one decode step; `expected` is its float64 result."""

    def __init__(
        self, dtype: str, *, beams: int = 3, head_dim: int = 64, position: int = 5, fused: bool = False
    ) -> None:
        generator = np.random.default_rng(beams * 1000 + position)
        batch, heads, kind = 2, 2, DTYPES[dtype][1]
        rows, width = batch * beams, heads * head_dim
        self.shape = (batch, beams, heads, head_dim)
        self.position = np.array([position], np.int32)
        self.stride = 3 * width if fused else width
        fresh = generator.standard_normal((rows, 3, width)).astype(kind)
        self.qkv = fresh if fused else np.ascontiguousarray(fresh.transpose(1, 0, 2))
        self.q, self.k, self.v = (fresh[:, i].reshape(rows, heads, head_dim) for i in range(3))
        self.k_cache, self.v_cache = (
            generator.standard_normal((batch, beams, heads, LENGTH, head_dim)).astype(kind) for _ in range(2)
        )
        self.k_cache[:, :, :, position:] = self.v_cache[:, :, :, position:] = np.nan
        self.indirection = generator.integers(0, beams, (batch, beams, LENGTH)).astype(np.uint8)
        self.indirection[:, :, position:] = 255
        self.out = np.full((rows, heads, head_dim), np.nan, kind)
        self.dtype = DTYPES[dtype][0]

    def dims(self, append: int) -> Any:
        batch, beams, heads, head_dim = self.shape
        return dims(
            "self",
            batch=batch,
            beams=beams,
            heads=heads,
            head_dim=head_dim,
            max_length=LENGTH,
            row_stride=self.stride,
            dtype=self.dtype,
            append=append,
            scale=head_dim**-0.5,
        )

    def inputs(self) -> list[Array]:
        """q, k and v as arrays that begin at their first element."""
        if self.stride == self.shape[2] * self.shape[3]:
            return list(self.qkv)
        flat, width = self.qkv.reshape(-1), self.stride // 3
        return [np.append(flat[i * width :], np.zeros(i * width, flat.dtype)) for i in range(3)]

    def expected(self) -> Array:
        batch, beams, heads, head_dim = self.shape
        position = int(self.position[0])
        out = np.empty((batch * beams, heads, head_dim))
        for row in range(batch * beams):
            image, beam = divmod(row, beams)
            slots = self.indirection[image, beam, :position]
            for head in range(heads):
                past = [cache[image, slots, head, np.arange(position)] for cache in (self.k_cache, self.v_cache)]
                keys = np.concatenate([past[0], self.k[row, head][None]])
                values = np.concatenate([past[1], self.v[row, head][None]])
                out[row, head] = attend(self.q[row, head], keys, values, head_dim**-0.5)
        return out

    def run(self, kernels: Kernels, *, append: int = 0, done: Array | None = None) -> None:
        arrays = (*self.inputs(), self.k_cache, self.v_cache, self.indirection, self.position, done, self.out)
        kernels.run("florence_decoder_self_attention", self.dims(append), *arrays)


def cross_attention(
    kernels: Kernels, shape: tuple[int, int, int, int, int], dtype: str, **masks: Array | None
) -> tuple[Array, Array]:
    """shape is batch, beams, heads, source length, head_dim -> (out, expected)."""
    batch, beams, heads, source, head_dim = shape
    generator, kind = np.random.default_rng(source + beams), DTYPES[dtype][1]
    q = generator.standard_normal((batch * beams, heads, head_dim)).astype(kind)
    k, v = (generator.standard_normal((batch, heads, source, head_dim)).astype(kind) for _ in range(2))
    lengths = masks.get("lengths")
    for image, length in enumerate([] if lengths is None else lengths):
        k[image, :, length:] = v[image, :, length:] = np.nan
    out = np.full(q.shape, np.nan, kind)
    given = dims(
        "cross",
        batch=batch,
        beams=beams,
        heads=heads,
        head_dim=head_dim,
        source_length=source,
        row_stride=heads * head_dim,
        dtype=DTYPES[dtype][0],
        scale=head_dim**-0.5,
    )
    kernels.run("florence_decoder_cross_attention", given, q, k, v, lengths, masks.get("done"), out)
    valid = [source] * batch if lengths is None else lengths
    expected = np.empty(q.shape)
    for row, head in np.ndindex(batch * beams, heads):
        image = row // beams
        keys, values = (tensor[image, head, : valid[image]] for tensor in (k, v))
        expected[row, head] = attend(q[row, head], keys, values, head_dim**-0.5)
    return out, expected


def toy_model(seed: int, options: Options, dtype: str = "fp32", eos_bias: float = 0.0) -> Logits:
    """A deterministic language model: logits drawn from a hash of the sequence, exact in `dtype`."""

    def logits(tokens: Sequence[int]) -> Array:
        generator = np.random.default_rng([seed, zlib.crc32(bytes(str(list(tokens)), "ascii"))])
        values = generator.standard_normal(options.vocab) * 3
        values[options.eos_token] += eos_bias
        return values.astype(DTYPES[dtype][1]).astype(np.float32)

    return logits
