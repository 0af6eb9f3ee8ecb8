"""How an answer is shown on its image."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from florence_edge.images import ImageSource, load_image
from florence_edge.prompts import TaskInput
from florence_edge.results import Result
from florence_edge.tasks import InputKind, Task


def annotated(source: ImageSource, task: Task, given: TaskInput, result: Result) -> Image.Image:
    """The picture with the answer, and the box that was asked about where there was one."""
    picture = load_image(source)
    if task.input is InputKind.BOX:
        picture = picture.copy()
        box, width = np.asarray(given, np.float64).tolist(), max(2, round(max(picture.size) / 300))
        pen = ImageDraw.Draw(picture)
        pen.rectangle(box, outline="black", width=width + 2)
        pen.rectangle(box, outline="white", width=width)
    return result.draw(picture)
