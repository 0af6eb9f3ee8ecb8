"""Weights stored in half the bytes: fp16 in the file, fp32 when a session has opened it.

A session turns the weights back into fp32 once, while it opens; it computes, and takes the memory, as before. The
checkpoint's weights are rounded first, so that parity is measured on the very numbers that the file holds.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from florence_edge.errors import CheckpointError

from .weights import INLINE_BELOW, stored

_SUFFIX = ".fp16"


def round_weights(model: nn.Module) -> None:
    """Rounds all floating-point weights to numbers that fp16 has; raises `CheckpointError` where one is too large."""
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        rounded = tensor.half().to(tensor.dtype)
        if not torch.isfinite(rounded).all():
            raise CheckpointError(f"{name} has values up to {tensor.abs().max():g}, which fp16 cannot hold; use fp32")
        tensor.copy_(rounded)


def store_half(graph: ir.Graph) -> None:
    """Stores each larger fp32 weight as fp16 behind a Cast, where that loses nothing."""
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.nbytes < INLINE_BELOW:
            continue
        exact = tensor.numpy()
        half = exact.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), exact):
            continue
        _replace(graph, value, half)


def _replace(graph: ir.Graph, value: ir.Value, half: np.ndarray[tuple[int, ...], np.dtype[np.float16]]) -> None:
    """Puts `half` and a Cast in the place of a weight."""
    weight = stored(graph, f"{value.name}{_SUFFIX}", half)
    cast = ir.node("Cast", inputs=[weight], attributes={"to": ir.DataType.FLOAT.value}, name=f"{value.name}/Cast")
    result = cast.outputs[0]
    result.shape, result.dtype = ir.Shape(half.shape), ir.DataType.FLOAT
    ir.convenience.replace_all_uses_with(value, result)
    del graph.initializers[value.name or ""]
    result.name = value.name
    first = next(iter(graph))
    graph.insert_before(first, cast)
