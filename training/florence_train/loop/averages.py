"""The exponential moving average of the weights that a run changes (Polyak averaging)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .state import learnt, placed


class Averages:
    """Averaged values by the names of a model's state dict; `decay` 0 makes them the last weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in learnt(model).items()}

    @torch.no_grad()
    def move(self, model: nn.Module, step: int) -> None:
        """Moves towards the weights after `step`; early on the average is shorter, so that it forgets the start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in learnt(model).items():
            kept = self.values[name]
            kept.lerp_(value, 1 - decay) if value.is_floating_point() else kept.copy_(value)

    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Takes the values of a saved state."""
        self.values = {name: placed(values[name], like) for name, like in self.values.items()}
