"""The worst answers: which they are, what is said of them, and where truth and answer are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_edge.geometry import ImageSize
from florence_edge.grammar import parse
from florence_edge.tasks import find
from florence_train.data import Record
from florence_train.evaluate.answers import Answer
from florence_train.evaluate.gallery import worst

SMALL = ImageSize(96, 96)
BOX = "cube<loc_400><loc_400><loc_800><loc_800>"


class White:
    """A picture of nothing."""

    def __init__(self, size: ImageSize) -> None:
        self.size = size

    def load(self) -> Image.Image:
        return Image.new("RGB", self.size, "white")


def answer(*truths: str, found: str, error: str = "", size: ImageSize = SMALL) -> Answer:
    record, read = Record("a.png", White(size), size, ()), [parse("<OD>", text, size) for text in (*truths, found)]
    return Answer(7, record, find("<OD>"), None, tuple(read[:-1]), read[-1], error)


def drawn(page: Image.Image, left: int, top: int, right: int, bottom: int) -> bool:
    """Whether anything in a rectangle is not white."""
    return bool((np.asarray(page)[top:bottom, left:right] != 255).any())


def test_the_worst_come_first_and_none_is_perfect(tmp_path: Path) -> None:
    answers = [
        answer(BOX, found=""),
        answer(BOX, BOX.replace("cube", "ball"), found=""),
        answer(BOX, found="", error="cut"),
        answer(BOX, found=BOX),
        answer(BOX, found="nonsense"),
    ]
    quality = np.array([0.5, 0.25, 0.75, 1.0, 0.0])
    cases = worst(answers, quality, 5, tmp_path / "worst")
    assert [case.quality for case in cases] == [0.0, 0.25, 0.5, 0.75]
    assert [case.file for case in cases] == [*(f"worst/od-000007{again}.png" for again in ("", "-2", "-3")), ""]
    assert sorted(f"worst/{path.name}" for path in (tmp_path / "worst").iterdir()) == sorted(
        case.file for case in cases if case.file
    )
    assert [case.truth for case in cases] == [BOX, f"{BOX} / {BOX.replace('cube', 'ball')}", BOX, BOX]
    assert [case.found for case in cases] == ["nonsense", "", "", "cut"], "what the model wrote, sense or not"
    assert [case.quality for case in worst(answers, quality, 1, None)] == [0.0]


@pytest.mark.parametrize(("truth", "found", "left", "right"), [(BOX, "", True, False), ("", BOX, False, True)])
def test_the_truth_is_on_the_left_and_both_are_enlarged(
    tmp_path: Path, truth: str, found: str, left: bool, right: bool
) -> None:
    """96 pixels a side become 480, and the box of 38 to 77 one of 192 to 384."""
    (case,) = worst([answer(truth, found=found)], np.zeros(1), 1, tmp_path)
    page = Image.open(tmp_path / Path(case.file).name).convert("RGB")
    assert page.size == (480 + 8 + 480, 480)
    for start, marked in ((0, left), (488, right)):
        assert drawn(page, start + 185, 185, start + 392, 392) == marked
        assert not drawn(page, start, 0, start + 150, 150)
        assert not drawn(page, start + 392, 392, start + 480, 480)


def test_large_pictures_stay_as_they_are(tmp_path: Path) -> None:
    (case,) = worst([answer(BOX, found="", size=ImageSize(640, 600))], np.zeros(1), 1, tmp_path)
    assert Image.open(tmp_path / Path(case.file).name).size == (640 + 8 + 640, 600)
