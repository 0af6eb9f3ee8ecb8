"""What a step minimises: the loss of its answers and of its image tokens, computed part by part.

The images of a step may be spread over processes and over parts that follow each other. Every mean is over the whole
step, not a mean of the parts' means: each part's share of the tokens weighs it, so that however a step is split, its
loss and gradients are those of one large batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from florence_edge.vocabulary import LOCATION_BINS, Vocabulary
from florence_train.auxiliary import DenseHeads
from florence_train.batch import Batch
from florence_train.losses import IGNORE, answer_loss
from florence_train.model import FlorenceModel
from florence_train.recipe import LossRecipe


class Terms(NamedTuple):
    """A part's contributions to the step's losses: adding those of all parts gives the means over the step."""

    total: Tensor
    text: float
    location: float
    dense: float


@dataclass(frozen=True)
class Share:
    """How much of a step a part is, 0 to 1: of its answer tokens, text and location tokens, images, and of the image
    tokens that `DenseTargets.counts` counts.
    """

    tokens: float
    text: float
    location: float
    images: float
    present: tuple[float, ...]

    @classmethod
    def of(cls, part: Tensor, step: Tensor) -> Share:
        """From what `count` says of the part and, summed, of the step."""
        tokens, text, location, images, *present = (part / step.clamp(min=1)).tolist()
        return cls(tokens, text, location, images, tuple(present))


def count(batch: Batch, vocabulary: Vocabulary) -> Tensor:
    """What a batch holds of everything a mean is taken over, in the order of `Share`: [n] float64."""
    first = vocabulary.first_location
    labels = batch.labels()
    location = int(((labels >= first) & (labels < first + LOCATION_BINS)).sum())
    present = batch.dense.counts().tolist() if batch.dense else []
    counts = [len(labels), len(labels) - location, location, len(batch.pixels), *present]
    return torch.tensor(counts, dtype=torch.float64)


def answer_logits(model: FlorenceModel, features: Tensor, batch: Batch) -> Tensor:
    """Logits [n, V] of the answer tokens that `Batch.labels` gives, from the features [B, N, D] of its images."""
    logits = [
        model.decode(
            features[group.image_of],
            group.prompt_ids,
            group.decoder_ids,
            group.prompt_mask,
            wanted=group.labels != IGNORE,
        )
        for group in batch.turns
    ]
    return torch.cat([features.new_zeros(0, model.config.text.vocab_size), *logits])


class Objective(nn.Module):
    """The model with the heads that only training has: one module, because processes share one module's `forward`."""

    def __init__(self, model: FlorenceModel, heads: DenseHeads, vocabulary: Vocabulary, recipe: LossRecipe) -> None:
        super().__init__()
        self.model, self.heads = model, heads
        self.vocabulary, self.recipe = vocabulary, recipe
        self._finer: Tensor | None = None
        if recipe.dense > 0:  # a hook, because parts of a sharded model must be called as modules
            model.vision.stages[-2:][0].register_forward_hook(self._keep)

    def _keep(self, stage: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._finer = output

    def forward(self, batch: Batch, share: Share, *, sigma: float) -> Terms:
        """The losses of a part of a step; every image is encoded once for all its prompts."""
        features = self.model.encode_image(batch.pixels)
        answers = answer_loss(
            answer_logits(self.model, features, batch),
            batch.labels(),
            self.vocabulary,
            location_sigma=sigma,
            label_smoothing=self.recipe.label_smoothing,
        )
        dense = self._dense(features, batch, share=share, sigma=sigma)
        return Terms(
            answers.total * share.tokens + self.recipe.dense * dense,
            answers.text * share.text if share.text else 0.0,
            answers.location * share.location if share.location else 0.0,
            float(dense.detach()),
        )

    def _dense(self, features: Tensor, batch: Batch, *, share: Share, sigma: float) -> Tensor:
        if self._finer is None or batch.dense is None:
            return features.new_zeros((), dtype=torch.float32)
        first = self.vocabulary.first_location
        locations = self.model.embedding.weight[first : first + LOCATION_BINS]
        everywhere, present = self.heads.losses(features, self._finer, batch.dense, locations=locations, sigma=sigma)
        return everywhere * share.images + (present * present.new_tensor(share.present)).sum()
