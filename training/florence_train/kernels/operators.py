"""The native kernels as torch operators, `torch.ops.florence_kernels.*`: CUDA tensors go to the kernels, CPU tensors to
their twins.

Shapes and rules are those of kernels/include/florence_kernels.h. Operators work on the current stream, wait for nothing
and take memory from torch's allocator alone, so a CUDA graph can hold them. They have no derivatives.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from florence_edge.backends import kernel_library
from florence_edge.backends.kernel_library import (
    BeamDims,
    BeamState,
    ChannelDims,
    CrossDims,
    KernelLibrary,
    ResizeDims,
    SelfDims,
    WindowDims,
    open_library,
)
from florence_edge.errors import InputError

DTYPES = {getattr(torch, name): number for name, number in kernel_library.DTYPES.items()}
"""`florence_dtype`."""
_WORKSPACE = frozenset({"resize_normalize", "channel_attention", "decoder_cross_attention", "beam_step"})
_AUTO_PATH = 0


@cache
def library(*, cuda: bool) -> KernelLibrary:
    """The native library; `DependencyError` with the command that builds it where there is none."""
    return open_library(cuda=cuda)


def _operator(
    run: Callable[..., Any], schema: str, fake: Callable[..., Any], *, mutates: Sequence[str] = ()
) -> Callable[..., Any]:
    """Registers a function as an operator; `fake` says what it returns, for tracing, and `mutates` what it writes."""
    name = f"florence_kernels::{run.__name__.lstrip('_')}"
    operator = torch.library.custom_op(name, run, mutates_args=mutates, schema=schema)
    operator.register_fake(fake)
    return operator


def _run(name: str, dims: ctypes.Structure, device: torch.device, *pointers: Any) -> None:
    """Launches a kernel on the current stream, or calls its twin; pointers are tensors, addresses, structs or None."""
    given = [pointer.data_ptr() if isinstance(pointer, Tensor) else pointer for pointer in pointers]
    kernels = library(cuda=device.type == "cuda")
    if device.type != "cuda":
        kernels.call(f"florence_{name}_cpu", dims, *given, *[None] * (name in _WORKSPACE), None)
        return
    with torch.cuda.device(device):
        if name in _WORKSPACE:
            size = kernels.size(f"florence_{name}_workspace", dims)
            # Freed on return: torch hands it out again in the order of this very stream, hence after the kernel.
            scratch = torch.empty(size, dtype=torch.uint8, device=device)
            given.append(scratch.data_ptr())
        kernels.call(f"florence_{name}", dims, *given, torch.cuda.current_stream(device).cuda_stream)


def _check(device: torch.device, **wanted: tuple[Tensor, Sequence[int], torch.dtype]) -> None:
    """Raises `InputError` for a tensor of another shape, type or place than the kernel will take it for."""
    faults = [
        f"{name} is {given.dtype} {list(given.shape)} on {given.device}{'' if given.is_contiguous() else ', strided'}; "
        f"it must be {dtype} {list(shape)} on {device}, contiguous"
        for name, (given, shape, dtype) in wanted.items()
        if (tuple(given.shape), given.dtype, given.device) != (tuple(shape), dtype, device) or not given.is_contiguous()
    ]
    if faults:
        raise InputError("; ".join(faults))


def _dtype(tensor: Tensor) -> int:
    if tensor.dtype not in DTYPES:
        raise InputError(f"the kernels take float32, float16 and bfloat16; it got {tensor.dtype}")
    return DTYPES[tensor.dtype]


def _resize_normalize(
    image: Tensor, size: Sequence[int], mean: Sequence[float], std: Sequence[float], bgr: bool
) -> Tensor:
    """Pillow's antialiased bicubic resize, then normalisation: image `[h, w, 3]` uint8 -> `[3, H, W]` float32, RGB."""
    height, width, _ = image.shape
    dims = ResizeDims(height, width, 3 * width, *size, int(bgr), 0, tuple(mean), tuple(std))
    out = torch.empty((3, *size), device=image.device)
    _check(image.device, image=(image, (height, width, 3), torch.uint8))
    _run("resize_normalize", dims, image.device, image, out)
    return out


def _window_attention(qkv: Tensor, bias: Tensor | None, height: int, width: int, window: int, heads: int) -> Tensor:
    """`davit.window_attention`: qkv `[B, H * W, 3 * C]`, bias `[3 * C]` -> context `[B, H * W, C]`."""
    out = _third(qkv)
    dims = WindowDims(len(qkv), height, width, out.shape[-1], heads, window, _dtype(qkv), _AUTO_PATH)
    _check(qkv.device, qkv=(qkv, (len(qkv), height * width, 3 * out.shape[-1]), qkv.dtype))
    if bias is not None:
        _check(qkv.device, bias=(bias, (3 * out.shape[-1],), qkv.dtype))
    _run("window_attention", dims, qkv.device, qkv, bias, out)
    return out


def _channel_attention(qkv: Tensor, groups: int) -> Tensor:
    """`davit.channel_attention`: qkv `[B, N, 3 * C]` -> context `[B, N, C]`."""
    out = _third(qkv)
    dims = ChannelDims(len(qkv), qkv.shape[1], out.shape[-1], groups, _dtype(qkv), _AUTO_PATH)
    _check(qkv.device, qkv=(qkv, (*out.shape[:2], 3 * out.shape[-1]), qkv.dtype))
    _run("channel_attention", dims, qkv.device, qkv, out)
    return out


