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
from florence_edge.results import Detections, Result
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


def section_of(
    measure: Callable[[Section], None],
    task: str,
    pairs: Sequence[tuple[str | list[str], str | None]],
    *,
    scores: Sequence[float] | None = None,
    crowds: Detections | None = None,
) -> Section:
    """What is measured of answers spelled as (truths, found); None is a question that could not be answered."""
    row = find(task)
    answers = []
    for index, (truths, found) in enumerate(pairs):
        texts = [truths] if isinstance(truths, str) else truths
        record = Record(str(index), Blank(), SIZE, (), crowds)
        read = tuple(as_answer(row, result(task, text)) for text in texts)
        error = "unread" if found is None else ""
        answer = result(task, "") if found is None else result(task, found, scores)
        answers.append(Answer(index, record, row, None, read, answer, error))
    section = Section(answers, Resampling(range(len(answers)), resamples=0))
    measure(section)
    return section


def measured(
    measure: Callable[[Section], None], task: str, pairs: Sequence[tuple[str | list[str], str | None]], **changes: Any
) -> dict[str, Any]:
    """The metrics by name, and the mean quality."""
    section = section_of(measure, task, pairs, **changes)
    values: dict[str, Any] = {metric.name: metric.value for metric in section.metrics}
    values["quality"] = float(section.quality.mean())
    return values


def counts(section: Section) -> dict[str, int]:
    return {metric.name: metric.count for metric in section.metrics}


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
    # A score that is known goes before one that is not.
    assert measured(measures_boxes.grounding, task, [pair], scores=[np.nan, 0.1])[name] == 0.0
    # Captions of several phrases take no part.
    pairs = [pair, (f"a cup{A}the ball{B}", f"a cup{A}the ball{FAR}")]
    mixed = measured(measures_boxes.grounding, task, pairs, scores=[0.9, 0.1])
    assert (mixed[name], mixed["R@1"]) == (1.0, pytest.approx(1 / 3))
    assert counts(section_of(measures_boxes.grounding, task, pairs)) == {"R@1": 3, name: 1}


def test_lines_need_their_place_and_for_the_whole_their_text() -> None:
    def quad(x: int, y: int) -> str:
        points = ((x, y), (x + 100, y), (x + 100, y + 40), (x, y + 40))
        return "".join(f"<loc_{a}><loc_{b}>" for a, b in points)

    task, truth = "<OCR_WITH_REGION>", f"K7{quad(100, 100)}ABC{quad(500, 500)}"
    pairs = [
        (truth, f"ABC{quad(510, 500)}K8{quad(100, 100)}"),  # both in place, one misread
        (truth, f"K7{quad(100, 140)}"),  # out of place
    ]
    values = measured(measures_shapes.lines, task, pairs)
    assert values["line F1"] == pytest.approx(2 * 2 / (4 + 3))
    assert values["line and text F1"] == pytest.approx(2 * 1 / (4 + 3))
    assert values["quality"] == pytest.approx((1 / 2 + 0) / 2)
    assert counts(section_of(measures_shapes.lines, task, pairs)) == {"line F1": 4, "line and text F1": 4}
    # 88 x 34 of 100 x 40 in common, on the diagonal of the picture.
    aslant = measured(measures_shapes.lines, task, [(f"K7{quad(100, 100)}", f"K7{quad(112, 106)}")])
    assert aslant["line F1"] == 1.0
    point = f"K7{'<loc_100>' * 8}"
    assert measured(measures_shapes.lines, task, [(point, point)])["line F1"] == 0.0, "a line without area has no place"


def test_masks_by_their_overlap() -> None:
    def square(left: int) -> str:
        return "".join(f"<loc_{a}><loc_{b}>" for a, b in ((left, 0), (left + 100, 0), (left + 100, 99), (left, 99)))

    task = "<REFERRING_EXPRESSION_SEGMENTATION>"
    values = measured(measures_shapes.masks, task, [(square(0), square(50)), (square(0), square(0)), (square(0), "")])
    assert values["mIoU"] == pytest.approx((1 / 3 + 1 + 0) / 3, abs=1e-3)
    assert values["P@0.5"] == pytest.approx(1 / 3)
    half = square(0).replace("<loc_100>", "<loc_50>")
    assert measured(measures_shapes.masks, task, [(square(0), half)]) == {"mIoU": 0.5, "P@0.5": 1.0, "quality": 0.5}
    either = measured(measures_shapes.masks, task, [([square(0), square(500)], square(500))])
    assert either["mIoU"] == 1.0


