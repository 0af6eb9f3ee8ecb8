"""When to measure a model on the way, which weights are the best so far, and when to give up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from florence_train.model import FlorenceModel
from florence_train.recipe import ValidationRecipe


class Judge(Protocol):
    """Measures a model on data that is not trained on."""

    @property
    def lower_is_better(self) -> bool:
        """Whether smaller values are better ones."""
        ...

    def __call__(self, model: FlorenceModel) -> float:
        """The measured value, NaN where it is not defined; the model is on the CPU and in eval mode."""
        ...


class Validation:
    """The course of a run's measurements.

    `keep(model, step)` is called with the best weights so far. With `baseline` the model that the run starts from is
    measured first, so that a run which does harm keeps what it was given.
    """

    def __init__(
        self,
        recipe: ValidationRecipe,
        judge: Judge,
        *,
        keep: Callable[[FlorenceModel, int], None],
        baseline: bool = False,
    ) -> None:
        self.recipe, self.judge, self.keep = recipe, judge, keep
        self.name = f"validation {recipe.metric}"
        self.best_value, self.best_step, self._since = math.nan, -1, 0
        self._baseline = baseline

    def before(self, step: int) -> bool:
        """Whether to measure before the first step."""
        return self._baseline and step == 0 and not self.measured

    def due(self, step: int, last: int) -> bool:
        """Whether to measure after `step`."""
        return step % self.recipe.every == 0 or step == last

    def take(self, value: float, step: int) -> bool:
        """Notes a measurement; returns whether it is the best so far. An undefined one is better than none only."""
        ahead = value < self.best_value if self.judge.lower_is_better else value > self.best_value
        better = not self.measured or ahead or (math.isnan(self.best_value) and not math.isnan(value))
        if better:
            self.best_value, self.best_step = value, step
        self._since = 0 if better else self._since + 1
        return better

    @property
    def measured(self) -> bool:
        """Whether there was a measurement, and so a best model."""
        return self.best_step >= 0

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` measurements brought nothing."""
        return 0 < self.recipe.patience <= self._since

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best_value, "step": self.best_step, "since": self._since}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.best_value, self.best_step, self._since = state["best"], state["step"], state["since"]
