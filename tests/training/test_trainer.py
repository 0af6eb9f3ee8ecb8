from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from florence_edge.errors import InputError
from florence_edge.options import SearchConfig
from florence_train.batch import GROUP, Sample, collate
from florence_train.loop.averages import Averages
from florence_train.losses import IGNORE
from florence_train.recipe import LossRecipe
from florence_train.trainer import Trainer
from support.squares import STILL, Squares, make_model, make_recipe, run_squares


class OneBatch(Squares):
    def samples(self, step: int) -> list[Sample]:
        return super().samples(0)


def test_collate_masks_padding_and_shifts_the_answer() -> None:
    (group,) = collate(Squares().samples(0)[:1], SearchConfig()).turns
    assert group.image_of.tolist() == [0, 0]
    assert group.prompt_mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert group.labels[0].tolist() == [0, 8, 2] + [IGNORE] * 4
    assert group.decoder_ids[0, :3].tolist() == [2, 0, 8]
    assert torch.equal(group.decoder_ids[1, 1:], group.labels[1, :-1])


def test_answers_of_like_length_are_padded_together() -> None:
    batch = collate([sample for step in range(5) for sample in Squares().samples(step)], SearchConfig())
    assert [len(group.labels) for group in batch.turns] == [GROUP, GROUP, 10]
    assert [group.labels.shape[1] for group in batch.turns] == [3, 7, 7]
    assert len(batch.labels()) == 20 * 3 + 14 * 7
    assert IGNORE not in batch.labels()


def test_a_batch_without_prompts_has_no_labels() -> None:
    batch = collate([replace(sample, turns=()) for sample in Squares().samples(0)], SearchConfig())
    assert (len(batch.turns), len(batch.labels())) == (0, 0)


def test_a_batch_has_dense_targets_where_every_sample_has() -> None:
    first, second, *_ = Squares().samples(0)
    assert collate([first, second], SearchConfig()).dense is not None
    assert collate([first, replace(second, dense=None)], SearchConfig()).dense is None


def test_the_average_forgets_the_start_and_then_moves_slowly() -> None:
    """Of a weight that jumps from 0 to 1, and of a counter, which has no average."""
    model = torch.nn.BatchNorm1d(1)
    torch.nn.init.zeros_(model.weight)
    averages = Averages(model, 0.5)
    torch.nn.init.ones_(model.weight)
    left = 1.0
    for step in range(20):
        model.num_batches_tracked = torch.tensor(step + 1)
        averages.move(model, step)
        left *= min(0.5, (1 + step) / (10 + step))
        assert averages.values["weight"].item() == pytest.approx(1 - left)
        assert averages.values["num_batches_tracked"] == step + 1
    saved = {name: value + 1 for name, value in averages.values.items()}
    averages.restore(saved)
    assert averages.values == saved


def test_one_batch_is_learnt_by_heart(tmp_path: Path) -> None:
    recipe = replace(make_recipe(250, learning_rate=1e-2, weight_decay=0.0), loss=LossRecipe())
    losses: list[float] = []
    trainer = Trainer(recipe, OneBatch(), make_model(STILL), folder=tmp_path)
    trainer.run(report=lambda line: losses.append(line["loss"]))
    assert losses[0] > 3
    assert losses[-1] < 0.05


def test_a_resumed_run_has_the_losses_and_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    recipe = make_recipe(12)
    whole, unbroken = run_squares(tmp_path / "whole", recipe)
    first, before = run_squares(tmp_path / "parts", recipe, until=5)
    assert (first.step, first.finished) == (5, False)
    torch.manual_seed(1234)
    second, after = run_squares(tmp_path / "parts", recipe)
    assert second.finished
    assert before + after == unbroken
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    run_squares(tmp_path, make_recipe(12), until=2)
    with pytest.raises(InputError, match="another recipe"):
        run_squares(tmp_path, make_recipe(13))


def test_a_state_of_the_first_version_goes_on(tmp_path: Path) -> None:
    recipe = make_recipe(6)
    _, unbroken = run_squares(tmp_path / "whole", recipe)
    _, before = run_squares(tmp_path / "old", recipe, until=4)
    path = tmp_path / "old" / "state.pt"
    state = torch.load(path, weights_only=True)
    known = {key: state[key] for key in ("recipe", "step", "model", "heads", "optimizer", "ema")}
    torch.save({**known, "random": torch.get_rng_state()}, path)
    assert before + run_squares(tmp_path / "old", recipe)[1] == unbroken


def test_the_state_leaves_out_what_is_frozen(tmp_path: Path) -> None:
    model = make_model()
    model.vision.requires_grad_(False)
    Trainer(make_recipe(2), Squares(), model, folder=tmp_path).run()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for part in ("model", "ema"):
        assert state[part]
        assert not any(name.startswith("vision.") for name in state[part])


def test_steps_that_are_computed_again_are_logged_once(tmp_path: Path) -> None:
    recipe = make_recipe(6)
    run_squares(tmp_path, recipe, until=3)
    log = tmp_path / "log.jsonl"
    kept = (tmp_path / "state.pt").read_bytes()
    run_squares(tmp_path, recipe, until=5)
    (tmp_path / "state.pt").write_bytes(kept)
    with log.open("a", encoding="utf-8") as file:
        file.write('{"loss": 1.0, "st')
    run_squares(tmp_path, recipe)
    assert [json.loads(line)["step"] for line in log.read_text(encoding="utf-8").splitlines()] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_shows_the_numbers_of_the_log(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = make_recipe(4)
    run_squares(tmp_path, replace(recipe, output=replace(recipe.output, tensorboard=True)))
    shown = events.EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    for key in ("loss", "rate", "gradient"):
        assert [event.step for event in shown.Scalars(key)] == [1, 2, 3, 4]
        assert [event.value for event in shown.Scalars(key)] == pytest.approx([line[key] for line in logged])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_the_run(tmp_path: Path, number: signal.Signals) -> None:
    def interrupt(line: dict[str, float]) -> None:
        if line["step"] == 2:
            os.kill(os.getpid(), number)

    outcome = Trainer(make_recipe(12), Squares(), make_model(), folder=tmp_path).run(report=interrupt)
    assert not outcome.finished
    assert outcome.step < 12
    resumed, losses = run_squares(tmp_path, make_recipe(12))
    assert resumed.finished
    assert len(losses) == 12 - outcome.step


def test_a_kill_while_saving_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_squares(tmp_path, make_recipe(12), until=3)
    kept = (tmp_path / "state.pt").read_bytes()

    def die(value: object, stream: BinaryIO) -> None:
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        run_squares(tmp_path, make_recipe(12), until=6)
    assert (tmp_path / "state.pt").read_bytes() == kept
