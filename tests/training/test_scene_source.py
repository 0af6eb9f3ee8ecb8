from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from florence_edge.geometry import ImageSize
from florence_edge.grammar import parse_ids, prompt_for
from florence_edge.preprocess import ImageSpec
from florence_edge.results import Detections
from florence_edge.tasks import find
from florence_edge.tokens import Tokens
from florence_train.batch import Sample
from florence_train.corpus import READING, texts
from florence_train.model import FlorenceModel
from florence_train.model.config import FlorenceConfig
from florence_train.recipe import DataRecipe, Stage
from florence_train.scenes import SceneSource
from florence_train.scratch import order_locations
from florence_train.tabletop import TabletopConfig, examples, render, split_seed
from florence_train.tiny import tiny_config
from florence_train.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens(train_tokenizer(texts(4), text_tokens=400))


def _config(tokens: Tokens) -> FlorenceConfig:
    return replace(tiny_config(tokens.vocabulary.size), image=ImageSpec(height=96, width=96))


def _recipe(**changes: object) -> DataRecipe:
    recipe = DataRecipe(weights={"<OD>": 1.0, "<CAPTION>": 1.0}, images_per_step=2, prompts_per_image=2, workers=0)
    return replace(recipe, **changes)  # type: ignore[arg-type]


def _same(one: Sample, other: Sample) -> bool:
    pairs = [(one.pixels, other.pixels), *zip(one.dense or (), other.dense or (), strict=True)]
    turns = zip(one.turns, other.turns, strict=True)
    pairs += [pair for a, b in turns for pair in ((a.prompt, b.prompt), (a.answer, b.answer))]
    return all(np.array_equal(a, b) for a, b in pairs)  # type: ignore[arg-type]


def test_a_step_is_the_same_whenever_it_is_asked_for(tokens: Tokens) -> None:
    source, later = (SceneSource(_recipe(), _config(tokens), tokens) for _ in range(2))
    first, second = source.samples(0), source.samples(1)
    assert all(map(_same, later.samples(1), second))
    assert all(map(_same, later.samples(0), first))
    assert not _same(first[0], second[0])


def test_answers_are_the_truth_of_the_scene(tokens: Tokens) -> None:
    source = SceneSource(_recipe(weights={"<OD>": 1.0}), _config(tokens), tokens)
    for index, sample in enumerate(source.samples(0)):
        scene = render(split_seed("train"), index, TabletopConfig(height=96, width=96))
        (turn,) = sample.turns
        read = parse_ids(find("<OD>"), turn.answer, scene.size, tokens=tokens)
        (example,) = [found for found in examples(scene, np.random.default_rng(0)) if found.task == "<OD>"]
        assert isinstance(read, Detections)
        assert isinstance(example.target, Detections)
        assert read.labels == example.target.labels
        np.testing.assert_allclose(read.boxes, example.target.boxes, atol=96 / 1000)


def test_the_curriculum_takes_the_last_stage_that_has_begun(tokens: Tokens) -> None:
    stages = (Stage(0, {"objects": (1, 1), "labels": 0.0}), Stage(2, {"objects": (5, 5), "labels": 0.0}))
    source = SceneSource(_recipe(stages=stages, weights={"<OD>": 1.0}), _config(tokens), tokens)

    def most(step: int) -> int:
        answers = [turn.answer for sample in source.samples(step) for turn in sample.turns]
        return max(len(parse_ids(find("<OD>"), ids, (96, 96), tokens=tokens)) for ids in answers)

    assert most(0) == most(1) == 1
    assert most(2) > 1


def test_a_stage_may_weigh_the_tasks_anew_and_ask_for_several_slips(tokens: Tokens) -> None:
    slips = Stage(1, {"labels": 0.0, "slips": 6}, weights={"<REGION_TO_OCR>": 1.0})
    source = SceneSource(_recipe(stages=(slips,), weights={"<CAPTION>": 1.0}), _config(tokens), tokens)

    def prompts(step: int) -> list[set[str]]:
        return [{tokens.decode(turn.prompt[1:-1]) for turn in sample.turns} for sample in source.samples(step)]

    assert set().union(*prompts(0)) == {prompt_for(find("<CAPTION>"), None, ImageSize(96, 96))}
    assert all(prompt.startswith("What text is in the region") for asked in prompts(1) for prompt in asked)
    assert max(len(asked) for asked in prompts(1)) > 1


def test_location_embeddings_begin_ordered_and_all_else_as_it_was(tokens: Tokens) -> None:
    torch.manual_seed(0)
    model = FlorenceModel(_config(tokens))
    before = model.embedding.weight.detach().clone()
    order_locations(model, tokens.vocabulary)
    first = tokens.vocabulary.first_location
    rows = model.embedding.weight[first : first + 1000].detach()
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(1000))
    alike = [(rows[:-gap] * rows[gap:]).sum(dim=1).mean().item() for gap in (1, 5, 50, 300)]
    assert alike == sorted(alike, reverse=True)
    assert alike[0] > 0.95
    assert torch.equal(model.embedding.weight[:first], before[:first])
    assert torch.equal(model.embedding.weight[first + 1000 :], before[first + 1000 :])


def test_the_corpus_holds_no_printed_label() -> None:
    said = set(texts(30))
    printed = {
        label.text
        for index in range(30)
        for label in render(split_seed("train"), index, TabletopConfig(height=96, width=96, supersample=1)).labels
    }
    assert printed
    assert not printed & said
    assert len(READING) == 3
