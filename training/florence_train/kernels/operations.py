"""What computes the parts of Florence-2 that general libraries do not cover: the native kernels, or torch itself.

Both are tables of the same functions, so that a caller holds one and does not know which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from florence_train.model.davit import Size, channel_attention, window_attention

from . import beam_search, composition, operators
from .search_state import SearchPlan, SearchState


@dataclass(frozen=True)
class Operations:
    """Functions of tensors on one device; none waits for it. Shapes are those of `operators`.

    `window_attention(qkv, bias, size, *, window, heads)` and `channel_attention(qkv, *, groups)` are those of
    `model.davit`; `beam_begin(state)` and `beam_step(logits, state)` change a search.
    """

    name: str
    window_attention: Callable[..., Tensor]
    channel_attention: Callable[..., Tensor]
    self_attention: Callable[[Tensor, Tensor, Tensor, SearchState], Tensor]
    cross_attention: Callable[[Tensor, Tensor, Tensor, Tensor, SearchState], Tensor]
    beam_begin: Callable[[SearchState], None]
    beam_step: Callable[[Tensor, SearchState], None]


def _window_attention(qkv: Tensor, bias: Tensor | None, size: Size, *, window: int, heads: int) -> Tensor:
    context: Tensor = operators.window_attention(qkv, bias, *size, window, heads)
    return context


def _channel_attention(qkv: Tensor, *, groups: int) -> Tensor:
    context: Tensor = operators.channel_attention(qkv, groups)
    return context


def _self_attention(qkv: Tensor, keys: Tensor, values: Tensor, state: SearchState) -> Tensor:
    context: Tensor = operators.decoder_self_attention(
        qkv, keys, values, state.indirection, state.position, state.image_done
    )
    return context


def _cross_attention(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, state: SearchState) -> Tensor:
    context: Tensor = operators.decoder_cross_attention(query, keys, values, lengths, state.image_done)
    return context


def _beam_begin(state: SearchState) -> None:
    operators.beam_begin(state.shared(), state.progress, *_numbers(state.plan))


def _beam_step(logits: Tensor, state: SearchState) -> None:
    operators.beam_step(logits, state.shared(), state.progress, *_numbers(state.plan))


def _numbers(plan: SearchPlan) -> tuple[list[int], float]:
    """A plan as the beam operators take it: the integers of florence_beam_dims in order, and the length penalty."""
    config, length = plan.config, plan.max_length
    # Every search has a state and caches of its own, with room for its longest sequence and no more.
    integers = [plan.batch, plan.beams, plan.vocab, length, length, config.decoder_start, config.eos]
    integers += [plan.forced_bos, plan.forced_eos, config.no_repeat_ngram, config.min_new_tokens, plan.early_stopping]
    return integers, config.length_penalty


KERNELS = Operations(
    "kernels", _window_attention, _channel_attention, _self_attention, _cross_attention, _beam_begin, _beam_step
)
TORCH = Operations(
    "torch",
    window_attention,
    channel_attention,
    composition.self_attention,
    composition.cross_attention,
    beam_search.begin,
    beam_search.step,
)
