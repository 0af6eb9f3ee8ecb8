"""The training loss: cross-entropy over the answer's tokens, with location tokens treated as the ordered bins they are.

A location token one bin off is nearly right, yet plain cross-entropy calls it as wrong as any other word. `answer_loss`
can therefore spread the target of a location token over its neighbours (a discrete Gaussian of `location_sigma` bins,
cut at the ends and renormalised); 0 gives plain cross-entropy. Ordered soft targets for coordinates as tokens:
Chen et al., Pix2Seq, arXiv 2109.10852, discuss the hard version; the Gaussian is the label-distribution learning of
Geng, arXiv 1408.6027.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from florence_edge.vocabulary import LOCATION_BINS, Vocabulary

IGNORE = -100
"""Label of a position that takes no part in the loss (padding)."""


@dataclass(frozen=True)
class LossTerms:
    """Mean losses in nats over all answer tokens, over text tokens alone and over location tokens alone (NaN: none)."""

    total: Tensor
    text: float
    location: float


def soft_bins(sigma: float, *, device: torch.device | None = None) -> Tensor:
    """Targets [1000, 1000] float32: row `b` is the distribution over bins that stands for bin `b`."""
    bins = torch.arange(LOCATION_BINS, device=device, dtype=torch.float32)
    if sigma <= 0:
        return torch.eye(LOCATION_BINS, device=device)
    return torch.softmax(-0.5 * ((bins[:, None] - bins[None, :]) / sigma) ** 2, dim=1)


def location_loss(log_probs: Tensor, bins: Tensor, sigma: float) -> Tensor:
    """Cross-entropy [n] of bin log-probabilities [n, 1000] against bins [n] int64 softened by `sigma`.

    Shifted by the target's own entropy, so that a perfect answer scores 0 at every sigma.
    """
    targets = soft_bins(sigma, device=log_probs.device)[bins]
    excess: Tensor = torch.special.xlogy(targets, targets) - targets * log_probs.float()
    return excess.sum(dim=1)


def answer_loss(
    logits: Tensor,
    labels: Tensor,
    vocabulary: Vocabulary,
    *,
    location_sigma: float = 0.0,
    label_smoothing: float = 0.0,
) -> LossTerms:
    """Loss of logits [P, T, V] against labels [P, T] int64, `IGNORE` where a position does not count."""
    valid = labels != IGNORE
    scores, wanted = logits[valid].float(), labels[valid]
    first = vocabulary.first_location
    is_location = (wanted >= first) & (wanted < first + LOCATION_BINS)
    text = F.cross_entropy(scores[~is_location], wanted[~is_location], reduction="sum", label_smoothing=label_smoothing)
    located = torch.log_softmax(scores[is_location], dim=1)[:, first : first + LOCATION_BINS]
    location = location_loss(located, wanted[is_location] - first, location_sigma).sum()
    n_text, n_location = int((~is_location).sum()), int(is_location.sum())
    return LossTerms(
        total=(text + location) / max(1, n_text + n_location),
        text=float(text.detach()) / n_text if n_text else float("nan"),
        location=float(location.detach()) / n_location if n_location else float("nan"),
    )
