"""Rendered tabletop scenes as training data: questions and answers through the SDK's own prompts and grammar.

Every sample is a function of (recipe, step, image), so workers may prepare steps in any order and a resumed run sees
what an unbroken one would have seen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from florence_edge.geometry import Int64Array
from florence_edge.grammar import format_answer, prompt_for
from florence_edge.locations import quantise
from florence_edge.preprocess import to_pixels
from florence_edge.tasks import find
from florence_edge.tokens import Tokens

from .batch import Sample, Turn
from .data.source import draw
from .model import FlorenceConfig
from .recipe import DataRecipe, Stage
from .tabletop import Example, Scene, TabletopConfig, examples, render, split_seed
from .tabletop.vocabulary import COLOURS, KINDS, SIZES, TEXTURES

ATTRIBUTES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("kind", tuple(KINDS)),
    ("colour", tuple(COLOURS)),
    ("size", tuple(SIZES)),
    ("texture", tuple(TEXTURES)),
)
"""Attributes of an object that the dense loss asks for, with their values; class 0 is "no object"."""


class SceneSource:
    """Tabletop scenes as steps of a training run."""

    def __init__(self, recipe: DataRecipe, model: FlorenceConfig, tokens: Tokens, *, split: str = "train") -> None:
        self.recipe, self.tokens = recipe, tokens
        self.vocabulary = tokens.vocabulary
        self.attribute_classes = tuple(len(values) for _, values in ATTRIBUTES)
        self.seed = split_seed(split, recipe.seed)
        self.grid = model.vision.grid(model.image.height, model.image.width)
        self.spec = model.image
        self.config = TabletopConfig(height=self.spec.height, width=self.spec.width)

    def samples(self, step: int) -> list[Sample]:
        """The images of one step with the turns drawn for them."""
        count = self.recipe.images_per_step
        return [self._sample(step, step * count + offset) for offset in range(count)]

    def _sample(self, step: int, index: int) -> Sample:
        scene = render(self.seed, index, self._config_at(step))
        rng = np.random.default_rng([self.seed, index, 1])
        prompts = self._prompts_at(step)
        drawn = draw(examples(scene, rng), self.recipe.weights, prompts, rng) if prompts else ()
        classes, bins = dense_truth(scene, self.grid)
        pixels = to_pixels(Image.fromarray(scene.image), self.spec)[0]
        return Sample(pixels, tuple(self._turn(example, scene) for example in drawn), classes, bins)

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

    def _turn(self, example: Example, scene: Scene) -> Turn:
        task = find(example.task)
        prompt = self.tokens.encode(prompt_for(task, example.input, scene.size))
        return Turn(prompt, self.tokens.encode(format_answer(task, example.target)))


def dense_truth(scene: Scene, grid: tuple[int, int]) -> tuple[Int64Array, Int64Array]:
    """What lies under the centre of each cell of a feature grid (rows, columns).

    Returns classes [N, A] and location bins [N, 4] as `DenseTargets` wants them, N = rows * columns in row-major order.
    """
    height, width = scene.image.shape[:2]
    rows = ((np.arange(grid[0]) + 0.5) * height / grid[0]).astype(int)
    columns = ((np.arange(grid[1]) + 0.5) * width / grid[1]).astype(int)
    classes = np.zeros((grid[0] * grid[1], len(ATTRIBUTES)), dtype=np.int64)
    bins = np.full((grid[0] * grid[1], 4), -1, dtype=np.int64)
    for item in scene.objects:
        covered = item.mask[np.ix_(rows, columns)].ravel()
        classes[covered] = [1 + values.index(getattr(item, name)) for name, values in ATTRIBUTES]
        bins[covered] = quantise(item.box.reshape(2, 2), scene.size).reshape(4)
    return classes, bins
