"""Writing answers: the forms by example, and truth that no answer can express."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from florence_edge.errors import InputError
from florence_edge.geometry import ImageSize
from florence_edge.grammar import (
    format_answer,
    format_boxes,
    format_phrase_boxes,
    format_polygons,
    format_quads,
    format_text,
    parse,
)
from florence_edge.results import Result
from florence_edge.tasks import find

SIZE = (1000, 1000)
BOX = [1.5, 2.5, 3.5, 4.5]
BOX_TOKENS = "<loc_1><loc_2><loc_3><loc_4>"
RING = [[1, 2], [3, 2], [3, 4]]
RING_TOKENS = "<loc_1><loc_2><loc_3><loc_2><loc_3><loc_4>"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (format_text(" a cup "), "a cup"),
        (format_boxes([BOX, BOX, BOX], ["cup", "cup ", "ball"], SIZE), f"cup{BOX_TOKENS * 2}ball{BOX_TOKENS}"),
        (format_boxes([BOX, BOX], None, SIZE), BOX_TOKENS * 2),
        (format_boxes([], [], SIZE), ""),
        (format_boxes([[-5, 0, 2000, 1000]], None, SIZE), "<loc_0><loc_0><loc_999><loc_999>"),
        (
            format_phrase_boxes([("a cup", [BOX]), ("a cup", [BOX, BOX])], SIZE),
            f"a cup{BOX_TOKENS}a cup{BOX_TOKENS * 2}",
        ),
        (format_quads([[[1, 2], [3, 2], [3, 4], [1, 4]]], ["STOP"], SIZE), f"STOP{RING_TOKENS}<loc_1><loc_4>"),
        (format_quads([], [], SIZE), ""),
        (format_polygons([[RING]], SIZE), RING_TOKENS),
        (format_polygons([[RING, RING]], SIZE), f"{RING_TOKENS}<sep>{RING_TOKENS}"),
        (format_polygons([[RING], [RING]], SIZE), f"<poly>{RING_TOKENS}</poly>" * 2),
        (format_polygons([[RING], [RING]], SIZE, ["cup", "cup"]), "cup" + f"<poly>{RING_TOKENS}</poly>" * 2),
        (format_polygons([], SIZE), ""),
    ],
)
def test_forms(answer: str, expected: str) -> None:
    assert answer == expected


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (lambda: format_text("a<loc_5>b"), "<loc_5>"),
        (lambda: format_boxes([BOX], [" "], SIZE), "white space"),
        (lambda: format_boxes([BOX], ["a<sep>"], SIZE), "<sep>"),
        (lambda: format_boxes([BOX], [], SIZE), "1 regions and 0 labels"),
        (lambda: format_boxes([BOX, [5.0, 1, 2, 3]], None, SIZE), r"inverted: rows \[1\]"),
        (lambda: format_boxes(BOX, None, SIZE), r"got \[4\]"),
        (lambda: format_boxes([[0, 0, np.nan, 1]], None, SIZE), "finite"),
        (lambda: format_boxes([BOX], None, (0, 1)), "width 0"),
        (lambda: format_phrase_boxes([("a cup", [])], SIZE), "needs a box"),
        (lambda: format_quads([[[1, 2], [3, 2], [3, 4]]], ["STOP"], SIZE), r"got \[1, 3, 2\]"),
        (lambda: format_quads([[[1, 2], [3, 2], [3, 4], [1, 4]]], [], SIZE), "1 quads and 0 texts"),
        (lambda: format_polygons([[RING[:2]]], SIZE), "3 points or more"),
        (lambda: format_polygons([[]], SIZE), "needs a ring"),
        (
            lambda: format_answer(find("od"), Result(task="", size=ImageSize(1, 1), scores=np.zeros(0, np.float32))),
            "no result of a task",
        ),
    ],
)
def test_truth_that_no_answer_can_express(write: Callable[[], Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        write()


def test_a_box_behind_a_mask_of_the_same_label_stays_a_box() -> None:
    text = f"cup<poly>{RING_TOKENS}</poly>cup{BOX_TOKENS}"
    task = find("open_vocabulary_detection")
    assert format_answer(task, parse(task, text, SIZE)) == text
