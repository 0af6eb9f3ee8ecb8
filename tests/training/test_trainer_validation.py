from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from florence_edge.errors import InputError
from florence_edge.options import SearchConfig
from florence_train.batch import collate
from florence_train.data import Dataset, Record
from florence_train.held_out import HeldOutLoss, HeldOutMetric, split
from florence_train.loop.validation import Validation
from florence_train.losses import answer_loss
from florence_train.model import FlorenceModel
from florence_train.recipe import ValidationRecipe
from support.squares import STILL, VOCABULARY, Squares, make_model, make_recipe, run_squares


class Script:
    """Says the values of a list, one for each measurement."""

    def __init__(self, values: list[float], *, lower_is_better: bool = False) -> None:
        self.values, self.lower_is_better = iter(values), lower_is_better

    def __call__(self, model: FlorenceModel) -> float:
        assert not model.training
        return next(self.values)


def _validation(values: list[float], kept: list[int], *, patience: int = 0, lower: bool = False) -> Validation:
    recipe = ValidationRecipe(every=2, share=0.1, metric="<OD> mAP", patience=patience)
    return Validation(recipe, Script(values, lower_is_better=lower), keep=lambda model, step: kept.append(step))


@pytest.mark.parametrize(
    ("values", "lower", "steps"),
    [
        ([0.1, 0.3, 0.2, 0.3, 0.4], False, [2, 4, 10]),
        ([0.5, 0.3, 0.4, 0.3, 0.2], True, [2, 4, 10]),
        ([math.nan, math.nan, 0.0, math.nan, 0.1], False, [2, 6, 10]),
    ],
)
def test_only_better_weights_are_kept(tmp_path: Path, values: list[float], lower: bool, steps: list[int]) -> None:
    kept: list[int] = []
    validation = _validation(values, kept, lower=lower)
    run_squares(tmp_path, make_recipe(10), validation=validation)
    assert kept == steps
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    told = [(line["step"], line[validation.name]) for line in lines if validation.name in line]
    assert [step for step, _ in told] == [2, 4, 6, 8, 10]
    assert [value for _, value in told] == pytest.approx(values, nan_ok=True)


def test_a_run_without_improvement_ends_and_stays_ended(tmp_path: Path) -> None:
    kept: list[int] = []
    values = [0.1, 0.3, 0.2, 0.1, 0.9]
    outcome, losses = run_squares(tmp_path, make_recipe(12), validation=_validation(values, kept, patience=2))
    assert (outcome.finished, outcome.step, len(losses), kept) == (True, 8, 8, [2, 4])
    again, losses = run_squares(tmp_path, make_recipe(12), validation=_validation([], kept, patience=2))
    assert (again.finished, again.step, losses) == (True, 8, [])


def test_a_resumed_run_remembers_the_best_and_how_long_ago_it_was(tmp_path: Path) -> None:
    kept: list[int] = []
    run_squares(tmp_path, make_recipe(12), until=5, validation=_validation([0.5, 0.3], kept, patience=3))
    outcome, _ = run_squares(tmp_path, make_recipe(12), validation=_validation([0.4, 0.45], kept, patience=3))
    assert (outcome.step, outcome.finished, kept) == (8, True, [2])


def test_measuring_changes_nothing_of_the_training(tmp_path: Path) -> None:
    _, losses = run_squares(tmp_path / "alone", make_recipe(6))
    judge = HeldOutLoss(Squares(), 2, torch.device("cpu"))
    validation = Validation(ValidationRecipe(every=2, share=0.1), judge, keep=lambda model, step: None, baseline=True)
    assert run_squares(tmp_path / "measured", make_recipe(6), validation=validation)[1] == losses
    assert 0 < validation.best_value < math.inf


def test_the_start_is_measured_before_the_first_step_only(tmp_path: Path) -> None:
    kept: list[int] = []
    recipe = ValidationRecipe(every=100, share=0.1)
    for values in ([0.5], []):
        validation = Validation(recipe, Script(values), keep=lambda model, step: kept.append(step), baseline=True)
        run_squares(tmp_path, make_recipe(4), until=2, validation=validation)
    assert kept == [0]


def test_the_held_out_loss_is_the_mean_over_all_answer_tokens() -> None:
    model = make_model(STILL).eval()
    whole = collate(Squares(6).samples(0), SearchConfig())
    logits = [
        model.decode(model.encode_image(whole.pixels)[g.image_of], g.prompt_ids, g.decoder_ids, g.prompt_mask)
        for g in whole.turns
    ]
    flat = torch.cat([value.flatten(0, 1) for value in logits])
    labels = torch.cat([group.labels.flatten() for group in whole.turns])
    wanted = float(answer_loss(flat, labels, VOCABULARY).total.detach())
    assert HeldOutLoss(Squares(2), 3, torch.device("cpu"))(model) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("metric", "lower"), [("mAP", False), ("CER", True), ("ECE", True), ("ECE at IoU 0.5", True)])
def test_errors_are_better_when_lower(metric: str, lower: bool) -> None:
    judge = HeldOutMetric((), "<OD>", metric, beams=1, write=lambda model, folder: None)
    assert judge.lower_is_better is lower


def test_a_share_is_held_out_the_same_way_every_time() -> None:
    records = tuple(Record(str(i), None, None, ()) for i in range(20))  # type: ignore[arg-type]  # not looked at
    train, held = split(Dataset(records), 0.2, seed=3)
    assert (len(train), len(held)) == (16, 4)
    assert {record.name for record in (*train.records, *held.records)} == {record.name for record in records}
    assert split(Dataset(records), 0.2, seed=3)[1].records == held.records
    assert split(Dataset(records), 0.2, seed=4)[1].records != held.records
    assert [len(part) for part in split(Dataset(records[:2]), 0.01, seed=0)] == [1, 1]
    with pytest.raises(InputError, match="more images"):
        split(replace(Dataset(records), records=records[:1]), 0.5, seed=0)
