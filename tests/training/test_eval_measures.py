"""What each task's measure counts, by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.geometry import ImageSize
from florence_edge.grammar import ParseOptions, parse
from florence_edge.results import Result
from florence_edge.tasks import find
from florence_train.data import Record
from florence_train.evaluate import measures_boxes, measures_shapes, measures_text
from florence_train.evaluate.answers import Answer, as_answer
from florence_train.evaluate.resampling import Resampling
from florence_train.evaluate.section import Section

SIZE = ImageSize(1000, 1000)


class Blank:
    """A picture of nothing."""

    def load(self) -> Image.Image:
        return Image.new("RGB", SIZE)


def box(x1: int, y1: int, x2: int, y2: int) -> str:
    return "".join(f"<loc_{value}>" for value in (x1, y1, x2, y2))


A, B, FAR = box(100, 100, 300, 300), box(600, 600, 800, 800), box(0, 900, 50, 950)
A_TOO = box(110, 100, 310, 300)


def measured(
    measure: Callable[[Section], None], task: str, pairs: Sequence[tuple[str | list[str], str]], **changes: Any
) -> dict[str, float | None]:
    """The metrics of answers spelled as (truths, found), by name."""
    row = find(task)
    answers = []
    for index, (truths, found) in enumerate(pairs):
        texts = [truths] if isinstance(truths, str) else truths
        record = Record(str(index), Blank(), SIZE, ())
        read = [as_answer(row, result(task, text)) for text in texts]
        answers.append(Answer(index, record, row, None, tuple(read), result(task, found, **changes)))
    section = Section(answers, Resampling(range(len(answers)), resamples=0))
    measure(section)
    values = {metric.name: metric.value for metric in section.metrics}
    values["quality"] = float(section.quality.mean())
    return values


def result(task: str, text: str, scores: Sequence[float] | None = None) -> Result:
    found = parse(task, text, SIZE, options=ParseOptions(skip_ungroundable=False))
    return found if scores is None else replace(found, scores=np.array(scores, np.float32))


def test_every_phrase_of_a_caption_counts_once_at_its_best_box() -> None:
    task = "<CAPTION_TO_PHRASE_GROUNDING>"
    truth = f"A cup{A}the ball{B}"
    values = measured(
        measures_boxes.grounding,
        task,
        [
            (truth, f"a cup{A_TOO}the ball{FAR}"),  # one of two
            (truth, f"cup{A}"),  # one of two: articles do not count
            (f"cups{A}{B}", f"cups{B}"),  # any of a phrase's boxes will do
            (truth, f"the ball{A}a cup{B}"),  # none: the boxes are swapped
        ],
    )
    assert values["R@1"] == pytest.approx(3 / 7)
    assert "accuracy@0.5, one expression" not in values
    assert values["quality"] == pytest.approx((1 / 2 + 1 / 2 + 1 + 0) / 4)


def test_one_expression_counts_by_the_best_scored_box_whatever_its_words() -> None:
    task = "<CAPTION_TO_PHRASE_GROUNDING>"
    pair = (f"the cup left of the ball{A}", f"the cup{A}the ball{B}")
    right = measured(measures_boxes.grounding, task, [pair], scores=[0.9, 0.1])
    wrong = measured(measures_boxes.grounding, task, [pair], scores=[0.1, 0.9])
    unscored = measured(measures_boxes.grounding, task, [pair])
    name = "accuracy@0.5, one expression"
    assert (right[name], wrong[name], unscored[name]) == (1.0, 0.0, 1.0)
    assert right["R@1"] == 0.0


def test_lines_need_their_place_and_for_the_whole_their_text() -> None:
    def quad(x: int, y: int) -> str:
        points = ((x, y), (x + 100, y), (x + 100, y + 40), (x, y + 40))
        return "".join(f"<loc_{a}><loc_{b}>" for a, b in points)

    truth = f"K7{quad(100, 100)}ABC{quad(500, 500)}"
    values = measured(
        measures_shapes.lines,
        "<OCR_WITH_REGION>",
        [
            (truth, f"ABC{quad(510, 500)}K8{quad(100, 100)}"),  # both in place, one misread
            (truth, f"K7{quad(100, 140)}"),  # out of place
        ],
    )
    assert values["line F1"] == pytest.approx(2 * 2 / (4 + 3))
    assert values["line and text F1"] == pytest.approx(2 * 1 / (4 + 3))


def test_masks_by_their_overlap() -> None:
    def square(left: int) -> str:
        return "".join(f"<loc_{a}><loc_{b}>" for a, b in ((left, 0), (left + 100, 0), (left + 100, 99), (left, 99)))

    task = "<REFERRING_EXPRESSION_SEGMENTATION>"
    values = measured(measures_shapes.masks, task, [(square(0), square(50)), (square(0), square(0)), (square(0), "")])
    assert values["mIoU"] == pytest.approx((1 / 3 + 1 + 0) / 3, abs=1e-3)
    assert values["P@0.5"] == pytest.approx(1 / 3)


def test_overlap_counts_from_a_half_on() -> None:
    """Squares of 200 beside themselves: by 60 they overlap by 140/260, by 80 by 120/280."""
    truth = box(100, 100, 300, 300)
    near, off = box(160, 100, 360, 300), box(180, 100, 380, 300)

    def corners(left: int) -> str:
        points = ((left, 100), (left + 200, 100), (left + 200, 300), (left, 300))
        return "".join(f"<loc_{x}><loc_{y}>" for x, y in points)

    for measure, task, name, label, spelled in (
        (measures_boxes.grounding, "<CAPTION_TO_PHRASE_GROUNDING>", "R@1", "cup", (truth, near, off)),
        (measures_boxes.proposals, "<REGION_PROPOSAL>", "AP50", "", (truth, near, off)),
        (measures_shapes.lines, "<OCR_WITH_REGION>", "line F1", "K7", tuple(map(corners, (100, 160, 180)))),
        (measures_shapes.masks, "<REGION_TO_SEGMENTATION>", "P@0.5", "", tuple(map(corners, (100, 160, 180)))),
    ):
        right, enough, little = (label + text for text in spelled)
        assert measured(measure, task, [(right, enough)])[name] == pytest.approx(1.0), task
        assert measured(measure, task, [(right, little)])[name] == 0.0, task


def test_detection_counts_scores_classes_and_places() -> None:
    found = f"cup{FAR}cup{box(150, 100, 350, 300)}"  # 150/250 of the true one
    values = measured(measures_boxes.detection, "<OD>", [(f"cup{A}", found)], scores=[0.1, 0.9])
    assert values["mAP50"] == pytest.approx(1.0)
    assert values["mAP75"] == 0.0
    assert values["mAP"] == pytest.approx(0.3)  # at 0.5, 0.55 and 0.6
    assert values["AP gain over constant scores"] == pytest.approx(0.3 - 0.15)  # without scores the far one comes first
    assert values["ECE at IoU 0.5"] == pytest.approx(0.1)
    assert values["quality"] == pytest.approx(2 * 1 / (2 + 1))


def test_lines_in_one_place_are_told_apart_by_their_text_and_found_once() -> None:
    line = "".join(f"<loc_{x}><loc_{y}>" for x, y in ((100, 100), (300, 100), (300, 140), (100, 140)))
    beside = "".join(f"<loc_{x}><loc_{y}>" for x, y in ((120, 100), (320, 100), (320, 140), (120, 140)))
    task = "<OCR_WITH_REGION>"
    values = measured(measures_shapes.lines, task, [(f"AB{line}CD{beside}", f"CD{line}AB{beside}")])
    assert (values["line F1"], values["line and text F1"]) == (1.0, 1.0)
    twice = measured(measures_shapes.lines, task, [(f"AB{line}", f"AB{line}AB{line}")])
    assert twice["line F1"] == twice["quality"] == pytest.approx(2 * 1 / (1 + 2))
    # The better scored of two takes the line.
    scored = measured(measures_shapes.lines, task, [(f"AB{line}", f"AB{line}XY{line}")], scores=[0.1, 0.9])
    assert scored["line and text F1"] == 0.0
    assert measured(measures_shapes.lines, task, [("", "")])["quality"] == 1.0


def test_classes_that_are_not_there_should_find_nothing() -> None:
    task = "<OPEN_VOCABULARY_DETECTION>"
    pairs = [("No object detected.", "No object detected."), ("No object detected.", f"cup{A}"), (f"cup{A}", f"cup{A}")]
    values = measured(measures_boxes.described, task, pairs, scores=None)
    assert values["nothing found where nothing is"] == 0.5
    assert values["AP50"] == pytest.approx(0.5)  # without scores the false cup stands first
    assert values["quality"] == pytest.approx(2 / 3)


def test_proposals_do_not_mind_names_and_recall_counts_all() -> None:
    values = measured(measures_boxes.proposals, "<REGION_PROPOSAL>", [(A + B, A + FAR)])
    assert values["AR"] == 0.5
    assert values["AP50"] == pytest.approx(51 / 101)


def test_reading_counts_characters_of_the_nearest_reference() -> None:
    values = measured(measures_text.reading, "<OCR>", [("AB12", "A812"), (["K7", "K8"], "K8"), ("abc", "ABC")])
    assert values["CER"] == pytest.approx((1 + 0 + 3) / (4 + 2 + 3))
    assert values["exact match"] == pytest.approx(1 / 3)
    assert values["quality"] == pytest.approx((3 / 4 + 1 + 0) / 3)


def test_categories_have_a_table_and_a_calibration() -> None:
    task = "<REGION_TO_CATEGORY>"
    pairs = [("cube", "Cube."), ("cube", "ball"), ("ball", "ball")]
    values = measured(measures_text.category, task, pairs, scores=[0.95])
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert values["ECE"] == pytest.approx(0.95 - 2 / 3)


def test_captions_of_several_references_and_free_prompts() -> None:
    refs = ["a red cube left of a ball", "a cube and a ball on a table"]
    values = measured(
        measures_text.caption, "<CAPTION>", [(refs, "A red cube left of a ball."), ("two cups", "a cone")]
    )
    assert values["exact match"] == 0.5
    assert values["ROUGE-L"] == pytest.approx(0.5)
    assert 0 < (values["CIDEr"] or 0) < 10
    partly = measured(measures_text.caption, "<CAPTION>", [("a red cube", "a blue cube")])
    assert partly["exact match"] == 0.0
    assert partly["quality"] == pytest.approx(2 / 3)  # ROUGE-L of equal lengths
    assert measured(measures_text.reply, "ask", [("yes", "Yes"), ("two", "three")])["exact match"] == 0.5