def test_overlap_counts_from_a_half_on() -> None:
    """Squares of 200 beside themselves: by 60 they overlap by 140/260, by 80 by 120/280; half of one is just enough."""
    truth = box(100, 100, 300, 300)
    near, off = box(160, 100, 360, 300), box(180, 100, 380, 300)
    referred = "<CAPTION_TO_PHRASE_GROUNDING>"
    assert measured(measures_boxes.grounding, referred, [(f"cup{A}", f"cup{box(100, 100, 300, 200)}")])["R@1"] == 1.0

    def corners(left: int) -> str:
        points = ((left, 100), (left + 200, 100), (left + 200, 300), (left, 300))
        return "".join(f"<loc_{x}><loc_{y}>" for x, y in points)

    for measure, task, name, label, spelled in (
        (measures_boxes.grounding, referred, "R@1", "cup", (truth, near, off)),
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


@pytest.mark.parametrize(("shift", "thresholds"), [(28, 6), (30, 5)])
def test_precision_is_the_mean_over_ten_thresholds(shift: int, thresholds: int) -> None:
    """Squares of 200 beside themselves: by 28 they overlap by 172/228 = 0.754, by 30 by 170/230 = 0.739."""
    pair = (f"cup{A}", f"cup{box(100 + shift, 100, 300 + shift, 300)}")
    values = measured(measures_boxes.detection, "<OD>", [pair])
    assert (values["mAP"], values["mAP50"]) == (pytest.approx(thresholds / 10), pytest.approx(1.0))
    assert values["mAP75"] == pytest.approx(float(thresholds == 6))
    assert measured(measures_boxes.described, "<DENSE_REGION_CAPTION>", [pair])["AP"] == pytest.approx(thresholds / 10)


def test_the_table_of_classes_has_no_precision_where_there_is_no_object() -> None:
    (table,) = section_of(
        measures_boxes.detection, "<OD>", [(f"cup{A}ball{B}", f"cup{A}cup{FAR}cone{FAR}"), ("", "")]
    ).tables
    assert table.columns == ("objects", "found", "AP", "AP50", "AR")
    rows = {"ball": (1, 0, 0.0, 0.0, 0.0), "cone": (0, 1, None, None, None), "cup": (1, 2, 1.0, 1.0, 1.0)}
    assert {name: pytest.approx(values) for name, values in table.rows} == rows
    assert measured(measures_boxes.detection, "<OD>", [("", "")])["quality"] == 1.0


@pytest.mark.parametrize(
    ("measure", "task", "label", "name"),
    [
        (measures_boxes.detection, "<OD>", "cup", "mAP50"),
        (measures_boxes.described, "<DENSE_REGION_CAPTION>", "cup", "AP50"),
        (measures_boxes.proposals, "<REGION_PROPOSAL>", "", "AP50"),
    ],
)
def test_what_lies_in_a_crowd_is_neither_right_nor_wrong(
    measure: Callable[[Section], None], task: str, label: str, name: str
) -> None:
    pair = (label + A, label + B + label + A)  # the box in the crowd comes first
    crowd = result("<OD>", f"cup{box(500, 500, 900, 900)}")
    assert isinstance(crowd, Detections)
    values = measured(measure, task, [pair], scores=[0.9, 0.8], crowds=crowd)
    assert (values[name], values["quality"]) == (pytest.approx(1.0), 1.0)
    assert values["ECE at IoU 0.5"] == pytest.approx(0.2)
    other = measured(measure, task, [pair], scores=[0.9, 0.8], crowds=replace(crowd, labels=("people",)))
    assert other[name] == pytest.approx(0.5 if label else 1.0), "crowds are of a class, unless classes do not count"


def test_lines_in_one_place_are_told_apart_by_their_text_and_found_once() -> None:
    line = "".join(f"<loc_{x}><loc_{y}>" for x, y in ((100, 100), (300, 100), (300, 140), (100, 140)))
    beside = "".join(f"<loc_{x}><loc_{y}>" for x, y in ((120, 100), (320, 100), (320, 140), (120, 140)))
    task = "<OCR_WITH_REGION>"
    values = measured(measures_shapes.lines, task, [(f"AB{line}CD{beside}", f"CD{line}AB{beside}")])
    assert (values["line F1"], values["line and text F1"]) == (1.0, 1.0)
    twice = measured(measures_shapes.lines, task, [(f"AB{line}", f"AB{line}AB{line}")])
    assert twice["line F1"] == twice["quality"] == pytest.approx(2 * 1 / (1 + 2))
    # Of lines that say the same the nearest is meant: found at 130 and 60, the second of which is near one only.
    alike = [
        "".join(f"<loc_{a}><loc_{y}>" for a, y in ((x, 100), (x + 200, 100), (x + 200, 140), (x, 140)))
        for x in (100, 130, 60)
    ]
    near = measured(measures_shapes.lines, task, [(f"AB{alike[0]}AB{alike[1]}", f"AB{alike[1]}AB{alike[2]}")])
    assert near["line F1"] == 1.0
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
    unread = measured(measures_boxes.described, task, [("No object detected.", None)])
    assert unread["nothing found where nothing is"] == 0.0
    # Labels share one list: of two objects one is found.
    assert measured(measures_boxes.described, task, [(f"cup{A}ball{B}", f"cup{A}")])["AP50"] == pytest.approx(51 / 101)


def test_proposals_do_not_mind_names_and_recall_counts_all() -> None:
    values = measured(measures_boxes.proposals, "<REGION_PROPOSAL>", [(A + B, A + FAR)])
    assert values["AR"] == 0.5
    assert values["AP50"] == pytest.approx(51 / 101)


def test_reading_counts_characters_of_the_nearest_reference() -> None:
    values = measured(measures_text.reading, "<OCR>", [("AB12", "A812"), (["K7", "K8"], "K8"), ("abc", "ABC")])
    assert values["CER"] == pytest.approx((1 + 0 + 3) / (4 + 2 + 3))
    assert values["exact match"] == pytest.approx(1 / 3)
    assert values["quality"] == pytest.approx((3 / 4 + 1 + 0) / 3)
    spaced = measured(measures_text.reading, "<OCR>", [("AB 12", " AB\n12")])
    assert (spaced["CER"], spaced["exact match"]) == (0.0, 1.0)
    longer = measured(measures_text.reading, "<OCR>", [("AB", "WXYZ")])
    assert (longer["CER"], longer["quality"]) == (2.0, 0.0)


@pytest.mark.parametrize(
    ("measure", "task"),
    [(measures_text.reading, "<OCR>"), (measures_text.reply, "ask"), (measures_text.caption, "<CAPTION>")],
)
def test_a_question_without_an_answer_is_wrong_even_where_nothing_is_right(
    measure: Callable[[Section], None], task: str
) -> None:
    assert measured(measure, task, [("", None)])["exact match"] == 0.0


def test_categories_have_a_table_and_a_calibration() -> None:
    task = "<REGION_TO_CATEGORY>"
    pairs = [("cube", "Cube."), ("cube", "ball"), ("ball", "ball")]
    section = section_of(measures_text.category, task, pairs, scores=[0.95])
    values = {metric.name: metric.value for metric in section.metrics}
    assert values == {"accuracy": pytest.approx(2 / 3), "ECE": pytest.approx(0.95 - 2 / 3)}
    (table,) = section.tables
    assert table.rows == (("ball", (1, 1.0)), ("cube", (2, 0.5)))
    partly = section_of(measures_text.category, task, [("cube", "cube"), ("cube", None)], scores=[0.95])
    assert partly.metrics[1].value == pytest.approx(0.05)
    assert counts(partly) == {"accuracy": 2, "ECE": 1}
    assert "ECE" not in measured(measures_text.category, task, pairs), "no score is known"


def test_captions_of_several_references_and_free_prompts() -> None:
    refs = ["a red cube left of a ball", "a cube and a ball on a table"]
    values = measured(
        measures_text.caption, "<CAPTION>", [(refs, "A red cube left of a ball."), ("two cups", "a cone")]
    )
    assert values["exact match"] == 0.5
    assert values["ROUGE-L"] == pytest.approx(0.5)
    second = measured(measures_text.caption, "<CAPTION>", [(refs, refs[1])])
    assert (second["exact match"], second["BLEU-4"]) == (1.0, pytest.approx(1.0))
    assert 0 < (values["CIDEr"] or 0) < 10
    partly = measured(measures_text.caption, "<CAPTION>", [("a red cube", "a blue cube")])
    assert partly["exact match"] == 0.0
    assert partly["quality"] == pytest.approx(2 / 3)  # ROUGE-L of equal lengths
    assert measured(measures_text.reply, "ask", [("yes", "Yes"), ("two", "three")])["exact match"] == 0.5
