"""The acceptance rule of a fast kernel, and what only a device can show: determinism, graphs, the model's own sizes.

The error against float64 is at most twice the error of the ordinary composition of matmul and softmax in the same
precision (the rule of flash-attention's tests), measured in the same run and not a chosen tolerance.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch

from support.beam_search import Options, Search
from support.kernel_cases import (
    SelfCase,
    channel_attention,
    cross_attention,
    noise_image,
    random_channels,
    random_windows,
    resize,
    toy_model,
    window_attention,
)
from support.kernel_references import channel_attention as channel_reference
from support.kernel_references import window_attention as window_reference
from support.kernels import Kernels

HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
FLOOR = {"fp16": 2.0**-12, "bf16": 2.0**-9}
"""A quarter of the distance between two numbers near one: what rounding the result alone can cost."""


def composition(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, dtype: str, where: str) -> np.ndarray:
    """softmax(q k^T scale) v in half precision throughout, as eager PyTorch computes it."""
    query, key, value = (torch.from_numpy(x.astype(np.float32)).to(where, HALVES[dtype]) for x in (q, k, v))
    weights = torch.softmax(query @ key.transpose(-1, -2) * scale, dim=-1)
    return np.asarray((weights @ value).float().cpu().numpy())


def where_of(kernels: Kernels) -> str:
    return "cuda" if kernels.library.florence_cuda_version() else "cpu"


def assert_accepted(out: np.ndarray, ordinary: np.ndarray, exact: np.ndarray, dtype: str) -> None:
    error, allowed = (np.abs(x.astype(np.float64) - exact).max() for x in (out, ordinary))
    assert error <= 2 * allowed + FLOOR[dtype] * np.abs(exact).max(), f"error {error:.2e}, composition {allowed:.2e}"


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("path", [1, 2])
def test_window_attention(device: Kernels, path: int, dtype: str) -> None:
    qkv, bias = random_windows((12, 24), heads=2, dtype=dtype)
    out = window_attention(device, qkv, bias, (12, 24), path=path)
    q, k, v = qkv.reshape(12, 2, 12, 3, 2, 32).transpose(3, 1, 4, 0, 2, 5).reshape(3, 2, 2, 144, 32)
    ordinary = composition(q, k, v, 32**-0.5, dtype, where_of(device)).reshape(2, 2, 12, 12, 32)
    ordinary = ordinary.transpose(2, 0, 3, 1, 4).reshape(out.shape)
    assert_accepted(out, ordinary, window_reference(qkv, bias, (12, 24), 12), dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("path", [1, 2])
def test_channel_attention(device: Kernels, path: int, dtype: str) -> None:
    qkv = random_channels(1, 600, 2, dtype)
    out = channel_attention(device, qkv, path)
    q, k, v = qkv.reshape(600, 3, 2, 32).transpose(1, 2, 3, 0)
    ordinary = composition(q, k, v, 600**-0.5, dtype, where_of(device)).transpose(2, 0, 1).reshape(out.shape)
    assert_accepted(out, ordinary, channel_reference(qkv), dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_decoder_self_attention(device: Kernels, dtype: str) -> None:
    case = SelfCase(dtype, position=69)
    case.run(device)
    batch, beams, _, head_dim = case.shape
    exact, ordinary = case.expected(), np.empty(case.out.shape, np.float32)
    for row in range(batch * beams):
        image, beam = divmod(row, beams)
        slots, past = case.indirection[image, beam, :69], np.arange(69)
        keys, values = (
            np.concatenate([cache[image, slots, :, past], fresh[row][None]]).transpose(1, 0, 2)
            for cache, fresh in ((case.k_cache, case.k), (case.v_cache, case.v))
        )
        query = case.q[row][:, None]
        ordinary[row] = composition(query, keys, values, head_dim**-0.5, dtype, where_of(device))[:, 0]
    assert_accepted(case.out, ordinary, exact, dtype)


REPEATED = {
    "resize": lambda kernels: resize(kernels, noise_image(64, 90), (48, 48)),
    "windows": lambda kernels: window_attention(kernels, *random_windows((13, 20), 2, "fp16"), (13, 20)),
    "channels": lambda kernels: channel_attention(kernels, random_channels(2, 1300, 1, "fp16")),
    "cross-attention": lambda kernels: cross_attention(kernels, (2, 3, 2, 300, 64), "bf16")[0],
}


@pytest.mark.parametrize("name", REPEATED)
def test_two_runs_give_the_same_bits(device: Kernels, name: str) -> None:
    assert REPEATED[name](device).tobytes() == REPEATED[name](device).tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize(("height", "heads"), [(192, 4), (96, 8), (48, 16), (24, 32)])
def test_window_attention_at_base_size(cuda: Kernels, height: int, heads: int) -> None:
    qkv, bias = random_windows((height, height), heads, "fp16")
    out = window_attention(cuda, qkv, bias, (height, height))
    np.testing.assert_allclose(
        out.astype(np.float64), window_reference(qkv, bias, (height, height), 12), atol=2e-3, rtol=2e-3
    )


@pytest.mark.gpu
@pytest.mark.parametrize(("tokens", "groups"), [(36864, 4), (9216, 8), (2304, 16), (576, 32)])
def test_channel_attention_at_base_size(cuda: Kernels, tokens: int, groups: int) -> None:
    qkv = random_channels(1, tokens, groups, "fp16")
    out = channel_attention(cuda, qkv)
    np.testing.assert_allclose(out.astype(np.float64), channel_reference(qkv), atol=2e-3, rtol=2e-3)


def new_stream() -> Any:
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves its constructor untyped


@pytest.mark.gpu
def test_a_captured_beam_step_replays_to_the_end(cuda: Kernels, twin: Kernels) -> None:
    """One graph serves every step: nothing in it changes from step to step but device memory."""
    options = Options(vocab=20000, max_length=8)
    model, expected = toy_model(1, options), Search(twin, options).run([toy_model(1, options)])
    search = Search(cuda, options)
    logits = torch.zeros((options.beams, options.vocab), device="cuda")
    size = cuda.bytes_for("florence_beam_step_workspace", search.dims)
    workspace = torch.zeros(size, dtype=torch.uint8, device="cuda")
    stream, graph, nodes = new_stream(), ctypes.c_void_p(), ctypes.c_uint64()
    handle, library = ctypes.c_void_p(stream.cuda_stream), cuda.library
    arguments = (search.dims, search.state, logits.data_ptr(), None, search.progress_at, workspace.data_ptr())
    # CUDA loads a kernel when it is first launched, which is nothing for a recording.
    Search(cuda, options).step(np.zeros((options.beams, options.vocab), np.float32))
    torch.cuda.synchronize()
    assert library.florence_graph_begin(handle) == 0
    cuda.checked("florence_beam_step", *arguments, stream.cuda_stream)
    assert library.florence_graph_end(handle, ctypes.byref(graph), ctypes.byref(nodes)) == 0
    assert nodes.value == 2
    assert library.florence_graph_upload(graph, handle) == 0
    for _ in range(options.max_length + 2):
        logits.copy_(torch.from_numpy(search.logits([model])))
        torch.cuda.synchronize()
        assert library.florence_graph_launch(graph, handle) == 0
        stream.synchronize()
    assert search.images_left() == 0
    assert search.best(0).tokens == expected[0].tokens
    assert library.florence_graph_destroy(graph) == 0


@pytest.mark.gpu
def test_a_broken_capture_can_be_aborted(cuda: Kernels) -> None:
    stream = new_stream()
    handle = ctypes.c_void_p(stream.cuda_stream)
    assert cuda.library.florence_graph_begin(handle) == 0
    assert cuda.library.florence_graph_abort(handle) == 0
    assert cuda.library.florence_graph_begin(handle) == 0
    assert cuda.library.florence_graph_abort(handle) == 0
