"""A dense loss on the image tokens, for training from scratch; its heads are dropped when training ends.

A small model that starts from nothing learns what and where objects are long before it can write location tokens, if
every image token is told which object it lies on. Each token of the feature grid predicts the attributes of the object
under its centre ("nothing" included) and, where there is one, the four sides of its box, as distributions over the same
1,000 location bins and through the same embedding rows as the decoder: what the decoder has to write is then linearly
readable from the features it attends to.

Reading needs more: a token holds several characters, and told only which, in what order, the model learns nothing in
many thousands of pictures. So each cell of the finer map that the last stage begins with also predicts what is
printed there, which is learnt within a few thousand; the characters of a token then follow.

What a picture has as a whole, such as the number of its objects, the pooled token predicts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import location_loss

NOTHING = 0
"""Class 0 of every head: no object under the token."""

READING = 3.0
"""Weight of the characters of the finer map where there are some: next to all else they would be learnt last."""


@dataclass(frozen=True)
class DenseTargets:
    """What lies under each token of the feature grid, in row-major order.

    `classes` is [B, N, A] int64: one class per attribute, `NOTHING` where the token has none. `bins` is [B, N, 4]
    int64: the location bins of the box x1 y1 x2 y2 of the object, -1 where there is none. `characters` is [B, M, C]
    int64: C classes of what is printed in each cell of the map before the last stage, `NOTHING` for none. `whole`
    [B, W] int64: classes of the picture, which all have a meaning.
    """

    classes: Tensor
    bins: Tensor
    characters: Tensor
    whole: Tensor

    def to(self, device: torch.device) -> DenseTargets:
        """The same on another device."""
        return DenseTargets(*(getattr(self, item.name).to(device) for item in fields(self)))

    def counts(self) -> Tensor:
        """How many tokens have each attribute, how many a box, and how many cells each of C: [A + 1 + C] int64."""
        named, printed = ((each != NOTHING).flatten(0, 1).sum(dim=0) for each in (self.classes, self.characters))
        return torch.cat([named, (self.bins[..., 0] >= 0).sum()[None], printed])


@dataclass(frozen=True)
class DenseClasses:
    """How many classes there are to tell apart: of each attribute and of each thing told of the finer map, `NOTHING`
    aside, and of each thing told of the whole picture.
    """

    attributes: tuple[int, ...] = ()
    characters: tuple[int, ...] = ()
    whole: tuple[int, ...] = ()


class DenseHeads(nn.Module):
    """Linear heads: over image features of `width` one per attribute, and four sides scored against the location
    embeddings; over the map before the last stage, of width `finer`, those for characters; and those over the
    pooled token.
    """

    def __init__(self, width: int, finer: int, classes: DenseClasses) -> None:
        super().__init__()
        self.norm, self.finer_norm = nn.LayerNorm(width), nn.LayerNorm(finer)
        self.attributes = nn.ModuleList(nn.Linear(width, 1 + count) for count in classes.attributes)
        self.sides = nn.Linear(width, 4 * width)
        self.whole = nn.ModuleList(nn.Linear(width, count) for count in classes.whole)
        self.characters = nn.ModuleList(nn.Linear(finer, 1 + count) for count in classes.characters)

    def losses(
        self, features: Tensor, finer: Tensor, targets: DenseTargets, *, locations: Tensor, sigma: float
    ) -> tuple[Tensor, Tensor]:
        """Mean losses of features [B, 1 + N, D], the pooled one first, and of the finer map [B, C, h, w].

        They are the sum of the means over all tokens and pictures, and [A + 1 + C] over those that `counts` counts:
        most tokens have no attribute, and without a mean of their own those that have one would hardly count.
        `locations` [1000, D] are the embedding rows.
        """
        pooled, features = self.norm(features.float()).split([1, features.shape[1] - 1], dim=1)
        finer = self.finer_norm(finer.flatten(2).transpose(1, 2).float())
        named = _named(self.attributes, features, targets.classes)
        printed = _named(self.characters, finer, targets.characters)
        covered = targets.bins[..., 0] >= 0
        sides = self.sides(features[covered]).unflatten(1, (4, -1))
        log_probs = torch.log_softmax(sides @ locations.float().T, dim=-1).flatten(0, 1)
        boxes = _mean(location_loss(log_probs, targets.bins[covered].flatten(), sigma))
        told = [F.cross_entropy(head(pooled[:, 0]), targets.whole[:, index]) for index, head in enumerate(self.whole)]
        everywhere = torch.stack([*(mean for mean, _ in (*named, *printed)), *told]).sum()
        return everywhere, torch.stack([*(mean for _, mean in named), boxes, *(READING * mean for _, mean in printed)])


def _named(heads: nn.ModuleList, tokens: Tensor, classes: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What `_cross_entropy` says of tokens [B, N, D] under each head, with its column of `classes` [B, N, len]."""
    return [_cross_entropy(head(tokens), classes[..., index]) for index, head in enumerate(heads)]


def _cross_entropy(scores: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over all of [B, N, K], and over what is not `NOTHING`."""
    each = F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), reduction="none")
    return each.mean(), _mean(each[wanted.flatten() != NOTHING])


def _mean(values: Tensor) -> Tensor:
    """The mean, 0 of none."""
    return values.sum() / max(1, len(values))
