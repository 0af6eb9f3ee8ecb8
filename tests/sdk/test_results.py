"""Results as plain values: strict JSON, sizes by name, bounds of polygons."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from florence_edge.geometry import ImageSize
from florence_edge.grammar import parse
from florence_edge.results import Polygons, Result, Text
from florence_edge.tasks import TASKS
from support.answers import answers

SIZE = ImageSize(640, 480)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_result_is_strict_json(task: object) -> None:
    for text in answers(task.grammar, 50):  # type: ignore[attr-defined] # a row of the table
        result = parse(task, text, SIZE)  # type: ignore[arg-type] # as above
        values = json.loads(result.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert values == result.to_dict()
        assert values["size"] == {"width": 640, "height": 480}
        assert values["scores"] == [None] * len(result)


def test_characters_stay_readable_in_json() -> None:
    assert "café" in parse("<CAPTION>", "café", SIZE).to_json(indent=2)


def test_a_text_is_its_string_with_one_score() -> None:
    result = Text(task="<CAPTION>", size=SIZE, scores=np.array([0.5], np.float32), text="a car")
    assert (str(result), result.score, len(result)) == ("a car", 0.5, 1)


def test_results_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        parse("<CAPTION>", "a car", SIZE).raw = "a dog"  # type: ignore[misc] # wrong on purpose


def test_bounds_of_polygons_span_all_rings() -> None:
    rings = (np.array([[1, 2], [5, 2], [5, 9]], np.float32), np.array([[0, 4], [3, 4], [3, 5]], np.float32))
    masks = Polygons(task="", size=SIZE, scores=np.zeros(1, np.float32), polygons=(rings,), labels=("",))
    assert masks.boxes().tolist() == [[0, 2, 5, 9]]
    none = Polygons(task="", size=SIZE, scores=np.zeros(0, np.float32), polygons=(), labels=())
    assert none.boxes().shape == (0, 4)
    assert isinstance(none, Result)
