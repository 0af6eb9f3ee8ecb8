"""A toy task that the trainer's tests share: where is the bright square? Small enough for a step in milliseconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from florence_edge.preprocess import ImageSpec
from florence_edge.vocabulary import Vocabulary
from florence_train.auxiliary import DenseClasses
from florence_train.batch import Sample, Turn
from florence_train.loop.devices import Devices
from florence_train.loop.validation import Validation
from florence_train.model import FlorenceModel
from florence_train.model.config import FlorenceConfig, TextConfig, VisionConfig
from florence_train.recipe import ComputeRecipe, DataRecipe, LossRecipe, OptimizerRecipe, OutputRecipe, Recipe
from florence_train.scratch import order_locations
from florence_train.trainer import Outcome, Trainer

VOCABULARY = Vocabulary(first=16)
IMAGES = 4
CONFIG = FlorenceConfig(
    vision=VisionConfig(
        dims=(8, 16),
        depths=(1, 1),
        heads=(1, 2),
        groups=(1, 2),
        patch_sizes=(7, 3),
        patch_strides=(4, 2),
        patch_paddings=(3, 1),
        patch_prenorms=(False, True),
        window=4,
        drop_path_rate=0.2,
        max_grid=8,
    ),
    text=TextConfig(
        vocab_size=VOCABULARY.size,
        dim=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_heads=2,
        decoder_heads=2,
        encoder_ffn=32,
        decoder_ffn=32,
        max_positions=64,
        dropout=0.1,
    ),
    image=ImageSpec(height=32, width=32),
)
STILL = replace(CONFIG, vision=replace(CONFIG.vision, drop_path_rate=0.0), text=replace(CONFIG.text, dropout=0.0))
"""The same without anything random."""


class Squares:
    """Pictures of one bright square and the question where it is; every third picture has no such question."""

    vocabulary = VOCABULARY
    dense_classes = DenseClasses((1,), (1,), (2,))

    def __init__(self, images: int = IMAGES) -> None:
        self.images = images

    def samples(self, step: int) -> list[Sample]:
        return [self._one(step * self.images + index) for index in range(self.images)]

    def _one(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        x, y = rng.integers(0, 24, 2)
        pixels = rng.normal(0, 0.1, (3, 32, 32)).astype(np.float32)
        pixels[:, y : y + 8, x : x + 8] += 2
        bins = np.array([x, y, x + 8, y + 8]) * 1000 // 33
        centres = np.arange(4) * 8 + 4
        under = (abs(centres[:, None] - y - 4) < 4) & (abs(centres[None] - x - 4) < 4)
        where = np.concatenate([[0, 5], VOCABULARY.first_location + bins, [2]])
        turns = (Turn(np.array([0, 6, 7, 2]), np.array([0, 8, 2])), Turn(np.array([0, 4, 2]), where))
        truth = under.reshape(-1, 1).astype(np.int64), np.where(under.reshape(-1, 1), bins, -1)
        finer = CONFIG.vision.grids(32, 32)[-2][0] // 4
        return Sample(
            pixels,
            turns[: 1 if index % 3 == 2 else 2],
            dense=(
                *truth,
                under.repeat(finer, 0).repeat(finer, 1).reshape(-1, 1).astype(np.int64),
                np.array([int(x < 12)], dtype=np.int64),
            ),
        )


def make_recipe(steps: int, *, compute: ComputeRecipe | None = None, **optimizer: float) -> Recipe:
    """A recipe with every loss on, a log line and often a state for every step."""
    return Recipe(
        data=DataRecipe(weights={"<OD>": 1.0}, workers=0, images_per_step=IMAGES),
        optimizer=OptimizerRecipe(steps=steps, warmup_steps=4, ema=0.9, **optimizer),  # type: ignore[arg-type]  # floats
        loss=LossRecipe(location_sigma=(20.0, 2.0), dense=1.0),
        output=OutputRecipe(save_every=3, log_every=1),
        model=CONFIG,
        compute=compute or ComputeRecipe(),
    )


def make_model(config: FlorenceConfig = CONFIG) -> FlorenceModel:
    """Always the same weights."""
    torch.manual_seed(0)
    model = FlorenceModel(config)
    order_locations(model, VOCABULARY)
    return model


def run_squares(
    folder: Path,
    recipe: Recipe,
    *,
    until: int | None = None,
    config: FlorenceConfig = CONFIG,
    devices: Devices | None = None,
    validation: Validation | None = None,
) -> tuple[Outcome, list[float]]:
    """A run, and its loss in every step."""
    losses: list[float] = []
    devices = devices or Devices()
    source = Squares(IMAGES // (devices.world * recipe.compute.accumulate))
    trainer = Trainer(recipe, source, make_model(config), folder=folder, devices=devices, validation=validation)
    outcome = trainer.run(until=until, report=lambda line: losses.append(line["loss"]) if "loss" in line else None)
    return outcome, losses