def _decoder_self_attention(
    qkv: Tensor, keys: Tensor, values: Tensor, indirection: Tensor, position: Tensor, image_done: Tensor
) -> Tensor:
    """One query per beam over its history, whose new entry is appended at `position`.

    qkv `[B * K, 3 * heads * d]`; keys and values `[B, K, heads, L, d]`; indirection `[B, K, L]` uint8; position `[1]`
    and image_done `[B]` int32 -> context `[B * K, heads * d]`, undefined for images that are done.
    """
    batch, beams, heads, length, head_dim = keys.shape
    out = _third(qkv)
    dims = SelfDims(batch, beams, heads, head_dim, length, qkv.shape[1], _dtype(qkv), 1, head_dim**-0.5)
    _check(
        qkv.device,
        qkv=(qkv, (batch * beams, 3 * heads * head_dim), qkv.dtype),
        keys=(keys, keys.shape, qkv.dtype),
        values=(values, keys.shape, qkv.dtype),
        indirection=(indirection, (batch, beams, length), torch.uint8),
        position=(position, (1,), torch.int32),
        image_done=(image_done, (batch,), torch.int32),
    )
    parts = [qkv.data_ptr() + i * out.shape[1] * qkv.element_size() for i in range(3)]
    _run("decoder_self_attention", dims, qkv.device, *parts, keys, values, indirection, position, image_done, out)
    return out


def _decoder_cross_attention(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, image_done: Tensor
) -> Tensor:
    """One query per beam over a source that the beams of an image share.

    query `[B * K, heads * d]`; keys and values `[B, heads, S, d]`; lengths `[B]` int32, the valid part of S; image_done
    `[B]` int32 -> context `[B * K, heads * d]`, undefined for images that are done.
    """
    batch, heads, source, head_dim = keys.shape
    out = torch.empty_like(query)
    beams = len(query) // batch
    dims = CrossDims(batch, beams, heads, head_dim, source, query.shape[1], _dtype(query), head_dim**-0.5)
    _check(
        query.device,
        query=(query, (batch * beams, heads * head_dim), query.dtype),
        keys=(keys, keys.shape, query.dtype),
        values=(values, keys.shape, query.dtype),
        lengths=(lengths, (batch,), torch.int32),
        image_done=(image_done, (batch,), torch.int32),
    )
    _run("decoder_cross_attention", dims, query.device, query, keys, values, lengths, image_done, out)
    return out


def _beam_begin(state: Sequence[Tensor], progress: Tensor, search: Sequence[int], length_penalty: float) -> None:
    """Starts a search; `state` is `SearchState.shared()`, `search` the integers of florence_beam_dims but `dtype`."""
    dims = _beam_dims(search, 0, length_penalty)
    _run("beam_begin", dims, progress.device, _beam_state(state, progress, search), progress)


def _beam_step(
    logits: Tensor, state: Sequence[Tensor], progress: Tensor, search: Sequence[int], length_penalty: float
) -> None:
    """One step of every image that is not done, from logits `[B * K, V]`; see `beam_begin`."""
    batch, beams, vocab = search[:3]
    _check(progress.device, logits=(logits, (batch * beams, vocab), logits.dtype))
    dims = _beam_dims(search, _dtype(logits), length_penalty)
    _run("beam_step", dims, progress.device, _beam_state(state, progress, search), logits, None, progress)


def _beam_state(state: Sequence[Tensor], progress: Tensor, search: Sequence[int]) -> ctypes.Structure:
    batch, beams, _, _, capacity = search[:5]
    tokens = (batch, beams, capacity)
    _check(progress.device, progress=(progress, (2,), torch.int32), indirection=(state[3], tokens, torch.uint8))
    return BeamState(*(array.data_ptr() for array in state))


def _beam_dims(search: Sequence[int], dtype: int, length_penalty: float) -> ctypes.Structure:
    return BeamDims(*search[:5], dtype, *search[5:], length_penalty)


def _third(qkv: Tensor) -> Tensor:
    """An uninitialised tensor for the context of fused queries, keys and values."""
    return qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))


def _nothing(*_: Any) -> None:
    return None


resize_normalize = _operator(
    _resize_normalize,
    "(Tensor image, int[] size, float[] mean, float[] std, bool bgr) -> Tensor",
    lambda image, size, *_: torch.empty((3, *size), device=image.device),
)
window_attention = _operator(
    _window_attention,
    "(Tensor qkv, Tensor? bias, int height, int width, int window, int heads) -> Tensor",
    lambda qkv, *_: _third(qkv),
)
channel_attention = _operator(_channel_attention, "(Tensor qkv, int groups) -> Tensor", lambda qkv, _: _third(qkv))
decoder_self_attention = _operator(
    _decoder_self_attention,
    "(Tensor qkv, Tensor(a!) keys, Tensor(b!) values, Tensor indirection, Tensor position, Tensor image_done)"
    " -> Tensor",
    lambda qkv, *_: _third(qkv),
    mutates=("keys", "values"),
)
decoder_cross_attention = _operator(
    _decoder_cross_attention,
    "(Tensor query, Tensor keys, Tensor values, Tensor lengths, Tensor image_done) -> Tensor",
    lambda query, *_: torch.empty_like(query),
)
beam_begin = _operator(
    _beam_begin,
    "(Tensor(a!)[] state, Tensor(b!) progress, int[] search, float length_penalty) -> ()",
    _nothing,
    mutates=("state", "progress"),
)
beam_step = _operator(
    _beam_step,
    "(Tensor logits, Tensor(a!)[] state, Tensor(b!) progress, int[] search, float length_penalty) -> ()",
    _nothing,
    mutates=("state", "progress"),
)
