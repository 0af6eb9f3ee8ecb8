"""The task table against the tables of the published processor."""

from __future__ import annotations

from florence_edge.tasks import FREE_PROMPT, TASKS, Grammar, InputKind
from support.processor import reference_processor

READ_AS = {
    Grammar.TEXT: "pure_text",
    Grammar.LABELLED_BOXES: "description_with_bboxes",
    Grammar.BOXES: "bboxes",
    Grammar.PHRASE_BOXES: "phrase_grounding",
    Grammar.QUADS: "ocr",
    Grammar.POLYGONS: "polygons",
    Grammar.LABELLED_BOXES_OR_POLYGONS: "description_with_bboxes_or_polygons",
}


REFERENCE = reference_processor()


def test_prompt_sentences() -> None:
    ours = {task.token: task.prompt for task in TASKS}
    assert ours == REFERENCE.task_prompts_without_inputs | REFERENCE.task_prompts_with_input


def test_tasks_with_an_input() -> None:
    ours = {task.token for task in TASKS if task.input is not InputKind.NONE}
    assert ours == set(REFERENCE.task_prompts_with_input)


def test_answer_forms() -> None:
    ours = {task.token: READ_AS[task.grammar] for task in TASKS}
    assert ours == REFERENCE.tasks_answer_post_processing_type


def test_a_free_prompt_passes_through() -> None:
    question = "How many cups are there?"
    assert REFERENCE._construct_prompts(question) == [FREE_PROMPT.prompt.replace("{input}", question)]
