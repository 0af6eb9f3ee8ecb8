"""Rendered tabletop scenes as training data: questions and answers through the SDK's own prompts and grammar.

Every sample is a function of (recipe, step, image), so workers may prepare steps in any order and a resumed run sees
what an unbroken one would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from PIL import Image

from florence_edge.grammar import format_answer, prompt_for
from florence_edge.preprocess import to_pixels
from florence_edge.tasks import find
from florence_edge.tokens import Tokens

from .batch import Sample, Turn
from .data.source import draw
from .model import FlorenceConfig
from .recipe import DataRecipe, Stage
from .scene_truth import CLASSES, dense_truth
from .tabletop import Example, Scene, TabletopConfig, examples, render, split_seed


class SceneSource:
    """Tabletop scenes as steps of a training run."""

    def __init__(self, recipe: DataRecipe, model: FlorenceConfig, tokens: Tokens, *, split: str = "train") -> None:
        self.recipe, self.tokens = recipe, tokens
        self.vocabulary = tokens.vocabulary
        self.dense_classes = CLASSES
        self.seed = split_seed(split, recipe.seed)
        self.grids = model.vision.grids(model.image.height, model.image.width)
        self.spec = model.image
        self.config = TabletopConfig(height=self.spec.height, width=self.spec.width)

    def samples(self, step: int) -> list[Sample]:
        """The images of one step with the turns drawn for them."""
        count = self.recipe.images_per_step
        return [self._sample(step, step * count + offset) for offset in range(count)]

    def _sample(self, step: int, index: int) -> Sample:
        config = self._config_at(step)
        scene = render(self.seed, index, config)
        rng = np.random.default_rng([self.seed, index, 1])
        prompts = self._prompts_at(step)
        asked = examples(scene, rng, per_task=max(1, prompts) if config.slips else 1)
        drawn = draw(asked, self._weights_at(step), prompts, rng) if prompts else ()
        dense = dense_truth(scene, self.grids[-2:][0], self.grids[-1])
        pixels = to_pixels(Image.fromarray(scene.image), self.spec)[0]
        return Sample(pixels, tuple(self._turn(example, scene) for example in drawn), dense)

    def _stage_at(self, step: int) -> Stage | None:
        """The last stage of the curriculum that has begun."""
        begun = [stage for stage in self.recipe.stages if stage.from_step <= step]
        return begun[-1] if begun else None

    def _config_at(self, step: int) -> TabletopConfig:
        stage = self._stage_at(step)
        return replace(self.config, **stage.scene) if stage else self.config

    def _prompts_at(self, step: int) -> int:
        stage = self._stage_at(step)
        stated = stage.prompts_per_image if stage else None
        return self.recipe.prompts_per_image if stated is None else stated

    def _weights_at(self, step: int) -> Mapping[str, float]:
        stage = self._stage_at(step)
        return (stage.weights if stage else {}) or self.recipe.weights

    def _turn(self, example: Example, scene: Scene) -> Turn:
        task = find(example.task)
        prompt = self.tokens.encode(prompt_for(task, example.input, scene.size))
        return Turn(prompt, self.tokens.encode(format_answer(task, example.target)))
