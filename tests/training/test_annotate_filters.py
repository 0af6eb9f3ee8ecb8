from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge.errors import InputError
from florence_edge.geometry import ImageSize
from florence_edge.grammar import parse
from florence_edge.results import Detections, Text
from florence_edge.tasks import find
from florence_train.annotate.filters import FILTERS, noun_phrases, read_filter, read_filters
from florence_train.annotate.plan import Answered

SIZE = ImageSize(100, 50)


def boxes(task: str, *rows: tuple[str, float, tuple[float, float, float, float]], finish: str = "eos") -> Answered:
    """An answer that finds labelled boxes with scores."""
    labels = tuple(label for label, _, _ in rows)
    result = Detections(
        task,
        SIZE,
        np.array([score for _, score, _ in rows], np.float32),
        finish=finish,
        boxes=np.array([box for _, _, box in rows], np.float32).reshape(-1, 4),
        labels=labels,
        class_ids=np.zeros(len(rows), np.int64),
    )
    return Answered(task, find(task), None, result)


def says(task: str, text: str, score: float = 0.9, given: tuple[float, float, float, float] | None = None) -> Answered:
    """An answer that is one text."""
    return Answered(task, find(task), given, Text(task, SIZE, np.array([score], np.float32), text=text))


def kept(rule: str, answer: Answered, *others: Answered) -> list[bool]:
    return [bool(item) for item in read_filter(rule)(answer, [answer, *others])]


LEFT, RIGHT = (0.0, 0.0, 20.0, 20.0), (60.0, 10.0, 90.0, 40.0)


def test_confidence_keeps_scores_from_the_limit_on_and_no_unknown_one() -> None:
    answer = boxes("<OD>", ("a", 0.5, LEFT), ("b", 0.49, LEFT), ("c", float("nan"), LEFT))
    assert kept("confidence=0.5", answer) == [True, False, False]
    assert kept("confidence=0.5@caption,propose", answer) == [True, True, True]
    assert kept("confidence=0.5@detect", answer) == [True, False, False]


def test_an_answer_that_was_cut_short_goes_as_a_whole() -> None:
    assert kept("finished", boxes("<OD>", ("a", 0.5, LEFT), finish="length")) == [False]
    assert kept("finished", boxes("<OD>", ("a", 0.5, LEFT))) == [True]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.floats(0.1, 0.9))
def test_nms_keeps_what_supervision_keeps(seed: int, count: int, most: float) -> None:
    supervision = pytest.importorskip("supervision")
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 20, (count, 2))
    found = np.concatenate([corners, corners + rng.uniform(5, 25, (count, 2))], axis=1).astype(np.float32)
    scores, labels = rng.permutation(count) / 20 + 0.1, rng.integers(0, 2, count)
    rows = [("ab"[label], score, tuple(box)) for label, score, box in zip(labels, scores, found.tolist(), strict=True)]
    answer = boxes("<OD>", *rows)
    theirs = supervision.Detections(found, confidence=scores, class_id=labels, data={"at": np.arange(count)})
    expected = set(theirs.with_nms(most).data["at"].tolist()) if count else set()
    assert set(np.flatnonzero(kept(f"nms={most}", answer)).tolist()) == expected


def test_nms_leaves_texts_alone_and_puts_unknown_scores_last() -> None:
    assert kept("nms=0.5", says("<CAPTION>", "a cube")) == [True]
    assert kept("nms=0.5", boxes("<OD>", ("a", float("nan"), LEFT), ("a", 0.01, LEFT))) == [False, True]


def test_the_blacklist_knows_the_published_phrases_or_ones_own(tmp_path: Path) -> None:
    task = "<CAPTION_TO_PHRASE_GROUNDING>"
    answer = boxes(task, ("It", 0.9, LEFT), ("a thing", 0.9, LEFT), ("a red cube", 0.9, RIGHT))
    assert kept("blacklist", answer) == [False, True, True]
    assert kept("blacklist=thing|red cube", answer) == [True, False, False]
    (tmp_path / "words.txt").write_text("The Thing\n\n", encoding="utf-8")
    assert kept(f"blacklist={tmp_path / 'words.txt'}", answer) == [True, False, True]


def test_area_counts_shares_of_the_image() -> None:
    answer = boxes("<OD>", ("a", 0.9, (0.0, 0.0, 10.0, 10.0)), ("b", 0.9, (0.0, 0.0, 100.0, 50.0)))
    assert kept("area=0.02..0.5", answer) == [True, False]
    assert kept("area=0.03..", answer) == [False, True]
    assert kept("area=..1", says("<CAPTION>", "a cube")) == [True]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("red cubes", 0),
        ("a red cube", 1),
        ("A red cube left of two balls", 2),
        ("all the three cubes behind the 4 cups", 2),
        ("an atheist", 1),
        ("two cubes, a ball and another cone on their table", 4),
    ],
)
def test_things_are_counted_by_what_opens_a_noun_phrase(text: str, count: int) -> None:
    assert noun_phrases(text) == count


def test_captions_are_judged_by_length_and_things_and_nothing_else_is() -> None:
    caption = says("<CAPTION>", "a red cube left of a ball")
    assert kept("objects=2..3", caption) == [True]
    assert kept("objects=3..", caption) == [False]
    assert kept("words=..6", caption) == [False]
    assert kept("words=..6", says("<OCR>", "a b c d e f g h")) == [True]


def test_regions_need_another_task_that_agrees() -> None:
    found = boxes("<OD>", ("cube", 0.9, LEFT), ("cone", 0.9, RIGHT), ("cup", 0.9, (30.0, 0.0, 40.0, 10.0)))
    dense = boxes("<DENSE_REGION_CAPTION>", ("large red cube", 0.9, LEFT), ("blue ball", 0.9, RIGHT))
    assert kept("agreement=0.5", found, dense) == [True, False, False]
    named = says("<REGION_TO_CATEGORY>", "Cone", given=RIGHT)
    assert kept("agreement=0.5", found, named) == [False, True, False]
    assert kept("agreement=0.5", named, found) == [True]
    assert kept("agreement=0.5", found, boxes("<REGION_PROPOSAL>", ("", 0.9, LEFT))) == [True, False, False]
    assert kept("agreement=0.5", found) == [False, False, False]
    assert kept("agreement=0.5", says("<CAPTION>", "a cube")) == [True]


def test_an_answer_without_regions_passes_every_filter() -> None:
    nothing = Answered("<OD>", find("<OD>"), None, parse("<OD>", "", SIZE))
    values = {"finished": "", "blacklist": "", "area": "0..1", "words": "1..", "objects": "1.."}
    for name in FILTERS:
        assert kept(f"{name}={values.get(name, '0.5')}", nothing) == []


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("sharpness=1", "no filter is called 'sharpness'"),
        ("confidence", "a number in 0..1"),
        ("confidence=1.5", "a number in 0..1"),
        ("nms=x", "a number in 0..1"),
        ("area=0.5", "LOW..HIGH"),
        ("area=0.5..0.1", "LOW..HIGH"),
        ("words=..", "LOW..HIGH"),
        ("finished=yes", "takes no value"),
        ("confidence=0.5@captoin", "unknown task"),
        ("blacklist= | ", "names no phrase"),
    ],
)
def test_what_cannot_be_meant_is_refused(rule: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_filter(rule)


def test_all_bad_rules_are_listed_at_once() -> None:
    with pytest.raises(InputError, match=r"(?s)'finished' is given twice.*first.*nms=2"):
        read_filters(["first", "finished", "nms=2", "finished"])
