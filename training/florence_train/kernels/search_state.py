"""One search on the device: what is asked (`SearchPlan`), and every array of it (`SearchState`).

The arrays are those of `florence_beam_state` (kernels/include/florence_kernels.h), whose layout and meaning both
implementations of a search step share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from florence_edge._beams import NEVER, finish
from florence_edge.backends import Hypothesis
from florence_edge.backends.kernel_library import EARLY_STOPPING
from florence_edge.errors import BackendError
from florence_edge.options import SearchConfig

EMPTY = float(NEVER)
NONE = -1
_ALIGNMENT = 256


@dataclass(frozen=True)
class SearchPlan:
    """A search over `batch` prompts with the settings of `config`; `vocab` counts the logits of a row."""

    batch: int
    vocab: int
    config: SearchConfig

    @classmethod
    def of(cls, batch: int, vocab: int, config: SearchConfig) -> SearchPlan:
        """The plan of a request. One beam means greedy search: it ends with the first finished hypothesis."""
        return cls(batch, vocab, replace(config, early_stopping=True) if config.beams == 1 else config)

    @property
    def beams(self) -> int:
        """Beams of each prompt."""
        return self.config.beams

    @property
    def rows(self) -> int:
        """Rows of a step: every beam of every prompt."""
        return self.batch * self.config.beams

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence, the start token included."""
        return self.config.max_new_tokens + 1

    @property
    def forced_bos(self) -> int:
        """The token after the start token, or `NONE`."""
        return NONE if self.config.forced_bos is None else self.config.forced_bos

    @property
    def forced_eos(self) -> int:
        """The token that fills the last place, or `NONE`."""
        return NONE if self.config.forced_eos is None else self.config.forced_eos

    @property
    def early_stopping(self) -> int:
        """As `florence_early_stopping`."""
        return EARLY_STOPPING[self.config.early_stopping]


@dataclass(frozen=True, eq=False)
class SearchState:
    """B prompts, K beams, L positions; every array is a view of `block`.

    `faults` [B] int32 is the position at which an image's logits were first not finite, or -1; `progress` [2] int32
    holds the images still searching and the tokens per sequence. The others are documented in the header.
    """

    plan: SearchPlan
    block: Tensor
    position: Tensor
    next_tokens: Tensor
    parents: Tensor
    indirection: Tensor
    running_tokens: Tensor
    running_logprobs: Tensor
    running_scores: Tensor
    finished_tokens: Tensor
    finished_logprobs: Tensor
    finished_scores: Tensor
    finished_lengths: Tensor
    finished_flags: Tensor
    can_improve: Tensor
    image_done: Tensor
    length_norms: Tensor
    arrivals: Tensor
    progress: Tensor
    faults: Tensor

    @classmethod
    def allocate(cls, plan: SearchPlan, device: torch.device) -> SearchState:
        """A state of zeros, which no search has begun."""
        size = sum(_padded(_bytes(shape, dtype)) for shape, dtype in _arrays(plan).values())
        return cls.over(plan, torch.zeros(size, dtype=torch.uint8, device=device))

    @classmethod
    def over(cls, plan: SearchPlan, block: Tensor) -> SearchState:
        """The arrays that lie in a block of bytes."""
        views, start = {}, 0
        for name, (shape, dtype) in _arrays(plan).items():
            size = _bytes(shape, dtype)
            views[name] = block[start : start + size].view(dtype).view(shape)
            start += _padded(size)
        return cls(plan, block, **views)

    def shared(self) -> list[Tensor]:
        """The arrays of `florence_beam_state`, in its order."""
        return [getattr(self, name) for name in _arrays(self.plan) if name not in ("progress", "faults")]

    def begin_faults(self) -> None:
        """Forgets the faults of an earlier search."""
        self.faults.fill_(NONE)

    def note_faults(self, logits: Tensor) -> None:
        """Remembers where an image that is still searching first gets logits [B * K, V] that are not finite."""
        sound = logits.isfinite().view(self.plan.batch, -1).all(dim=1)
        first = ~sound & (self.image_done == 0) & (self.faults == NONE)
        self.faults.copy_(torch.where(first, self.position, self.faults))

    def answers(self) -> list[Hypothesis]:
        """The best hypothesis of every prompt; waits for the device, copies once.

        Raises `BackendError` for logits that were not finite and where everything was banned.
        """
        found = SearchState.over(self.plan, self.block.cpu())
        return [found.answer(image) for image in range(self.plan.batch)]

    def answer(self, image: int) -> Hypothesis:
        """The best hypothesis of one prompt, of a state on the host."""
        if (step := int(self.faults[image])) != NONE:
            raise BackendError(
                f"the decoder gave non-finite logits for prompt {image} at step {step}; the weights or the pixels are "
                "damaged, or the precision overflows: use fp32 or bf16"
            )
        length = int(self.finished_lengths[image, 0])
        if not self.finished_flags[image, 0] or float(self.finished_scores[image, 0]) == -math.inf:
            raise BackendError(
                f"no token may follow for prompt {image}: n-gram ban and min_new_tokens forbid all of them; lower "
                "min_new_tokens or no_repeat_ngram"
            )
        ids = self.finished_tokens[image, 0, 1:length].long().numpy().copy()
        logprobs = self.finished_logprobs[image, 0, 1:length].numpy().copy()
        return Hypothesis(ids, float(self.finished_scores[image, 0]), logprobs, finish(ids, self.plan.config))


def _arrays(plan: SearchPlan) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every array, in the order of `florence_beam_state`."""
    number, real = torch.int32, torch.float32
    images, beams = (plan.batch,), (plan.batch, plan.beams)
    tokens = (*beams, plan.max_length)
    return {
        "position": ((1,), number),
        "next_tokens": (beams, number),
        "parents": (beams, number),
        "indirection": (tokens, torch.uint8),
        "running_tokens": (tokens, number),
        "running_logprobs": (tokens, real),
        "running_scores": (beams, real),
        "finished_tokens": (tokens, number),
        "finished_logprobs": (tokens, real),
        "finished_scores": (beams, real),
        "finished_lengths": (beams, number),
        "finished_flags": (beams, number),
        "can_improve": (images, number),
        "image_done": (images, number),
        "length_norms": ((plan.max_length + 1,), real),
        "arrivals": ((1,), number),
        "progress": ((2,), number),
        "faults": (images, number),
    }


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
