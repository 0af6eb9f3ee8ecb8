"""Starting from nothing: location embeddings that begin ordered.

Location tokens are bins of an axis, but as freshly drawn embeddings they are a thousand unrelated words, and most of a
small model's training goes into finding out which is next to which. Here they begin as Fourier features of their
position, so that neighbours are alike from the first step.
"""

from __future__ import annotations

import math

import torch

from florence_edge.vocabulary import LOCATION_BINS, Vocabulary

from .model import FlorenceModel

FREQUENCIES = (0.5, 64.0)
"""Lowest and highest frequency in cycles per axis; the highest sets how sharply neighbours differ (1000 / 64 bins)."""


@torch.no_grad()
def order_locations(model: FlorenceModel, vocabulary: Vocabulary) -> None:
    """Sets the embedding rows of `<loc_0>` .. `<loc_999>` to unit-length Fourier features of the bin's centre."""
    width = model.embedding.weight.shape[1]
    count = width // 2
    low, high = (math.log(value) for value in FREQUENCIES)
    frequencies = torch.exp(torch.linspace(low, high, count))
    centres = (torch.arange(LOCATION_BINS) + 0.5) / LOCATION_BINS
    angles = 2 * math.pi * centres[:, None] * frequencies[None]
    rows = torch.cat([angles.sin(), angles.cos()], dim=1) / math.sqrt(count)
    start = vocabulary.first_location
    model.embedding.weight[start : start + LOCATION_BINS, : 2 * count] = rows
