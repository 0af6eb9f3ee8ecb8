"""Annotated images as training steps: deterministic, weighted, every image once an epoch, nothing too long."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.errors import InputError
from florence_edge.options import SearchConfig
from florence_edge.tokens import Tokens
from florence_train.batch import collate
from florence_train.data import Dataset, load
from florence_train.data.augment import Augmentation
from florence_train.data.source import RecordSource, draw, fitting
from florence_train.model import FlorenceConfig
from florence_train.recipe import DataRecipe
from florence_train.tiny import tiny_config
from support.vocabularies import small_tokens

WEIGHTS = {"<OD>": 1.0, "<CAPTION>": 3.0}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rows = []
    for index in range(7):
        Image.new("RGB", (40, 30), (index * 30, 0, 0)).save(tmp_path / f"{index}.png")
        rows.append({"image": f"{index}.png", "prefix": "<OD>", "suffix": f"cup<loc_{index}><loc_1><loc_500><loc_600>"})
        rows += [{"image": f"{index}.png", "prefix": "<CAPTION>", "suffix": f"a cup {i}"} for i in range(2)]
        rows.append({"image": f"{index}.png", "prefix": "<OCR>", "suffix": "K7"})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return load(tmp_path / "train.jsonl")


@pytest.fixture
def tokens() -> Tokens:
    return small_tokens()


def make(dataset: Dataset, tokens: Tokens, **changes: Any) -> RecordSource:
    recipe = DataRecipe(**{"weights": WEIGHTS, "source": "x", "images_per_step": 3, "prompts_per_image": 2, **changes})
    return RecordSource(recipe, tiny_config(1600), tokens, dataset)


def spelled(source: RecordSource, steps: range) -> list[Any]:
    return [
        (sample.pixels.mean().item(), [(turn.prompt.tolist(), turn.answer.tolist()) for turn in sample.turns])
        for step in steps
        for sample in source.samples(step)
    ]


def test_steps_are_a_function_of_the_seed(dataset: Dataset, tokens: Tokens) -> None:
    first = spelled(make(dataset, tokens), range(8))
    again = make(dataset, tokens)
    assert spelled(again, range(4, 8)) == first[12:]
    assert spelled(make(dataset, tokens, seed=1), range(8)) != first


def test_every_epoch_takes_every_image_once_in_another_order(dataset: Dataset, tokens: Tokens) -> None:
    seen = [pixels for pixels, _ in spelled(make(dataset, tokens), range(7))]
    epochs = [seen[start : start + 7] for start in (0, 7, 14)]
    assert all(len(set(epoch)) == 7 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_tasks_are_drawn_by_weight_whatever_their_number_of_examples(dataset: Dataset) -> None:
    rng = np.random.default_rng(0)
    examples = dataset.records[0].examples
    drawn = Counter(draw(examples, WEIGHTS, 1, rng)[0].task for _ in range(4000))
    assert drawn["<OCR>"] == 0
    assert drawn["<CAPTION>"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert [example.task for example in draw(examples, WEIGHTS, 9, rng)].count("<CAPTION>") == 2


def test_samples_make_a_batch_and_their_turns_spell_the_answers(dataset: Dataset, tokens: Tokens) -> None:
    source = make(dataset, tokens, prompts_per_image=3)
    samples = source.samples(0)
    batch = collate(samples, SearchConfig())
    assert tuple(batch.pixels.shape) == (3, 3, source.spec.height, source.spec.width)
    assert sorted(image for group in batch.turns for image in group.image_of.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    answers = {tokens.decode(turn.answer) for turn in samples[0].turns}
    assert {"<s>a cup 0</s>", "<s>a cup 1</s>"} < answers
    assert any("<loc_500><loc_600>" in answer for answer in answers)


def test_what_is_too_long_for_the_model_is_listed_before_training(dataset: Dataset, tokens: Tokens) -> None:
    config: FlorenceConfig = tiny_config(1600)
    record = dataset.records[0]
    long = replace(record.examples[1].target, text="abc " * config.text.max_positions)  # type: ignore[call-arg]
    example = replace(record.examples[1], target=long)
    longer = Dataset((replace(record, examples=(*record.examples, example)), *dataset.records[1:]))
    with pytest.raises(InputError, match=r"0.png: <CAPTION>: the answer has \d+ tokens, at most"):
        make(longer, tokens)
    kept = fitting(longer, config, tokens)
    assert [len(record.examples) for record in kept.records] == [4] * 7
    make(kept, tokens)


def test_data_without_a_wanted_task_is_refused(dataset: Dataset, tokens: Tokens) -> None:
    with pytest.raises(InputError, match="no example of the tasks with a weight: <REGION_TO_OCR>"):
        make(dataset, tokens, weights={"<REGION_TO_OCR>": 1.0})


def test_augmented_steps_are_a_function_of_the_seed_too(dataset: Dataset, tokens: Tokens) -> None:
    recipe = DataRecipe(weights={"<OD>": 1.0}, images_per_step=3, prompts_per_image=1)
    plain = spelled(RecordSource(recipe, tiny_config(1600), tokens, dataset), range(4))
    augmented = RecordSource(recipe, tiny_config(1600), tokens, dataset, augmentation=Augmentation())
    drawn = spelled(augmented, range(4))
    assert spelled(augmented, range(2, 4)) == drawn[6:]
    assert sum(a != b for a, b in zip(plain, drawn, strict=True)) > 6
