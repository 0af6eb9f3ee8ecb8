"""The task table: fifteen rows, found by token, name or method."""

from __future__ import annotations

import pytest

from florence_edge.errors import InputError
from florence_edge.tasks import DETAIL, FREE_PROMPT, TASKS, InputKind, Task, find


def test_fifteen_tasks_with_distinct_tokens_and_prompts() -> None:
    assert len({task.token for task in TASKS}) == len({task.prompt for task in TASKS}) == len(TASKS) == 15


@pytest.mark.parametrize("task", [*TASKS, FREE_PROMPT], ids=lambda task: task.name)
def test_every_row_is_found_by_its_token_and_name(task: Task) -> None:
    assert find(task.token) is find(task.name) is find(f" {task.token.lower()} ") is task
    assert ("{input}" in task.prompt) == (task.input is not InputKind.NONE)


@pytest.mark.parametrize("task", [task for task in TASKS if task.method != "caption"], ids=lambda task: task.name)
def test_methods_with_two_tasks_tell_them_apart_by_the_input(task: Task) -> None:
    assert find(task.method, with_input=task.input is not InputKind.NONE) is task


def test_details_are_captions() -> None:
    assert [find(token).method for token in DETAIL.values()] == ["caption"] * 3


def test_unknown_tasks_list_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'<VQA>'.*<OD>"):
        find("<VQA>")
