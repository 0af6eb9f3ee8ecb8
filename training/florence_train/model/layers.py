"""Layers that vision tower and language model share: attention arithmetic, LayerNorm, MLP, stochastic depth.

Softmax and LayerNorm statistics are fp32 whatever the model's precision: statistics in half precision are what makes
Florence-2 drift between runtimes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASKED = -3.0e4
"""Score of a masked key: finite in fp16, and far enough below any real score for its softmax weight to be exactly 0."""


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis with fp32 statistics; returns the dtype it was given."""
    return scores.float().softmax(dim=-1).to(scores.dtype)


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention: query `[B, h, Q, d]`, key and value `[B, h, S, d]` -> context `[B, h, Q, d]`.

    `mask` is bool, broadcastable to `[B, h, Q, S]`, True where a key may be seen. `causal` needs Q == S and no mask.
    """
    if not torch.compiler.is_exporting():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, dropout_p=dropout)
    # The exporter would decompose the fused call into more nodes than these. Graphs are for inference: no dropout.
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, MASKED)
    return softmax(scores) @ value


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """`[B, T, heads * d]` -> `[B, heads, T, d]`."""
    batch, length, _ = tokens.shape
    return tokens.reshape(batch, length, heads, -1).transpose(1, 2)


def merge_heads(context: Tensor) -> Tensor:
    """`[B, heads, T, d]` -> `[B, T, heads * d]`, the inverse of `split_heads`."""
    return context.transpose(1, 2).flatten(2)


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis with fp32 statistics, eps 1e-5; returns the dtype it was given."""

    def forward(self, tokens: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]`."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(tokens.float(), self.normalized_shape, weight, bias, self.eps).to(tokens.dtype)


class MLP(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, dim: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]`."""
        mixed: Tensor = self.fc2(self.dropout(F.gelu(self.fc1(tokens))))
        return mixed


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, drops a sample's residual branch with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """`[B, ...]` -> `[B, ...]`; kept samples are scaled by 1 / (1 - rate), so that the expectation is unchanged."""
        if not self.training or self.rate == 0:
            return branch
        keep = 1 - self.rate
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        return branch * torch.empty(shape, dtype=branch.dtype, device=branch.device).bernoulli_(keep) / keep

    def extra_repr(self) -> str:
        """Shows the rate where torch prints the module."""
        return f"rate={self.rate:.3f}"
