from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from florence_edge.errors import InputError
from florence_edge.options import SearchConfig
from florence_edge.preprocess import ImageSpec
from florence_edge.vocabulary import Vocabulary
from florence_train.batch import Sample, Turn, collate
from florence_train.losses import IGNORE
from florence_train.model import FlorenceModel
from florence_train.model.config import FlorenceConfig, TextConfig, VisionConfig
from florence_train.recipe import DataRecipe, LossRecipe, OptimizerRecipe, OutputRecipe, Recipe
from florence_train.scratch import order_locations
from florence_train.trainer import Outcome, Trainer

VOCABULARY = Vocabulary(first=16)
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


class Squares:
    """Pictures of one bright square and the question where it is."""

    vocabulary = VOCABULARY
    attribute_classes: tuple[int, ...] = (1,)

    def samples(self, step: int) -> list[Sample]:
        return [self._one(np.random.default_rng([step, index])) for index in range(4)]

    def _one(self, rng: np.random.Generator) -> Sample:
        x, y = rng.integers(0, 24, 2)
        pixels = rng.normal(0, 0.1, (3, 32, 32)).astype(np.float32)
        pixels[:, y : y + 8, x : x + 8] += 2
        bins = np.array([x, y, x + 8, y + 8]) * 1000 // 33
        centres = np.arange(4) * 8 + 4
        under = (abs(centres[:, None] - y - 4) < 4) & (abs(centres[None] - x - 4) < 4)
        where = np.concatenate([[0, 5], VOCABULARY.first_location + bins, [2]])
        turns = (Turn(np.array([0, 4, 2]), where), Turn(np.array([0, 6, 7, 2]), np.array([0, 8, 2])))
        dense = np.where(under.reshape(-1, 1), bins, -1)
        return Sample(pixels, turns, under.reshape(-1, 1).astype(np.int64), dense)


class OneBatch(Squares):
    def samples(self, step: int) -> list[Sample]:
        return super().samples(0)


def _recipe(steps: int, **optimizer: float) -> Recipe:
    return Recipe(
        data=DataRecipe(weights={"<OD>": 1.0}, workers=0),
        optimizer=OptimizerRecipe(steps=steps, warmup_steps=4, ema=0.9, **optimizer),  # type: ignore[arg-type]
        loss=LossRecipe(location_sigma=(20.0, 2.0), dense=1.0),
        output=OutputRecipe(save_every=3, log_every=1),
        model=CONFIG,
    )


def _model() -> FlorenceModel:
    torch.manual_seed(0)
    model = FlorenceModel(CONFIG)
    order_locations(model, VOCABULARY)
    return model


def _run(folder: Path, recipe: Recipe, *, until: int | None = None) -> tuple[Outcome, list[float]]:
    losses: list[float] = []
    trainer = Trainer(recipe, Squares(), _model(), folder=folder)
    return trainer.run(until=until, report=lambda line: losses.append(line["loss"])), losses


def test_collate_masks_padding_and_shifts_the_answer() -> None:
    batch = collate(Squares().samples(0)[:1], SearchConfig())
    assert batch.image_of.tolist() == [0, 0]
    assert batch.prompt_mask.tolist() == [[True] * 3 + [False], [True] * 4]
    assert batch.labels[1].tolist() == [0, 8, 2] + [IGNORE] * 4
    assert batch.decoder_ids[1, :3].tolist() == [2, 0, 8]
    assert torch.equal(batch.decoder_ids[0, 1:], batch.labels[0, :-1])


def test_one_batch_is_learnt_by_heart(tmp_path: Path) -> None:
    recipe = replace(_recipe(250, learning_rate=1e-2, weight_decay=0.0), loss=LossRecipe())
    still = replace(CONFIG, vision=replace(CONFIG.vision, drop_path_rate=0.0), text=replace(CONFIG.text, dropout=0.0))
    torch.manual_seed(0)
    losses: list[float] = []
    trainer = Trainer(recipe, OneBatch(), FlorenceModel(still), folder=tmp_path)
    trainer.run(report=lambda line: losses.append(line["loss"]))
    assert losses[0] > 3
    assert losses[-1] < 0.05


def test_a_resumed_run_has_the_losses_and_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    recipe = _recipe(12)
    whole, unbroken = _run(tmp_path / "whole", recipe)
    first, before = _run(tmp_path / "parts", recipe, until=5)
    assert (first.step, first.finished) == (5, False)
    torch.manual_seed(1234)
    second, after = _run(tmp_path / "parts", recipe)
    assert second.finished
    assert before + after == unbroken
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    _run(tmp_path, _recipe(12), until=2)
    with pytest.raises(InputError, match="another recipe"):
        _run(tmp_path, _recipe(13))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_the_run(tmp_path: Path, number: signal.Signals) -> None:
    def interrupt(line: dict[str, float]) -> None:
        if line["step"] == 2:
            os.kill(os.getpid(), number)

    outcome = Trainer(_recipe(12), Squares(), _model(), folder=tmp_path).run(report=interrupt)
    assert not outcome.finished
    assert outcome.step < 12
    resumed, losses = _run(tmp_path, _recipe(12))
    assert resumed.finished
    assert len(losses) == 12 - outcome.step


def test_a_kill_while_saving_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(tmp_path, _recipe(12), until=3)
    kept = (tmp_path / "state.pt").read_bytes()

    def die(value: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, _recipe(12), until=6)
    assert (tmp_path / "state.pt").read_bytes() == kept
