"""BART encoder and decoder (arXiv 1910.13461), post-norm, with the decoder also as a single step for all beams.

Knows tokens only as embeddings `[B, T, D]`; the vocabulary belongs to `florence.py`.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import TextConfig
from .layers import MASKED, MLP, LayerNorm, attend, merge_heads, softmax, split_heads

POSITION_OFFSET = 2
"""BART's position tables begin with two rows that no position uses, an inheritance from fairseq's padding index."""


class CrossCache(NamedTuple):
    """What the decoder attends to: keys and values `[B, heads, S, head_dim]` per layer, mask bool `[B, S]`.

    One entry per prompt, shared by all its beams. A named tuple, because the exporter must see through it.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor


class SelfCache(NamedTuple):
    """Past keys and values of the decoder, `[B, heads, L, K, head_dim]` per layer: position, then beam slot.

    Entries never move. The history of a beam is the list of slots that `ancestors` names.
    """

    keys: list[Tensor]
    values: list[Tensor]


class Attention(nn.Module):
    """Multi-head attention in pieces, so that keys and values can be projected once and kept."""

    def __init__(self, dim: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def queries(self, tokens: Tensor) -> Tensor:
        """`[B, T, D]` -> `[B, heads, T, head_dim]`."""
        return split_heads(self.query(tokens), self.heads)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, S, D]` -> keys and values `[B, heads, S, head_dim]`."""
        return split_heads(self.key(tokens), self.heads), split_heads(self.value(tokens), self.heads)

    def forward(
        self, tokens: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """Queries from tokens `[B, T, D]` over keys and values `[B, heads, S, head_dim]` -> `[B, T, D]`."""
        dropout = self.dropout if self.training else 0.0
        context = attend(self.queries(tokens), keys, values, mask=mask, causal=causal, dropout=dropout)
        return self.merge(context)

    def merge(self, context: Tensor) -> Tensor:
        """`[B, heads, T, head_dim]` -> `[B, T, D]`, through the output projection."""
        mixed: Tensor = self.out(merge_heads(context))
        return mixed


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each followed by its LayerNorm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.attention = Attention(config.dim, config.encoder_heads, dropout=config.attention_dropout)
        self.attention_norm = LayerNorm(config.dim)
        self.mlp = MLP(config.dim, config.encoder_ffn, dropout=config.activation_dropout)
        self.mlp_norm = LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Tokens `[B, S, D]`, mask bool `[B, 1, 1, S]` -> `[B, S, D]`."""
        mixed = self.attention(tokens, *self.attention.keys_values(tokens), mask)
        tokens = self.attention_norm(tokens + self.dropout(mixed))
        normed: Tensor = self.mlp_norm(tokens + self.dropout(self.mlp(tokens)))
        return normed


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and MLP, each followed by its LayerNorm; over a whole sequence or one step."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config.dim, config.decoder_heads, dropout=config.attention_dropout)
        self.self_norm = LayerNorm(config.dim)
        self.cross_attention = Attention(config.dim, config.decoder_heads, dropout=config.attention_dropout)
        self.cross_norm = LayerNorm(config.dim)
        self.mlp = MLP(config.dim, config.decoder_ffn, dropout=config.activation_dropout)
        self.mlp_norm = LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Whole sequence `[B, T, D]`, causal; cross keys and values `[B, heads, S, d]`, mask bool `[B, 1, 1, S]`."""
        mixed = self.self_attention(tokens, *self.self_attention.keys_values(tokens), causal=True)
        return self._after_self(tokens, mixed, (keys, values, mask))

    def step(
        self, tokens: Tensor, past: tuple[Tensor, Tensor, Tensor], cross: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One position of all beams: tokens `[B, K, D]` -> tokens `[B, K, D]`, new keys and values `[B, heads, K, d]`.

        `past` is keys and values `[B, heads, L, K, d]` and the bool mask `[B, 1, K, L * K]` of the entries that belong
        to each beam's history; `cross` is keys and values `[B, heads, S, d]` and mask `[B, 1, 1, S]`.
        """
        attention = self.self_attention
        keys, values = attention.keys_values(tokens)
        context = _attend_history(attention.queries(tokens), (keys, values), past)
        return self._after_self(tokens, attention.merge(context), cross), keys, values

    def _after_self(self, tokens: Tensor, mixed: Tensor, cross: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        tokens = self.self_norm(tokens + self.dropout(mixed))
        tokens = self.cross_norm(tokens + self.dropout(self.cross_attention(tokens, *cross)))
        normed: Tensor = self.mlp_norm(tokens + self.dropout(self.mlp(tokens)))
        return normed


def _attend_history(query: Tensor, own: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Attention of K beams `[B, heads, K, d]` to their histories in the cache and to their own new entry.

    The queries meet all L * K cache entries in one product and the mask keeps each beam to its ancestors: K is small,
    and this reads the cache once where a gather would copy it.
    """
    past_keys, past_values, mask = past
    own_key, own_value = own
    query = query * query.shape[-1] ** -0.5
    scores = (query @ past_keys.flatten(2, 3).transpose(-2, -1)).masked_fill(~mask, MASKED)
    own_score = (query * own_key).sum(dim=-1, keepdim=True)
    weights = softmax(torch.cat([scores, own_score], dim=-1))
    return weights[..., :-1] @ past_values.flatten(2, 3) + weights[..., -1:] * own_value


class Encoder(nn.Module):
    """Adds positions to embedded tokens and runs the encoder layers."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.positions = nn.Embedding(config.max_positions + POSITION_OFFSET, config.dim)
        self.norm = LayerNorm(config.dim)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Embedded tokens `[B, S, D]`, mask bool `[B, S]` (True = real) -> hidden states `[B, S, D]`."""
        tokens = self.dropout(self.norm(tokens + _positions(self.positions, tokens)))
        for layer in self.layers:
            tokens = layer(tokens, mask[:, None, None])
        return tokens


class Decoder(nn.Module):
    """Adds positions to embedded tokens and runs the decoder layers against a `CrossCache`."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.positions = nn.Embedding(config.max_positions + POSITION_OFFSET, config.dim)
        self.norm = LayerNorm(config.dim)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.dropout = nn.Dropout(config.dropout)

    def cross_cache(self, hidden: Tensor, mask: Tensor) -> CrossCache:
        """Projects the encoder's hidden states `[B, S, D]` to the keys and values of every layer, once per prompt."""
        pairs = [layer.cross_attention.keys_values(hidden) for layer in self._layers()]
        return CrossCache([keys for keys, _ in pairs], [values for _, values in pairs], mask)

    def forward(self, tokens: Tensor, cross: CrossCache) -> Tensor:
        """Embedded tokens of whole sequences `[B, T, D]`, causal -> hidden states `[B, T, D]`."""
        tokens = self.dropout(self.norm(tokens + _positions(self.positions, tokens)))
        mask = cross.mask[:, None, None]
        for layer, keys, values in zip(self._layers(), cross.keys, cross.values, strict=True):
            tokens = layer(tokens, keys, values, mask)
        return tokens

    def step(
        self, tokens: Tensor, position: Tensor, ancestors: Tensor, cache: SelfCache, cross: CrossCache
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """One position of all beams `[B, K, D]` -> hidden states `[B, K, D]`, new keys and values per layer."""
        tokens = self.norm(tokens + F.embedding(position + POSITION_OFFSET, self.positions.weight))
        beams = torch.arange(ancestors.shape[1], dtype=ancestors.dtype, device=ancestors.device)
        history = (ancestors[..., None] == beams).flatten(2)[:, None]
        mask = cross.mask[:, None, None]
        new_keys, new_values = [], []
        for i, layer in enumerate(self._layers()):
            past = (cache.keys[i], cache.values[i], history)
            tokens, own_keys, own_values = layer.step(tokens, past, (cross.keys[i], cross.values[i], mask))
            new_keys.append(own_keys)
            new_values.append(own_values)
        return tokens, new_keys, new_values

    def _layers(self) -> list[DecoderLayer]:
        return cast(list[DecoderLayer], list(self.layers))


def _positions(table: nn.Embedding, tokens: Tensor) -> Tensor:
    """Returns the position embeddings `[T, D]` of tokens `[B, T, D]`."""
    index = torch.arange(tokens.shape[1], device=tokens.device) + POSITION_OFFSET
    return F.embedding(index, table.weight)
