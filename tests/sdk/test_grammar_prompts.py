"""Prompts: what each task takes as its input, and every input that it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge.errors import InputError
from florence_edge.grammar import ParseOptions, prompt_for
from florence_edge.tasks import FREE_PROMPT, TASKS, Task, find

SIZE = (640, 480)
BOX_TASKS = [task for task in TASKS if task.token.startswith("<REGION_TO_")]
PHRASE_TASKS = [find("ground"), find("segment")]


def _message(task: Task, given: Any) -> str:
    with pytest.raises(InputError) as caught:
        prompt_for(task, given, SIZE)
    return str(caught.value)


@pytest.mark.parametrize(
    ("task", "given", "prompt"),
    [
        ("<OD>", None, "Locate the objects with category name in the image."),
        ("ground", " a red {cube} ", "Locate the phrases in the caption: a red {cube}"),
        ("segment", "the cup", "Locate the cup in the image with mask"),
        ("ask", "How many cups?", "How many cups?"),
        ("ask", "What is at <loc_1><loc_2>?", "What is at <loc_1><loc_2>?"),
        ("open_vocabulary_detection", "cup", "Locate cup in the image."),
        ("open_vocabulary_detection", ["cup", " red cube"], "Locate cup<and>red cube in the image."),
        ("open_vocabulary_detection", np.array(["cup", "ball"]), "Locate cup<and>ball in the image."),
        ("region_to_ocr", (0, 0, 640, 480), "What text is in the region <loc_0><loc_0><loc_999><loc_999>?"),
        (
            "region_to_category",
            np.array([64, 48, 64, 48.5]),
            "What is the region <loc_100><loc_100><loc_100><loc_101>?",
        ),
    ],
)
def test_prompts(task: str, given: Any, prompt: str) -> None:
    assert prompt_for(find(task), given, SIZE) == prompt


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_input_where_none_is_taken_and_the_reverse(task: Task) -> None:
    if "{input}" in task.prompt:
        assert "got none" in _message(task, None)
    else:
        assert "takes no input" in _message(task, "a cup")


@pytest.mark.parametrize("task", BOX_TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ((10, 10, 20), r"shape \[3\]"),
        ([[10, 10, 20, 20]], r"shape \[1, 4\]"),
        ("10 10 20 20", "got '10 10 20 20'"),
        (("a", 1, 2, 3), "got"),
        ((10, [1], 2, 3), "got"),
        ((np.nan, 10, 20, 20), "not finite"),
        ((10, 10, np.inf, 20), "not finite"),
        ((30, 10, 20, 20), r"x1 \(30\) is right of x2 \(20\)"),
        ((10, 30, 20, 20), r"y1 \(30\) is below y2 \(20\)"),
        ((-1, 10, 20, 20), "x leaves the image, 0 to 640"),
        ((10, 10, 20, 480.5), "y leaves the image, 0 to 480"),
    ],
)
def test_unusable_boxes(task: Task, box: Any, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        prompt_for(task, box, SIZE)


def test_all_faults_of_a_box_are_named() -> None:
    message = _message(find("region_to_ocr"), (700, 500, -5, -6))
    assert all(text in message for text in ("right of", "below", "x leaves", "y leaves"))


@pytest.mark.parametrize("task", [*PHRASE_TASKS, FREE_PROMPT], ids=lambda task: task.name)
@pytest.mark.parametrize(
    ("phrase", "fault"),
    [("", "white space"), (" \n", "white space"), (3, "is a string"), (["a", "b"], "is a string"), ("a</s>b", "</s>")],
)
def test_unusable_phrases(task: Task, phrase: Any, fault: str) -> None:
    assert fault in _message(task, phrase)


@pytest.mark.parametrize(
    "token", ["<loc_5>", "<and>", "<od>", "</poly>", "<s>", "</s>", "<pad>", "<unk>", "<mask>", "<image>"]
)
@pytest.mark.parametrize("task", PHRASE_TASKS, ids=lambda task: task.name)
def test_phrases_cannot_hold_tokens(task: Task, token: str) -> None:
    assert token in _message(task, f"a cup{token} of tea")


@pytest.mark.parametrize("classes", [[], "", [""], ["cup", " "], ["cup", 3], "cup<and>ball", ["a<loc_1>"], 3, {"cup"}])
def test_unusable_classes(classes: Any) -> None:
    assert _message(find("open_vocabulary_detection"), classes)


def test_a_size_that_is_none() -> None:
    with pytest.raises(InputError, match="width 0"):
        prompt_for(find("region_to_ocr"), (0, 0, 0, 0), (0, 480))


@given(st.text())
@settings(deadline=None)
def test_any_phrase_is_used_or_refused(phrase: str) -> None:
    try:
        prompt = prompt_for(find("ground"), phrase, SIZE)
    except InputError:
        return
    assert prompt == f"Locate the phrases in the caption: {phrase.strip()}"


@pytest.mark.parametrize(
    ("task", "given", "options"),
    [
        ("<OD>", None, ParseOptions()),
        ("ground", "a cup", ParseOptions()),
        ("open_vocabulary_detection", "cup ", ParseOptions(classes=("cup",))),
        ("open_vocabulary_detection", ["cup", "ball"], ParseOptions(classes=("cup", "ball"))),
        ("segment", " the cup ", ParseOptions(label="the cup")),
        ("segment_region", (0, 0, 1, 1), ParseOptions(label="region")),
        ("segment_region", None, ParseOptions()),
        ("open_vocabulary_detection", None, ParseOptions()),
    ],
)
def test_what_the_input_says_about_the_answer(task: str, given: Any, options: ParseOptions) -> None:
    assert ParseOptions.for_input(find(task), given) == options
