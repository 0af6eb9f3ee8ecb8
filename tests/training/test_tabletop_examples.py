"""Questions and answers about a scene: all tasks, unambiguous phrases, and captions that say what is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest

from florence_edge.results import Detections, Polygons, Quads, Text
from florence_edge.tasks import TASKS, Grammar, InputKind
from florence_train.tabletop import NOTHING, Example, Scene, SceneObject, examples, render, split_seed
from florence_train.tabletop.captions import brief, detailed, paragraph
from florence_train.tabletop.vocabulary import COLOURS, KINDS, NUMBERS, SIZES, TEXTURES

RELATION = re.compile(r" (left of|right of|behind|in front of) ")


@pytest.fixture(scope="module")
def posed() -> list[tuple[Scene, list[Example]]]:
    scenes = [render(split_seed("test", 1), index) for index in range(70)]
    return [(scene, examples(scene, np.random.default_rng(scene.index), per_task=3)) for scene in scenes]


def _of(posed: list[tuple[Scene, list[Example]]], task: str) -> Iterator[tuple[Scene, Example]]:
    for scene, found in posed:
        yield from ((scene, example) for example in found if example.task == task)


def _fits(words: str, thing: SceneObject) -> bool:
    """Reads a noun phrase on its own: every word must be true of the object, and the last is its kind."""
    *attributes, kind = re.sub(r"^(a|an|the) ", "", words.lower()).split()
    known = {thing.colour, thing.size, TEXTURES[thing.texture]}
    return kind == thing.kind and all(word in known for word in attributes)


def _meant(expression: str, scene: Scene) -> list[int]:
    """Objects that an expression can mean, by trying every pair; a near tie of centres counts as either way round."""
    match = RELATION.search(expression)
    if match is None:
        return [i for i, thing in enumerate(scene.objects) if _fits(expression, thing)]
    head, anchor = expression[: match.start()], expression[match.end() :].rstrip(".")
    found = []
    for i, thing in enumerate(scene.objects):
        for j, other in enumerate(scene.objects):
            if i != j and _fits(head, thing) and _fits(anchor, other) and _lies(thing, match[1], other, scene):
                found.append(i)
    return sorted(set(found))


def _lies(a: SceneObject, relation: str, b: SceneObject, scene: Scene) -> bool:
    slack = 0.02 * scene.size.width
    return {
        "left of": a.centre[0] < b.centre[0] + slack,
        "right of": a.centre[0] > b.centre[0] - slack,
        "behind": a.ground[1] > b.ground[1] + 0.4,
        "in front of": a.ground[1] < b.ground[1] - 0.4,
    }[relation]


def test_every_task_is_posed_in_the_order_of_the_table(posed: list[tuple[Scene, list[Example]]]) -> None:
    order = [task.token for task in TASKS]
    assert {example.task for _, found in posed for example in found} == set(order)
    for _, found in posed:
        places = [order.index(example.task) for example in found]
        assert places == sorted(places)


def test_a_scene_with_objects_and_a_label_poses_all_fifteen(posed: list[tuple[Scene, list[Example]]]) -> None:
    full = [
        found
        for scene, found in posed
        if scene.labels and len({(t.kind, t.colour) for t in scene.objects}) == len(scene.objects) >= 2
    ]
    assert full
    for found in full:
        assert {example.task for example in found} == {task.token for task in TASKS}


def test_inputs_and_answers_have_the_form_of_the_task(posed: list[tuple[Scene, list[Example]]]) -> None:
    inputs: dict[InputKind, type] = {
        InputKind.NONE: type(None),
        InputKind.PHRASE: str,
        InputKind.CLASSES: tuple,
        InputKind.BOX: tuple,
    }
    answers: dict[Grammar, type] = {
        Grammar.TEXT: Text,
        Grammar.QUADS: Quads,
        Grammar.POLYGONS: Polygons,
        Grammar.LABELLED_BOXES: Detections,
        Grammar.BOXES: Detections,
        Grammar.PHRASE_BOXES: Detections,
        Grammar.LABELLED_BOXES_OR_POLYGONS: Detections,
    }
    rows = {task.token: task for task in TASKS}
    for scene, found in posed:
        for example in found:
            task = rows[example.task]
            assert isinstance(example.input, inputs[task.input])
            nothing = isinstance(example.target, Text) and example.target.text == NOTHING
            assert nothing or isinstance(example.target, answers[task.grammar])
            assert example.target.task == example.task
            assert example.target.size == scene.size


def test_same_generator_gives_the_same_examples() -> None:
    scene = render(0, 4)
    first, second = (examples(scene, np.random.default_rng(9)) for _ in range(2))
    assert [(e.task, e.input, e.target.to_json()) for e in first] == [
        (e.task, e.input, e.target.to_json()) for e in second
    ]


def test_referring_expressions_mean_one_object(posed: list[tuple[Scene, list[Example]]]) -> None:
    with_relation = 0
    for scene, example in _of(posed, "<REFERRING_EXPRESSION_SEGMENTATION>"):
        assert isinstance(example.input, str)
        assert isinstance(example.target, Polygons)
        meant = _meant(example.input, scene)
        assert len(meant) == 1, (scene.index, example.input)
        assert example.target.polygons[0] is scene.objects[meant[0]].polygons
        with_relation += RELATION.search(example.input) is not None
    assert with_relation >= 10


def test_grounded_phrases_mean_one_object_each(posed: list[tuple[Scene, list[Example]]]) -> None:
    for scene, example in _of(posed, "<CAPTION_TO_PHRASE_GROUNDING>"):
        assert isinstance(example.input, str)
        assert isinstance(example.target, Detections)
        places = [example.input.find(label) for label in example.target.labels]
        assert places == sorted(places)
        assert places[0] == 0
        rest = example.input
        for label in example.target.labels:
            rest = rest.replace(label, "", 1)
        assert not set(rest.replace(",", " ").replace(".", " ").split()) & {*KINDS, *COLOURS}, "a phrase has no box"
        meant = [_meant(label, scene) for label in example.target.labels]
        if RELATION.search(example.input):
            meant[0] = _meant(example.input, scene)
        for indices, box in zip(meant, example.target.boxes, strict=True):
            assert len(indices) == 1, (scene.index, example.input)
            assert (scene.objects[indices[0]].box == box).all()


def test_open_vocabulary_finds_all_that_fits_and_nothing_else(posed: list[tuple[Scene, list[Example]]]) -> None:
    absent = 0
    for scene, example in _of(posed, "<OPEN_VOCABULARY_DETECTION>"):
        assert isinstance(example.input, tuple)
        expected = [
            (name, thing.box.tolist()) for thing in scene.objects for name in example.input if _fits(str(name), thing)
        ]
        if not expected:
            absent += 1
            assert isinstance(example.target, Text)
            assert example.target.text == NOTHING
            continue
        assert isinstance(example.target, Detections)
        assert list(zip(example.target.labels, example.target.boxes.tolist(), strict=True)) == expected
    assert absent >= 15


def test_detections_list_every_object(posed: list[tuple[Scene, list[Example]]]) -> None:
    for scene, example in _of(posed, "<OD>"):
        assert isinstance(example.target, Detections)
        assert list(example.target.labels) == [thing.kind for thing in scene.objects]
    for scene, example in _of(posed, "<DENSE_REGION_CAPTION>"):
        assert isinstance(example.target, Detections)
        assert all(_fits(words, thing) for words, thing in zip(example.target.labels, scene.objects, strict=True))
        assert all(words.split()[0] in SIZES for words in example.target.labels)


def test_regions_lie_inside_and_belong_to_their_answer(posed: list[tuple[Scene, list[Example]]]) -> None:
    for scene, found in posed:
        for example in found:
            if not isinstance(example.input, tuple) or not example.task.startswith("<REGION"):
                continue
            x1, y1, x2, y2 = (float(value) for value in example.input)
            assert 0 <= x1 < x2 <= scene.size.width
            assert 0 <= y1 < y2 <= scene.size.height
            if example.task == "<REGION_TO_CATEGORY>" and isinstance(example.target, Text):
                near = [t for t in scene.objects if np.abs(t.box - [x1, y1, x2, y2]).max() < 0.05 * max(scene.size)]
                assert example.target.text == NOTHING or example.target.text in {thing.kind for thing in near}


def test_text_is_what_is_printed(posed: list[tuple[Scene, list[Example]]]) -> None:
    for scene, example in _of(posed, "<OCR>"):
        assert isinstance(example.target, Text)
        assert example.target.text.split() == [label.text for label in scene.labels]
    empty = [e for _, e in _of(posed, "<REGION_TO_OCR>") if isinstance(e.target, Text) and not e.target.text]
    assert empty


def test_brief_captions_name_the_outermost(posed: list[tuple[Scene, list[Example]]]) -> None:
    for scene, _ in posed:
        text = brief(scene)
        things = scene.objects
        first, last = (f"{t.colour} {t.kind}" for t in (things[0], things[-1]))
        assert text.endswith(".")
        if len(things) == 1:
            assert re.fullmatch(rf"An? {first} on a [a-z ]+\.", text)
        elif len(things) == 2:
            assert re.fullmatch(rf"An? {first} left of an? {last}\.", text)
        else:
            count = NUMBERS[len(things)].capitalize()
            assert re.fullmatch(rf"{count} objects, from an? {first} on the left to an? {last} on the right\.", text)


def test_detailed_captions_can_be_read_back(posed: list[tuple[Scene, list[Example]]]) -> None:
    for scene, _ in posed:
        _, _, listed = detailed(scene).rstrip(".").partition(": ")
        pieces = re.split(r", | and ", listed)
        assert len(pieces) == len(scene.objects)
        for number, (piece, thing) in enumerate(zip(pieces, scene.objects, strict=True)):
            match = re.fullmatch(r"an? (\w+) (\w+)(?: (behind|in front of|beside) it)?", piece)
            assert match is not None, piece
            assert (match[1], match[2]) == (thing.colour, thing.kind)
            if number:
                step = np.sign(thing.row - scene.objects[number - 1].row)
                assert match[3] == {0: "beside", 1: "behind", -1: "in front of"}[int(step)]


def test_paragraphs_tell_everything(posed: list[tuple[Scene, list[Example]]]) -> None:
    for scene, _ in posed:
        text = paragraph(scene)
        sentences = text.rstrip(".").split(". ")[1:]
        assert len(sentences) == len(scene.objects)
        for index, (sentence, thing) in enumerate(zip(sentences, scene.objects, strict=True)):
            assert f"{thing.size} " in sentence
            assert f"{thing.colour} {thing.kind}" in sentence
            assert TEXTURES[thing.texture] in sentence
            printed = [label.text for label in scene.labels if label.carrier == index]
            assert sentence.endswith(f"reads {printed[0]}") if printed else "reads" not in sentence


def test_scenes_of_the_same_caption_are_the_same_world(posed: list[tuple[Scene, list[Example]]]) -> None:
    """Two scenes described alike in full must hold the same objects in the same order."""
    told: dict[str, list[Scene]] = {}
    for scene, _ in posed:
        told.setdefault(paragraph(scene), []).append(scene)
    for group in told.values():
        for a, b in combinations(group, 2):
            assert [(t.kind, t.colour, t.size) for t in a.objects] == [(t.kind, t.colour, t.size) for t in b.objects]
