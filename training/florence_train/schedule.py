"""Values that change along a run: the learning rate and the width of soft location targets."""

from __future__ import annotations

import math

from .recipe import OptimizerRecipe


def learning_rate(step: int, recipe: OptimizerRecipe) -> float:
    """Rate of step 0..steps-1: linear from 0 over the warm-up, then a half cosine to `final_fraction` of the peak."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return recipe.learning_rate * (recipe.final_fraction + (1 - recipe.final_fraction) * cosine)


def geometric(step: int, steps: int, ends: tuple[float, float]) -> float:
    """A value that goes from the first to the second of `ends` by equal ratios; constant 0 when either is 0."""
    first, last = ends
    if first <= 0 or last <= 0:
        return 0.0
    progress = min(1.0, step / max(1, steps - 1))
    return math.exp((1 - progress) * math.log(first) + progress * math.log(last))
