"""The worst answers of every task, and pictures of them with the truth on the left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from florence_edge.drawing.asked import annotated
from florence_edge.errors import FlorenceError
from florence_edge.geometry import ImageSize
from florence_edge.grammar import format_answer
from florence_edge.results import Result
from florence_train.data.moves import moved
from florence_train.examples import Example, Given

from .answers import Answer
from .report import Worst
from .resampling import Float64Array

_LEAST_SIDE = 480
"""Smaller pictures are enlarged to this, so that labels can be read."""


def worst(answers: Sequence[Answer], quality: Float64Array, count: int, folder: Path | None) -> list[Worst]:
    """The `count` answers of least quality below 1; pictures go to `folder` where one is given."""
    order = np.argsort(quality, kind="stable")[:count].tolist()
    return [_case(answers[index], float(quality[index]), folder) for index in order if quality[index] < 1]


def _case(answer: Answer, quality: float, folder: Path | None) -> Worst:
    name = ""
    if folder is not None and not answer.error:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{answer.task.name}-{answer.image:06d}.png"
        number = 1
        while (folder / name).exists():
            number += 1
            name = f"{answer.task.name}-{answer.image:06d}-{number}.png"
        _picture(answer).save(folder / name)
        name = f"{folder.name}/{name}"
    truth = " / ".join(spelled(answer, result) for result in answer.truths)
    found = answer.error or spelled(answer, answer.found)
    return Worst(answer.task.token, answer.record.name, _asked(answer.given), round(quality, 4), truth, found, name)


def spelled(answer: Answer, result: Result) -> str:
    """An answer as the model writes it."""
    try:
        return result.raw or format_answer(answer.task, result)
    except FlorenceError as error:
        return f"({error})"


def _picture(answer: Answer) -> Image.Image:
    """Truth and answer side by side, both drawn on the enlarged picture."""
    image = answer.record.picture.load()
    factor = max(1.0, _LEAST_SIDE / min(image.size))
    size = ImageSize(round(image.width * factor), round(image.height * factor))
    scale = np.array([size.width / image.width, size.height / image.height], np.float32)

    def drawn(result: Result) -> Image.Image:
        example = moved(Example(answer.task.token, answer.given, result), lambda points: np.multiply(points, scale))
        target = replace(example.target, size=size)
        return annotated(image.resize(size), answer.task, example.input, target)

    sides = drawn(answer.truths[0]), drawn(answer.found)
    page = Image.new("RGB", (sum(side.width for side in sides) + 8, max(side.height for side in sides)), "white")
    page.paste(sides[0], (0, 0))
    page.paste(sides[1], (sides[0].width + 8, 0))
    return page


def _asked(given: Given) -> str:
    """The input in words: a phrase, class names, or the corners of a box."""
    if given is None or isinstance(given, str):
        return given or ""
    return ", ".join(f"{value:.1f}" if isinstance(value, float) else str(value) for value in given)
