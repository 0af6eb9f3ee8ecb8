"""The torch operators on CPU tensors, which are the kernels' twins, against the torch composition of the same parts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from florence_edge.errors import DependencyError, InputError
from florence_edge.options import SearchConfig
from florence_edge.preprocess import ImageSpec, to_pixels
from florence_train.kernels import operators
from florence_train.kernels.operations import KERNELS, TORCH, Operations
from florence_train.kernels.search_state import SearchPlan, SearchState
from florence_train.model.davit import Size
from support.kernels import native_library

TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
dtypes = pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
BATCH, BEAMS, HEADS, LENGTH, SOURCE = 2, 3, 2, 9, 20


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    native_library()


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def search_state(position: int) -> SearchState:
    """A search in which beams took one another's history."""
    plan = SearchPlan.of(BATCH, 50, SearchConfig(beams=BEAMS, max_new_tokens=LENGTH - 1))
    state = SearchState.allocate(plan, torch.device("cpu"))
    state.position.fill_(position)
    generator = torch.Generator().manual_seed(position)
    state.indirection.copy_(torch.randint(BEAMS, state.indirection.shape, generator=generator))
    return state


def agree(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCES[expected.dtype], rtol=TOLERANCES[expected.dtype])


@dtypes
@pytest.mark.parametrize(("size", "window"), [((12, 24), 12), ((7, 13), 4), ((3, 5), 12)])
def test_window_attention(dtype: torch.dtype, size: Size, window: int) -> None:
    qkv, bias = noise(2, size[0] * size[1], 192, dtype=dtype), noise(192, dtype=dtype, seed=1)
    results = [of.window_attention(qkv, bias, size, window=window, heads=2) for of in (KERNELS, TORCH)]
    agree(*results)


@dtypes
@pytest.mark.parametrize("tokens", [1, 70, 600])
def test_channel_attention(dtype: torch.dtype, tokens: int) -> None:
    qkv = noise(2, tokens, 192, dtype=dtype)
    agree(*[of.channel_attention(qkv, groups=2) for of in (KERNELS, TORCH)])


@dtypes
@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize("position", [0, 4, LENGTH - 1])
def test_self_attention_reads_histories_and_appends(dtype: torch.dtype, head_dim: int, position: int) -> None:
    qkv, state = noise(BATCH * BEAMS, 3 * HEADS * head_dim, dtype=dtype), search_state(position)

    def run(of: Operations) -> tuple[Tensor, Tensor, Tensor]:
        keys, values = (noise(BATCH, BEAMS, HEADS, LENGTH, head_dim, dtype=dtype, seed=seed) for seed in (1, 2))
        return of.self_attention(qkv, keys, values, state), keys, values

    (ours, *caches), (theirs, *expected) = run(KERNELS), run(TORCH)
    agree(ours, theirs)
    assert all(torch.equal(*pair) for pair in zip(caches, expected, strict=True))
    assert torch.equal(caches[0][:, :, :, position].flatten(0, 1).flatten(1), qkv.chunk(3, dim=1)[1])


@dtypes
def test_cross_attention_ends_where_its_source_ends(dtype: torch.dtype) -> None:
    query, state = noise(BATCH * BEAMS, HEADS * 64, dtype=dtype), search_state(0)
    keys, values = (noise(BATCH, HEADS, SOURCE, 64, dtype=dtype, seed=seed) for seed in (1, 2))
    lengths = torch.tensor([SOURCE, 7], dtype=torch.int32)
    ours, theirs = (of.cross_attention(query, keys, values, lengths, state) for of in (KERNELS, TORCH))
    agree(ours, theirs)
    keys[1, :, 7:] = values[1, :, 7:] = torch.nan
    agree(KERNELS.cross_attention(query, keys, values, lengths, state), ours)


