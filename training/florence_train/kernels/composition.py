"""The decoder's attentions in torch, over the caches that the kernels use: what runs where there are no kernels.

Every shape is fixed by the caches, so that a CUDA graph can hold it: positions that are not filled yet are masked.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .search_state import SearchState


def self_attention(qkv: Tensor, keys: Tensor, values: Tensor, state: SearchState) -> Tensor:
    """See `operators.decoder_self_attention`; entries of the caches that no history names must be finite."""
    batch, beams, heads, length, head_dim = keys.shape
    query, key, value = qkv.view(batch, beams, 3, heads, 1, head_dim).unbind(2)
    for cache, entry in ((keys, key), (values, value)):
        cache.index_copy_(3, state.position.long(), entry)
    positions = torch.arange(length, device=qkv.device)
    # The own entry was just written; the table names it only after the step.
    slots = torch.where(positions == state.position, _beams(state)[:, None], state.indirection)
    seen = (slots[:, :, None] == _beams(state)[:, None]) & (positions <= state.position)
    past_keys, past_values = (cache.transpose(1, 2).flatten(2, 3) for cache in (keys, values))
    queries = query.squeeze(3).transpose(1, 2)
    context = F.scaled_dot_product_attention(queries, past_keys, past_values, attn_mask=seen.flatten(2)[:, None])
    return context.transpose(1, 2).reshape(batch * beams, -1)


def cross_attention(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, state: SearchState) -> Tensor:
    """See `operators.decoder_cross_attention`; entries past `lengths` must be finite."""
    batch, heads, source, head_dim = keys.shape
    queries = query.view(batch, -1, heads, head_dim).transpose(1, 2)
    seen = torch.arange(source, device=query.device) < lengths[:, None]
    context = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen[:, None, None])
    return context.transpose(1, 2).reshape(len(query), -1)


def _beams(state: SearchState) -> Tensor:
    """Beam slots [K]."""
    return torch.arange(state.plan.beams, device=state.position.device)
