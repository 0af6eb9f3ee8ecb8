"""Searches of one shape: every tensor in its place for good, the prompt's pass and the decoder's step as recordings.

A step reads the tokens that the step before chose on the device, and leaves its own there: nothing comes back to the
host but how many images are still being searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from florence_edge.backends import Hypothesis
from florence_edge.backends.request import Request
from florence_train.model import FlorenceModel
from florence_train.model.bart import POSITION_OFFSET, Attention, DecoderLayer

from .operations import Operations
from .recording import Lookout, Recorder
from .search_state import SearchPlan, SearchState

PROMPT_BUCKET = 16
"""Prompts are padded to a multiple of this, so that few shapes serve all of them."""


@dataclass(frozen=True)
class Shape:
    """What a recording is good for: the search, and the tokens of image and padded prompt."""

    plan: SearchPlan
    image_tokens: int
    prompt_tokens: int

    @classmethod
    def of(cls, model: FlorenceModel, image_tokens: int, request: Request) -> Shape:
        """The shape that holds a request; its prompts are padded as far as the encoder's positions allow."""
        text, wanted = model.config.text, -(-request.prompt_ids.shape[1] // PROMPT_BUCKET) * PROMPT_BUCKET
        prompt_tokens = min(wanted, text.limits(image_tokens).prompt_tokens)
        plan = SearchPlan.of(len(request.prompt_ids), text.vocab_size, request.config)
        return cls(plan, image_tokens, prompt_tokens)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A decoder layer with its fused projection, its cache `[B, K, heads, L, d]` and its source `[B, heads, S, d]`."""

    module: DecoderLayer
    weight: Tensor
    bias: Tensor
    keys: Tensor
    values: Tensor
    source_keys: Tensor
    source_values: Tensor


class Decoding:
    """Runs searches of one `Shape`, one after the other. Weights are read when it runs, at the place they have now."""

    def __init__(self, model: FlorenceModel, operations: Operations, shape: Shape, recorder: Recorder) -> None:
        self._model, self._operations, self._shape = model, operations, shape
        like, plan = model.embedding.weight, shape.plan
        self._state = SearchState.allocate(plan, like.device)
        self._layers = [self._layer(cast(DecoderLayer, layer)) for layer in model.decoder.layers]
        self._features = like.new_zeros(plan.batch, shape.image_tokens, like.shape[1])
        self._prompt_ids = torch.zeros(plan.batch, shape.prompt_tokens, dtype=torch.int64, device=like.device)
        self._mask = torch.ones(plan.batch, shape.prompt_tokens, dtype=torch.bool, device=like.device)
        self._lengths = torch.zeros(plan.batch, dtype=torch.int32, device=like.device)
        self._lookout = Lookout(like.device)
        self._encode_prompt = recorder.record(self._encode)
        self.step = recorder.record(self._advance)

    def search(self, features: Tensor, request: Request) -> list[Hypothesis]:
        """The answers to a request of this shape about encoded images [B', N, D] of the device."""
        self.begin(features, request)
        self.run()
        return self._state.answers()

    def begin(self, features: Tensor, request: Request) -> None:
        """Encodes image and prompt; the search stands before its first step."""
        self._fill(features, request)
        self._encode_prompt()
        self._lookout.begin()

    def run(self) -> None:
        """All steps of the search that was begun. The host waits for steps that are `LAG` old, for nothing else."""
        for _ in range(self._shape.plan.config.max_new_tokens):
            self.step()
            if self._lookout.over(self._state.progress):
                break

    def _fill(self, features: Tensor, request: Request) -> None:
        """Copies a request to where the recordings read it."""
        padding = (0, self._shape.prompt_tokens - request.prompt_ids.shape[1])
        torch.index_select(features, 0, torch.from_numpy(request.image_of).to(features.device), out=self._features)
        self._prompt_ids.copy_(F.pad(torch.from_numpy(request.prompt_ids), padding, value=request.config.pad))
        self._mask.copy_(F.pad(torch.from_numpy(request.prompt_mask), padding))

    def _encode(self) -> None:
        """Image and prompt to the decoder's source, and the start of the search."""
        cross = self._model.encode_prompt(self._features, self._prompt_ids, self._mask)
        self._lengths.copy_(cross.mask.sum(dim=1))
        for layer, keys, values in zip(self._layers, cross.keys, cross.values, strict=True):
            layer.source_keys.copy_(keys)
            layer.source_values.copy_(values)
            parts = _projections(layer.module.self_attention)
            torch.cat([part.weight for part in parts], out=layer.weight)
            torch.cat([part.bias for part in parts], out=layer.bias)
        self._operations.beam_begin(self._state)
        self._state.begin_faults()

    def _advance(self) -> None:
        """One token of every beam."""
        model, state = self._model, self._state
        positions = F.embedding(state.position + POSITION_OFFSET, model.decoder.positions.weight)
        tokens = _norm(model.decoder.norm, F.embedding(state.next_tokens.flatten(), model.embedding.weight) + positions)
        for layer in self._layers:
            tokens = self._through(layer, tokens)
        logits = F.linear(tokens, model.embedding.weight)
        if model.suppression is not None:
            logits = logits + model.suppression
        state.note_faults(logits)
        self._operations.beam_step(logits, state)

    def _through(self, layer: _Layer, tokens: Tensor) -> Tensor:
        """`DecoderLayer.step` over rows `[B * K, D]`, with fused projections and caches in place."""
        module, operations, state = layer.module, self._operations, self._state
        own, cross = module.self_attention, module.cross_attention
        context = operations.self_attention(F.linear(tokens, layer.weight, layer.bias), layer.keys, layer.values, state)
        tokens = _norm(module.self_norm, tokens + own.out(context))
        context = operations.cross_attention(
            cross.query(tokens), layer.source_keys, layer.source_values, self._lengths, state
        )
        tokens = _norm(module.cross_norm, tokens + cross.out(context))
        hidden = F.gelu(module.mlp.fc1(tokens))
        return _norm(module.mlp_norm, tokens + module.mlp.fc2(hidden))

    def _layer(self, module: DecoderLayer) -> _Layer:
        plan, shape = self._shape.plan, self._shape
        like, heads = self._model.embedding.weight, module.self_attention.heads
        width = like.shape[1]
        own = (plan.batch, plan.beams, heads, plan.max_length, width // heads)
        source = (plan.batch, heads, shape.image_tokens + shape.prompt_tokens, width // heads)
        sizes: Sequence[Sequence[int]] = ((3 * width, width), (3 * width,), own, own, source, source)
        return _Layer(module, *(like.new_zeros(size) for size in sizes))


def _projections(attention: Attention) -> tuple[torch.nn.Linear, ...]:
    return attention.query, attention.key, attention.value


def _norm(norm: torch.nn.LayerNorm, tokens: Tensor) -> Tensor:
    """`layers.LayerNorm` without its casts: torch's own keeps its statistics in fp32 for half precision."""
    return F.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