@pytest.mark.parametrize("bgr", [False, True])
def test_resize_and_normalise_equal_the_sdks_preprocessing(bgr: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    spec = ImageSpec(height=64, width=48)
    given = torch.from_numpy(image[..., ::-1].copy() if bgr else image)
    out = operators.resize_normalize(given, (spec.height, spec.width), spec.mean, spec.std, bgr)
    np.testing.assert_allclose(out.numpy()[None], to_pixels(Image.fromarray(image), spec), atol=1e-6)


def self_arguments() -> tuple[Tensor, ...]:
    state = search_state(2)
    caches = (noise(BATCH, BEAMS, HEADS, LENGTH, 32), noise(BATCH, BEAMS, HEADS, LENGTH, 32, seed=1))
    return noise(BATCH * BEAMS, 192), *caches, state.indirection, state.position, state.image_done


def cross_arguments() -> tuple[Tensor, ...]:
    lengths = torch.full((BATCH,), SOURCE, dtype=torch.int32)
    source = (noise(BATCH, HEADS, SOURCE, 32), noise(BATCH, HEADS, SOURCE, 32, seed=1))
    return noise(BATCH * BEAMS, 64), *source, lengths, torch.zeros(BATCH, dtype=torch.int32)


def beam_arguments() -> tuple[Any, ...]:
    state, numbers = search_state(0), [BATCH, BEAMS, 50, LENGTH, LENGTH, 2, 2, 0, 2, 3, 0, 1]
    KERNELS.beam_begin(state)
    return noise(BATCH * BEAMS, 50), state.shared(), state.progress, numbers, 1.0


CALLS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "window_attention": lambda: (noise(1, 40, 192), noise(192), 5, 8, 4, 2),
    "channel_attention": lambda: (noise(1, 40, 192), 2),
    "decoder_self_attention": self_arguments,
    "decoder_cross_attention": cross_arguments,
    "beam_begin": lambda: beam_arguments()[1:],
    "beam_step": beam_arguments,
    "resize_normalize": lambda: (torch.zeros(5, 7, 3, dtype=torch.uint8), (6, 6), (0.0,) * 3, (1.0,) * 3, False),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_torch_finds_the_operators_sound(name: str) -> None:
    """Schema, what is written, what tracing is told: torch's own checks."""
    torch.library.opcheck(getattr(operators, name), CALLS[name]())


@pytest.mark.parametrize(
    ("name", "place", "wrong", "message"),
    [
        ("window_attention", 0, noise(1, 39, 192), r"qkv is torch.float32 \[1, 39, 192\].*must be .*\[1, 40, 192\]"),
        ("window_attention", 0, noise(1, 40, 384)[..., ::2], "strided; it must be"),
        ("window_attention", 1, noise(96), r"bias is .*\[96\]"),
        ("window_attention", 0, noise(1, 40, 192).double(), "float32, float16 and bfloat16; it got torch.float64"),
        ("decoder_self_attention", 2, noise(1, BEAMS, HEADS, LENGTH, 32), "values is"),
        ("decoder_self_attention", 3, torch.zeros(BATCH, BEAMS, LENGTH - 1, dtype=torch.uint8), "indirection is"),
        ("decoder_self_attention", 4, torch.zeros(1, dtype=torch.int64), "position is torch.int64"),
        ("decoder_cross_attention", 0, noise(BATCH * BEAMS, 65), "query is"),
        ("beam_step", 0, noise(BATCH * BEAMS, 49), "logits is"),
        ("resize_normalize", 0, torch.zeros(5, 7, 3), "image is torch.float32"),
    ],
)
def test_a_tensor_that_does_not_fit_never_reaches_the_kernel(
    name: str, place: int, wrong: Tensor, message: str
) -> None:
    arguments = list(CALLS[name]())
    arguments[place] = wrong
    with pytest.raises(InputError, match=message):
        getattr(operators, name)(*arguments)


def test_a_missing_library_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("florence_edge.backends.kernel_library._folders", lambda: [tmp_path])
    operators.library.cache_clear()
    try:
        with pytest.raises(DependencyError, match=re.escape("cmake -S . -B build/gpu")):
            operators.channel_attention(noise(1, 4, 96), 1)
    finally:
        operators.library.cache_clear()


def test_a_compiler_may_trace_through_them() -> None:
    """One graph without breaks, and the same numbers."""
    attend = torch.compile(
        lambda x: KERNELS.channel_attention(2 * x, groups=2) + 1, backend="aot_eager", fullgraph=True
    )
    qkv = noise(1, 40, 192)
    agree(attend(qkv), KERNELS.channel_attention(2 * qkv, groups=2) + 1)
