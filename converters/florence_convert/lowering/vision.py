"""The vision graph with its attentions as plugin nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from florence_convert.weights import stored
from florence_edge.backends.kernel_library import VISION_HEAD_DIM

from . import cut
from .functions import CHANNEL, WINDOW

_ATTENTION = re.compile(r"(vision\.stages\.(\d+)\.blocks\.\d+\.(spatial|channel))\.attention\.qkv\.weight")


def lower_vision(graph: ir.Graph, config: Mapping[str, Any]) -> None:
    """Replaces every attention whose heads have the size that the kernels take; others keep their operators.

    `config` is the vision part of the manifest's model configuration.
    """
    for name in list(graph.initializers):
        found = _ATTENTION.fullmatch(name)
        if found is None:
            continue
        block, stage = found[1], int(found[2])
        heads, replace = _KINDS[found[3]]
        qkv = cut.projected(graph, f"{block}.attention.qkv")
        if _width(qkv) == 3 * VISION_HEAD_DIM * int(config[heads][stage]):
            replace(graph, block, qkv, config)


def _replace_window(graph: ir.Graph, block: str, qkv: ir.Value, config: Mapping[str, Any]) -> None:
    (height, width), fused, out = _map_size(graph, block), _width(qkv), f"{block}.attention.proj"
    grid = cut.reshaped(
        graph,
        qkv,
        target=(-1, height, width, fused),
        shape=ir.Shape(["B", height, width, fused]),
        before=cut.reader(graph, f"{out}.weight"),
        name=f"{block}.attention.map",
    )
    bias = graph.initializers.get(f"{block}.attention.qkv.bias")
    if bias is None:
        bias = stored(graph, f"{block}.attention.qkv.none", np.zeros(fused, np.float32))
    attention = cut.Attention(
        WINDOW,
        {"qkv": grid, "bias": bias},
        starts={qkv},
        shape=ir.Shape(["B", height, width, fused // 3]),
        rows=(-1, height * width, fused // 3),
        attributes={"window": int(config["window"])},
    )
    cut.replace_attention(graph, out, attention)


def _replace_channel(graph: ir.Graph, block: str, qkv: ir.Value, config: Mapping[str, Any]) -> None:
    (height, width), fused = _map_size(graph, block), _width(qkv)
    tokens, channels = height * width, fused // 3
    attention = cut.Attention(
        CHANNEL, {"qkv": qkv}, starts={qkv}, shape=ir.Shape(["B", tokens, channels]), rows=(-1, tokens, channels)
    )
    cut.replace_attention(graph, f"{block}.attention.proj", attention)


def _map_size(graph: ir.Graph, block: str) -> tuple[int, int]:
    """Height and width of the map that a block works on: those of its convolutions."""
    shape = cut.reader(graph, f"{block}.conv1.weight").outputs[0].shape
    sizes = [dim for dim in shape or () if isinstance(dim, int)]
    if len(sizes) != 3:
        raise cut.foreign(f"the map of {block} has no fixed size")
    return sizes[1], sizes[2]


def _width(qkv: ir.Value) -> int:
    width = qkv.shape[-1] if qkv.shape is not None else None
    if not isinstance(width, int):
        raise cut.foreign(f"{qkv.name} has no fixed width")
    return width


_KINDS = {"spatial": ("heads", _replace_window), "channel": ("groups", _replace_channel)}
"""Kind of attention to the key of its number of heads in the configuration, and what replaces it."""
