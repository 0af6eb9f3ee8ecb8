"""A dense loss on the image tokens, for training from scratch; its heads are dropped when training ends.

A small model that starts from nothing learns what and where objects are long before it can write location tokens, if
every image token is told which object it lies on. Each token of the feature grid predicts the attributes of the object
under its centre ("nothing" included) and, where there is one, the four sides of its box, as distributions over the same
1,000 location bins and through the same embedding rows as the decoder: what the decoder has to write is then linearly
readable from the features it attends to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import location_loss

NOTHING = 0
"""Class 0 of every head: no object under the token."""


@dataclass(frozen=True)
class DenseTargets:
    """What lies under each token of the feature grid, in row-major order.

    `classes` is [B, N, A] int64: one class per attribute, `NOTHING` where the token lies on no object. `bins` is
    [B, N, 4] int64: the location bins of the box x1 y1 x2 y2 of the object, -1 where there is none.
    """

    classes: Tensor
    bins: Tensor

    def to(self, device: torch.device) -> DenseTargets:
        """The same on another device."""
        return DenseTargets(self.classes.to(device), self.bins.to(device))


class DenseHeads(nn.Module):
    """Linear heads over image features: one per attribute, and four sides scored against the location embeddings."""

    def __init__(self, width: int, attribute_classes: tuple[int, ...]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attributes = nn.ModuleList(nn.Linear(width, 1 + count) for count in attribute_classes)
        self.sides = nn.Linear(width, 4 * width)

    def losses(self, features: Tensor, targets: DenseTargets, locations: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Mean losses of grid features [B, N, D] (no pooled token): over all tokens, and over those on an object.

        `locations` [1000, D] are the embedding rows.
        """
        features = self.norm(features.float())
        everywhere = on_objects = features.new_zeros(())
        covered = targets.bins[..., 0] >= 0
        some = bool(covered.any())
        for index, head in enumerate(self.attributes):
            wanted, scores = targets.classes[..., index], head(features)
            everywhere = everywhere + F.cross_entropy(scores.flatten(0, 1), wanted.flatten())
            if some:  # most tokens lie on no object: without a mean of their own the others would hardly count
                on_objects = on_objects + F.cross_entropy(scores[covered], wanted[covered])
        if some:
            sides = self.sides(features[covered]).unflatten(1, (4, -1))
            log_probs = torch.log_softmax(sides @ locations.float().T, dim=-1).flatten(0, 1)
            on_objects = on_objects + location_loss(log_probs, targets.bins[covered].flatten(), sigma).mean()
        return everywhere, on_objects

    def loss(self, features: Tensor, targets: DenseTargets, locations: Tensor, sigma: float) -> Tensor:
        """The sum of `losses`."""
        everywhere, on_objects = self.losses(features, targets, locations, sigma)
        return everywhere + on_objects
