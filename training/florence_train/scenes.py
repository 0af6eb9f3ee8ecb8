"""Rendered tabletop scenes as training data: questions and answers through the SDK's own prompts and grammar.

Every sample is a function of (recipe, step, image), so workers may prepare steps in any order and a resumed run sees
what an unbroken one would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from PIL import Image

from florence_edge.geometry import Int64Array
from florence_edge.grammar import format_answer, prompt_for
from florence_edge.locations import quantise
from florence_edge.preprocess import to_pixels
from florence_edge.tasks import find
from florence_edge.tokens import Tokens

from .auxiliary import DenseClasses
from .batch import Sample, Turn
from .data.source import draw
from .model import FlorenceConfig
from .recipe import DataRecipe, Stage
from .tabletop import Example, Scene, TabletopConfig, examples, render, split_seed
from .tabletop.vocabulary import COLOURS, KINDS, LABEL_ALPHABET, SIZES, TABLES, TEXTURES, WALLS

ATTRIBUTES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("kind", tuple(KINDS)),
    ("colour", tuple(COLOURS)),
    ("size", tuple(SIZES)),
    ("texture", tuple(TEXTURES)),
)
"""Attributes of an object that the dense loss asks for, with their values; class 0 is "no object"."""

SURFACES: tuple[str, ...] = (*TABLES, *(f"{name} wall" for name in WALLS))
"""What is seen where no object is; class 0 is "an object", or a wall too small to be spoken of."""

COUNTS = 9
"""Numbers of objects that the dense loss tells apart, from none on."""

CHARACTERS = 3
"""Printed characters that the dense loss asks for in one token, from left to right; class 0 is "no more"."""


_MARGIN = 0.15
"""Cells whose centre lies this far above or below a label still show it, as a share of its height."""


class SceneSource:
    """Tabletop scenes as steps of a training run."""

    def __init__(self, recipe: DataRecipe, model: FlorenceConfig, tokens: Tokens, *, split: str = "train") -> None:
        self.recipe, self.tokens = recipe, tokens
        self.vocabulary = tokens.vocabulary
        letters = len(LABEL_ALPHABET)
        self.dense_classes = DenseClasses(
            (*(len(values) for _, values in ATTRIBUTES), len(SURFACES), *[letters] * CHARACTERS), letters, (COUNTS,)
        )
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
        printed, count = characters_under(scene, self.grids[-2:][0]), np.array([len(scene.objects)], dtype=np.int64)
        dense = (*dense_truth(scene, self.grids[-1]), printed, count)
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


def dense_truth(scene: Scene, grid: tuple[int, int]) -> tuple[Int64Array, Int64Array]:
    """What lies under the centre of each cell of a feature grid (rows, columns), and the characters printed in it.

    Returns classes [N, A] and location bins [N, 4] as `DenseTargets` wants them, N = rows * columns in row-major order.
    The classes are those of `ATTRIBUTES`, of `SURFACES`, and then `CHARACTERS` of `LABEL_ALPHABET`.
    """
    height, width = scene.image.shape[:2]
    rows = ((np.arange(grid[0]) + 0.5) * height / grid[0]).astype(int)
    columns = ((np.arange(grid[1]) + 0.5) * width / grid[1]).astype(int)
    objects = np.zeros((grid[0] * grid[1], len(ATTRIBUTES)), dtype=np.int64)
    bins = np.full((grid[0] * grid[1], 4), -1, dtype=np.int64)
    wall = scene.wall_mask[np.ix_(rows, columns)].ravel()
    behind = 0 if scene.wall is None else 1 + SURFACES.index(f"{scene.wall} wall")
    surfaces = np.where(wall, behind, 1 + SURFACES.index(scene.table))
    for item in scene.objects:
        covered = item.mask[np.ix_(rows, columns)].ravel()
        surfaces[covered] = 0
        objects[covered] = [1 + values.index(getattr(item, name)) for name, values in ATTRIBUTES]
        bins[covered] = quantise(item.box.reshape(2, 2), scene.size).reshape(4)
    return np.concatenate([objects, surfaces[:, None], _printed(scene, grid)], axis=1), bins


def _printed(scene: Scene, grid: tuple[int, int]) -> Int64Array:
    """The characters whose centres lie in each cell [N, CHARACTERS], as classes."""
    found = np.zeros((grid[0] * grid[1], CHARACTERS), dtype=np.int64)
    count = np.zeros(len(found), dtype=np.int64)
    for label in scene.labels:
        for character, (x, y) in zip(label.text, label.centres, strict=True):
            cell = int(y * grid[0] / scene.size.height) * grid[1] + int(x * grid[1] / scene.size.width)
            if count[cell] < CHARACTERS:
                found[cell, count[cell]] = 1 + LABEL_ALPHABET.index(character)
                count[cell] += 1
    return found


def characters_under(scene: Scene, grid: tuple[int, int]) -> Int64Array:
    """The character printed under the centre of each cell of a grid [N] int64: 1 + its place in `LABEL_ALPHABET`."""
    height, width = scene.image.shape[:2]
    rows, columns = np.indices(grid).reshape(2, -1) + 0.5
    places = np.stack([columns * width / grid[1], rows * height / grid[0]], axis=1)
    found = np.zeros(len(places), dtype=np.int64)
    for label in scene.labels:
        right = (label.quad[1] - label.quad[0] + label.quad[2] - label.quad[3]) / 2
        down = (label.quad[3] - label.quad[0] + label.quad[2] - label.quad[1]) / 2
        across = np.stack([right, down], axis=1)
        along, below = np.linalg.solve(across, (places - label.quad.mean(axis=0)).T)
        inside = (abs(along) < 0.5) & (abs(below) < 0.5 + _MARGIN)
        centres = np.linalg.solve(across, (label.centres - label.quad.mean(axis=0)).T)[0]
        nearest = abs(along[inside, None] - centres).argmin(axis=1)
        found[inside] = [1 + LABEL_ALPHABET.index(label.text[index]) for index in nearest]
    return found
