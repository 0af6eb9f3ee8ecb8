from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import torch
from PIL import Image

from florence_edge.geometry import ImageSize
from florence_edge.grammar import parse_ids, prompt_for
from florence_edge.locations import dequantise
from florence_edge.preprocess import ImageSpec
from florence_edge.results import Detections
from florence_edge.tasks import find
from florence_edge.tokens import Tokens
from florence_train.batch import Sample
from florence_train.corpus import READING, texts
from florence_train.model import FlorenceModel
from florence_train.model.config import FlorenceConfig
from florence_train.recipe import DataRecipe, Stage
from florence_train.scenes import ATTRIBUTES, CHARACTERS, SURFACES, SceneSource, characters_under, dense_truth
from florence_train.scratch import order_locations
from florence_train.tabletop import TabletopConfig, examples, render, split_seed
from florence_train.tabletop.vocabulary import LABEL_ALPHABET
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


def test_the_dense_truth_is_what_lies_under_each_cell() -> None:
    scene = render(split_seed("val"), 3, TabletopConfig(height=96, width=96, objects=(3, 6)))
    classes, bins = dense_truth(scene, (6, 8))
    seen: set[int | str] = set()
    for cell, (row, column) in enumerate(np.ndindex(6, 8)):
        y, x = int((row + 0.5) * 16), int((column + 0.5) * 12)
        owners = [thing for thing in scene.objects if thing.mask[y, x]]
        about = classes[cell, : len(ATTRIBUTES)]
        assert (about > 0).all() == bool(owners)
        assert (bins[cell] >= 0).all() == bool(owners)
        for thing in owners:
            seen.add(thing.depth)
            named = [values[index - 1] for (_, values), index in zip(ATTRIBUTES, about, strict=True)]
            assert named == [thing.kind, thing.colour, thing.size, thing.texture]
            box = dequantise(bins[cell].reshape(2, 2), scene.size).reshape(4)
            np.testing.assert_allclose(box, thing.box, atol=96 / 1000)
        surface = classes[cell, len(ATTRIBUTES)]
        assert (surface == 0) == bool(owners)
        if not owners:
            behind = f"{scene.wall} wall" if scene.wall_mask[y, x] else scene.table
            assert SURFACES[surface - 1] == behind
            seen.add(behind)
    assert len(seen) > 3


def test_the_wall_is_where_the_table_ends() -> None:
    """Below the line the picture changes with the table, above it with the wall: told by scenes without a wall."""
    shares = []
    for index in range(12):
        scene = render(split_seed("val"), index, TabletopConfig(height=96, width=96))
        assert (scene.wall_mask[:-1] >= scene.wall_mask[1:]).all(), "above, never below"
        assert (scene.wall is not None) == bool(scene.wall_mask.mean() > 0.02)
        shares.append(scene.wall_mask.mean())
    assert max(shares) > 0.2


def test_the_dense_truth_spells_what_is_printed() -> None:
    read = 0
    for index in range(6):
        scene = render(split_seed("val"), index, TabletopConfig(height=192, width=192, labels=1.0, objects=(1, 2)))
        classes, _ = dense_truth(scene, (24, 24))
        cells = classes[:, len(ATTRIBUTES) + 1 :].reshape(24, 24, CHARACTERS)
        assert ((cells[..., 1:] == 0) | (cells[..., :-1] > 0)).all(), "no gaps"
        for label in scene.labels:
            low, high = label.quad.min(axis=0) / 8 - 0.5, label.quad.max(axis=0) / 8 + 0.5
            (left, top), (right, bottom) = np.maximum(low, 0).astype(int), high.astype(int)
            columns = cells[top : bottom + 1, left : right + 1].transpose(1, 0, 2).reshape(-1)
            assert sorted(LABEL_ALPHABET[i - 1] for i in columns if i) == sorted(label.text)
            read += 1
    assert read >= 4


def test_each_cell_shows_the_character_printed_under_its_centre() -> None:
    """With cells as small as pixels, the characters of a label stand in columns of its straightened quad."""
    read = 0
    for index in range(6):
        scene = render(split_seed("val"), index, TabletopConfig(height=192, width=192, labels=1.0, objects=(1, 2)))
        under = characters_under(scene, (192, 192))
        assert bool(under.any()) == bool(scene.labels)
        for label in scene.labels:
            corners = [value for i in (0, 3, 2, 1) for value in label.quad[i].tolist()]
            shown = Image.fromarray(under.reshape(192, 192).astype(np.uint8))
            straight = np.asarray(shown.transform((96, 9), Image.Transform.QUAD, corners, Image.Resampling.NEAREST))
            row = [LABEL_ALPHABET[value - 1] for value in straight[4] if value]
            assert len(row) > 80
            runs = [character for character, _ in groupby(row)]
            assert runs == [character for character, _ in groupby(label.text)]
            read += 1
    assert read >= 4


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
