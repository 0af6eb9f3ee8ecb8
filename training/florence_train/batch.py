"""From samples to the tensors of one step: each image once, with all the prompts drawn for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from florence_edge.geometry import Float32Array, Int64Array
from florence_edge.options import SearchConfig

from .auxiliary import DenseTargets
from .losses import IGNORE

GROUP = 12
"""Prompts that are padded to one length together."""


@dataclass(frozen=True)
class Turn:
    """One question about an image and its answer, as token ids [T] int64 with `<s>` and `</s>`."""

    prompt: Int64Array
    answer: Int64Array


@dataclass(frozen=True)
class Sample:
    """One image [3, H, W] float32 (normalised), the turns drawn for it, and what lies under each feature token.

    `dense` are the classes [N, A], bins [N, 4], characters [M, C] and whole [W] of `DenseTargets`, or None where the
    data has none.
    """

    pixels: Float32Array
    turns: tuple[Turn, ...]
    dense: tuple[Int64Array, Int64Array, Int64Array, Int64Array] | None = None


@dataclass(frozen=True)
class Turns:
    """Prompts with answers of like length; `image_of` [P] names each prompt's image.

    `prompt_ids` [P, T] with `prompt_mask` [P, T] bool; `decoder_ids` [P, U] begin with the start token and `labels`
    [P, U] are the same moved one to the left, `IGNORE` on padding.
    """

    image_of: Tensor
    prompt_ids: Tensor
    prompt_mask: Tensor
    decoder_ids: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Turns:
        """The same on another device."""
        return Turns(*(getattr(self, item.name).to(device) for item in fields(self)))


@dataclass(frozen=True)
class Batch:
    """The tensors of one step: B images [B, 3, H, W], and the prompts drawn for them in groups, to pad little."""

    pixels: Tensor
    turns: tuple[Turns, ...]
    dense: DenseTargets | None

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(
            pixels=self.pixels.to(device),
            turns=tuple(group.to(device) for group in self.turns),
            dense=self.dense.to(device) if self.dense else None,
        )

    def labels(self) -> Tensor:
        """The labels of all answers [n] int64, without padding."""
        kept = [group.labels[group.labels != IGNORE] for group in self.turns]
        return torch.cat([torch.zeros(0, dtype=torch.int64, device=self.pixels.device), *kept])


def collate(samples: Sequence[Sample], search: SearchConfig) -> Batch:
    """Pads the turns of the samples to one batch, in groups of `GROUP` by the length of the answer."""
    turns = [(index, turn) for index, sample in enumerate(samples) for turn in sample.turns]
    turns.sort(key=lambda entry: len(entry[1].answer))
    return Batch(
        pixels=torch.from_numpy(np.stack([sample.pixels for sample in samples])),
        turns=tuple(_group(turns[start : start + GROUP], search) for start in range(0, len(turns), GROUP)),
        dense=_dense(samples),
    )


def _group(turns: Sequence[tuple[int, Turn]], search: SearchConfig) -> Turns:
    prompts = _padded([turn.prompt for _, turn in turns], search.pad)
    answers = _padded([turn.answer for _, turn in turns], search.pad)
    lengths = torch.tensor([len(turn.answer) for _, turn in turns])
    starts = torch.full((len(turns), 1), search.decoder_start)
    widths = torch.tensor([len(turn.prompt) for _, turn in turns])
    return Turns(
        image_of=torch.tensor([index for index, _ in turns]),
        prompt_ids=prompts,
        prompt_mask=torch.arange(prompts.shape[1])[None] < widths[:, None],
        decoder_ids=torch.cat([starts, answers[:, :-1]], dim=1),
        labels=answers.masked_fill(torch.arange(answers.shape[1])[None] >= lengths[:, None], IGNORE),
    )


def _padded(rows: Sequence[Int64Array], pad: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=pad)


def _dense(samples: Sequence[Sample]) -> DenseTargets | None:
    truths = [sample.dense for sample in samples if sample.dense is not None]
    if len(truths) != len(samples):
        return None
    return DenseTargets(*(torch.from_numpy(np.stack(rows)) for rows in zip(*truths, strict=True)))
