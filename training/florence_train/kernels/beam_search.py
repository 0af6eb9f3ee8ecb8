"""The beam search of transformers >= 4.50 in torch, on the device: what kernels/cpu/beam_step.cpp does, for all images.

No shape and no branch depends on what is on the device, so that a CUDA graph can hold a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .search_state import EMPTY, NONE, SearchState


def begin(state: SearchState) -> None:
    """Starts a search: one start token in every beam, position 0."""
    plan = state.plan
    for tokens in (state.running_tokens, state.finished_tokens):
        tokens[:, :, 0] = plan.config.decoder_start
    for zero in (state.position, state.image_done, state.finished_flags, state.running_logprobs):
        zero.zero_()
    state.next_tokens.fill_(plan.config.decoder_start)
    state.indirection[:, :, 0] = _range(state, plan.beams)
    # One beam starts: the others would only repeat it.
    state.running_scores.fill_(EMPTY)[:, 0] = 0
    state.finished_scores.fill_(EMPTY)
    state.finished_lengths.fill_(1)
    state.can_improve.fill_(1)
    lengths = torch.arange(plan.max_length + 1, dtype=torch.float64, device=state.block.device)
    state.length_norms.copy_(lengths**plan.config.length_penalty)
    _report(state)


def step(logits: Tensor, state: SearchState) -> None:
    """One step of every image that is not done, from the logits `[B * K, V]` of the pass at `position`."""
    plan, kept = state.plan, 2 * state.plan.beams
    length = state.position + 1
    logprobs = _processed(logits, state, length)
    totals = (logprobs + state.running_scores[..., None]).flatten(1)
    scores, index = totals.topk(kept, dim=1)
    parents, tokens = index // plan.vocab, (index % plan.vocab).int()
    hits = (tokens == plan.config.eos) | (length + 1 >= plan.max_length)

    last = _range(state, plan.max_length) == length
    own = logprobs.flatten(1).gather(1, index)
    sequences = torch.where(last, tokens[..., None], _of(state.running_tokens, parents))
    token_logprobs = torch.where(last, own[..., None], _of(state.running_logprobs, parents))
    after = _finished(state, scores, hits, sequences, token_logprobs, length)

    running_scores, order = (scores + EMPTY * hits).sort(dim=1, descending=True, stable=True)
    order = order[:, : plan.beams]
    slots = _of(state.indirection, parents.gather(1, order))
    after |= {
        "running_scores": running_scores[:, : plan.beams],
        "running_tokens": _of(sequences, order),
        "running_logprobs": _of(token_logprobs, order),
        "next_tokens": tokens.gather(1, order),
        "parents": parents.gather(1, order),
        "indirection": torch.where(last, _range(state, plan.beams)[:, None], slots),
    }
    after |= _stopping(state, after, hits, length)
    _keep(state, after)


def _processed(logits: Tensor, state: SearchState, length: Tensor) -> Tensor:
    """Log-probabilities `[B, K, V]` after the n-gram ban, the least length and the forced tokens."""
    plan = state.plan
    logprobs = logits.float().log_softmax(dim=-1).view(plan.batch, plan.beams, plan.vocab)
    tokens = _range(state, plan.vocab)
    barred = _repeating(state, length)
    barred |= (tokens == plan.config.eos) & (length - 1 < plan.config.min_new_tokens)
    logprobs = logprobs.masked_fill(barred, -torch.inf)
    forced = torch.full_like(length, NONE)
    if plan.forced_bos != NONE:
        forced = forced.masked_fill(length == 1, plan.forced_bos)
    if plan.forced_eos != NONE:
        forced = forced.masked_fill(length == plan.max_length - 1, plan.forced_eos)
    only = torch.where(tokens == forced, 0.0, -torch.inf)
    return torch.where(forced == NONE, logprobs, only)


def _repeating(state: SearchState, length: Tensor) -> Tensor:
    """Tokens `[B, K, V]` that would repeat an n-gram of the running sequences."""
    plan, size = state.plan, state.plan.config.no_repeat_ngram
    windows = plan.max_length - size + 1
    shape = (plan.batch, plan.beams, plan.vocab)
    if size == 0 or windows < 1:
        return torch.zeros(shape, dtype=torch.bool, device=state.block.device)
    history, starts = state.running_tokens, _range(state, windows)
    match = (starts + size <= length).expand(plan.batch, plan.beams, windows)
    for offset in range(size - 1):
        at = (length - size + 1 + offset).clamp(min=0)
        match = match & (history[:, :, offset : offset + windows] == history.index_select(2, at))
    # One column more than there are tokens takes what is not banned.
    banned = torch.where(match, history[:, :, size - 1 :], plan.vocab).long()
    columns = torch.zeros((*shape[:2], plan.vocab + 1), dtype=torch.bool, device=state.block.device)
    return columns.scatter_(2, banned, True)[..., : plan.vocab]


def _finished(
    state: SearchState, scores: Tensor, hits: Tensor, sequences: Tensor, logprobs: Tensor, length: Tensor
) -> dict[str, Tensor]:
    """The K best of the finished hypotheses and of the candidates that end among the first K."""
    beams = state.plan.beams
    counts = hits & (_range(state, 2 * beams) < beams)
    values = scores / state.length_norms[length] + EMPTY * ~counts
    merged, order = torch.cat([state.finished_scores, values], 1).sort(dim=1, descending=True, stable=True)
    order = order[:, :beams]
    lengths = (length + 1).expand_as(counts)

    def best(old: Tensor, new: Tensor) -> Tensor:
        return _of(torch.cat([old, new.to(old.dtype)], 1), order)

    return {
        "finished_scores": merged[:, :beams],
        "finished_tokens": best(state.finished_tokens, sequences),
        "finished_logprobs": best(state.finished_logprobs, logprobs),
        "finished_lengths": best(state.finished_lengths, lengths),
        "finished_flags": best(state.finished_flags, counts),
    }


def _stopping(state: SearchState, after: dict[str, Tensor], hits: Tensor, length: Tensor) -> dict[str, Tensor]:
    """Whether each image's search can improve and whether it is over."""
    plan = state.plan
    hopeful = plan.config.early_stopping == "never" and plan.config.length_penalty > 0
    norm = state.length_norms[plan.max_length - 1] if hopeful else state.length_norms[length]
    best = after["running_scores"][:, 0] / norm
    flags, worst = after["finished_flags"] != 0, after["finished_scores"].amin(1, keepdim=True)
    improves = (best[:, None] > torch.where(flags, worst, EMPTY)).any(1) & (state.can_improve != 0)
    done = ~improves | hits.all(1)
    if plan.config.early_stopping is True:
        done |= flags.all(1)
    return {"can_improve": improves, "image_done": done}


def _keep(state: SearchState, after: dict[str, Tensor]) -> None:
    """Writes the new arrays of the images that were still searching, and advances."""
    searching = state.image_done == 0
    for name, new in after.items():
        old: Tensor = getattr(state, name)
        held = searching.view(-1, *[1] * (old.ndim - 1))
        old.copy_(torch.where(held, new.to(old.dtype), old))
    state.position.add_(searching.any())
    _report(state)


def _report(state: SearchState) -> None:
    """Tells `progress` how many images are still searching, and the length of their sequences."""
    left = (state.image_done == 0).sum(dtype=torch.int32, dim=0, keepdim=True)
    state.progress.copy_(torch.cat([left, state.position + 1]))


def _of(values: Tensor, index: Tensor) -> Tensor:
    """Rows of `values` [B, M, ...] that `index` [B, N] names -> [B, N, ...]."""
    index = index.long().view(*index.shape, *[1] * (values.ndim - 2))
    return values.gather(1, index.expand(*index.shape[:2], *values.shape[2:]))


def _range(state: SearchState, count: int) -> Tensor:
    return torch.arange(count, dtype=torch.int32, device=state.block.device)
