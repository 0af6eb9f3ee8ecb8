"""From the vision tower's feature map to tokens of the language model.

Adds position tables, pools, projects. Source: Florence-2 paper, section 4 and the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import FlorenceConfig
from .layers import LayerNorm


class Projector(nn.Module):
    """Learned 2-D positions and the first temporal position are added; the mean token goes before the grid's tokens."""

    temporal: Tensor

    def __init__(self, config: FlorenceConfig) -> None:
        super().__init__()
        dim = config.vision.dims[-1]
        self.rows = nn.Embedding(config.vision.max_grid, dim // 2)
        self.columns = nn.Embedding(config.vision.max_grid, dim - dim // 2)
        self.register_buffer("temporal", sinusoid(config.vision.max_temporal, dim))
        self.proj = nn.Linear(dim, config.text.dim, bias=False)
        self.norm = LayerNorm(config.text.dim)

    def forward(self, features: Tensor) -> Tensor:
        """Feature map `[B, C, h, w]` -> image tokens `[B, 1 + h * w, D]`, the pooled token first, then row by row."""
        height, width = features.shape[2], features.shape[3]
        columns = self.columns.weight[:width].expand(height, -1, -1)
        rows = self.rows.weight[:height, None].expand(-1, width, -1)
        positions = torch.cat([columns, rows], dim=-1).flatten(0, 1)
        # An image is a clip of one frame: it takes the temporal table's first row.
        tokens = features.flatten(2).transpose(1, 2) + positions + self.temporal[0]
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        projected: Tensor = self.norm(self.proj(tokens))
        return projected


def sinusoid(length: int, dim: int) -> Tensor:
    """Returns the position table `[length, dim]`: sine in even channels, cosine in odd ones, rates from 1 to 1e-4."""
    rates = 10000.0 ** (-torch.arange(0, dim, 2) / dim)
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
