"""The three graphs of a bundle: their inputs and outputs as tables, and the torch modules that compute them.

One letter is one dynamic size: B images or prompts, T prompt tokens, S image and prompt tokens together, K beams,
L cached positions. Everything else is fixed when the bundle is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from florence_edge.manifest import Dim, DType, Graph, Graphs, Tensor
from florence_train.model import CrossCache, FlorenceConfig, FlorenceModel, SelfCache

from .names import DECODER, ENCODER, VISION

TORCH_DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "int64": torch.int64,
    "int32": torch.int32,
    "bool": torch.bool,
}

_EXAMPLE = {"B": 2, "T": 5, "K": 3, "L": 7, "S": 11}
"""Sizes of the example that is traced: all different and none 1, so that the exporter can tell them apart."""


def graph_tables(config: FlorenceConfig) -> Graphs:
    """Inputs and outputs of the three graphs for a model, at the image size of its configuration."""
    height, width, text = config.image.height, config.image.width, config.text
    features = Tensor("features", "float32", ("B", config.image_tokens(height, width), text.dim))
    head_dim = text.dim // text.decoder_heads
    cross = _per_layer("cross", ("B", text.decoder_heads, "S", head_dim), text.decoder_layers)
    cached = _per_layer("self", ("B", text.decoder_heads, "L", "K", head_dim), text.decoder_layers)
    new = _per_layer("new", ("B", text.decoder_heads, "K", head_dim), text.decoder_layers)
    cross_mask = Tensor("cross_mask", "bool", ("B", "S"))
    vision = Graph(
        f"{VISION}.onnx",
        inputs=(Tensor("pixels", "float32", ("B", config.vision.in_channels, height, width)),),
        outputs=(features,),
    )
    encoder = Graph(
        f"{ENCODER}.onnx",
        inputs=(features, Tensor("prompt_ids", "int64", ("B", "T")), Tensor("prompt_mask", "bool", ("B", "T"))),
        outputs=(*cross, cross_mask),
    )
    steps = (
        Tensor("token_ids", "int64", ("B", "K")),
        Tensor("position", "int64", ()),
        Tensor("ancestors", "int32", ("B", "K", "L")),
    )
    decoder = Graph(
        f"{DECODER}.onnx",
        inputs=(*steps, *cached, *cross, cross_mask),
        outputs=(Tensor("logits", "float32", ("B", "K", text.vocab_size)), *new),
    )
    return Graphs(vision, encoder, decoder)


def _per_layer(kind: str, shape: tuple[Dim, ...], layers: int) -> tuple[Tensor, ...]:
    """Key and value of every decoder layer."""
    return tuple(Tensor(f"{kind}_{part}_{i}", "float32", shape) for i in range(layers) for part in ("key", "value"))


class VisionGraph(nn.Module):
    """Pixels to features."""

    def __init__(self, model: FlorenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The table's inputs in order."""
        return self.model.encode_image(pixels)


class EncoderGraph(nn.Module):
    """Features and prompt to the cross-attention keys and values of every layer."""

    def __init__(self, model: FlorenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, features: torch.Tensor, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The table's inputs in order."""
        cross = self.model.encode_prompt(features, prompt_ids, prompt_mask)
        return (*_interleave(cross.keys, cross.values), cross.mask)


class DecoderGraph(nn.Module):
    """One token per beam to logits and new cache entries."""

    def __init__(self, model: FlorenceModel) -> None:
        super().__init__()
        self.model = model
        self.layers = model.config.text.decoder_layers

    def forward(
        self, token_ids: torch.Tensor, position: torch.Tensor, ancestors: torch.Tensor, *caches: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The table's inputs in order: self cache, cross cache, cross mask behind the first three."""
        own, cross, mask = caches[: 2 * self.layers], caches[2 * self.layers : -1], caches[-1]
        step = self.model.decode_step(
            token_ids,
            position,
            ancestors,
            SelfCache(list(own[::2]), list(own[1::2])),
            CrossCache(list(cross[::2]), list(cross[1::2]), mask),
        )
        return (step.logits, *_interleave(step.keys, step.values))


def _interleave(keys: list[torch.Tensor], values: list[torch.Tensor]) -> list[torch.Tensor]:
    """key_0, value_0, key_1, value_1, ... as the tables have them."""
    return [tensor for pair in zip(keys, values, strict=True) for tensor in pair]


@dataclass(frozen=True)
class GraphSource:
    """All that the exporter needs to make one graph."""

    name: str
    table: Graph
    module: nn.Module
    named: int
    """How many of the inputs are parameters of `module.forward` with a name; the rest are its `*args`."""

    def example(self) -> tuple[torch.Tensor, ...]:
        """Inputs to trace with, in the order of the table."""
        shapes = [
            [_EXAMPLE[dim] if isinstance(dim, str) else dim for dim in tensor.shape] for tensor in self.table.inputs
        ]
        return tuple(
            torch.zeros(shape, dtype=TORCH_DTYPES[tensor.dtype])
            for shape, tensor in zip(shapes, self.table.inputs, strict=True)
        )

    def dynamic_shapes(self) -> tuple[Any, ...]:
        """Axis to letter, per input; inputs that the module takes as `*args` are a tuple of their own."""
        letters = [
            {axis: dim for axis, dim in enumerate(tensor.shape) if isinstance(dim, str)} for tensor in self.table.inputs
        ]
        return (*letters[: self.named], tuple(letters[self.named :])) if self.named < len(letters) else tuple(letters)


def graph_sources(model: FlorenceModel, tables: Graphs) -> tuple[GraphSource, ...]:
    """The three graphs of a model, in the order they run."""
    return (
        GraphSource(VISION, tables.vision, VisionGraph(model), named=1),
        GraphSource(ENCODER, tables.encoder, EncoderGraph(model), named=3),
        GraphSource(DECODER, tables.decoder, DecoderGraph(model), named=3),
    )
