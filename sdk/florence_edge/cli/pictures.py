"""Image files: which ones a command line means, and how an answer is shown on one."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from florence_edge.errors import InputError, listing
from florence_edge.images import ImageSource, load_image
from florence_edge.prompts import TaskInput
from florence_edge.results import Result
from florence_edge.tasks import InputKind, Task

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""What counts as an image inside a folder; a file named on the command line is taken whatever its name."""


def expand(names: Iterable[str]) -> list[Path]:
    """The files in the order given, each once; a folder stands for its images by name, a pattern for what it matches.

    Patterns are those of the shell, with `**` for any depth. Raises `InputError` that lists every name without a file.
    """
    faults: list[str] = []
    found = {path: None for name in names for path in _files(name, faults)}
    if faults:
        raise InputError(listing("nothing to work on:" if not found else "some images were not found:", faults))
    return list(found)


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


def _files(name: str, faults: list[str]) -> Iterator[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        images = sorted(child for child in path.iterdir() if child.suffix.lower() in SUFFIXES and child.is_file())
        if not images:
            faults.append(
                f"{name} is a folder without images ({', '.join(sorted(SUFFIXES))}); for its subfolders: {name}/**"
            )
        yield from images
    elif path.exists():
        yield path
    elif glob.has_magic(name):
        matches = (Path(match) for match in sorted(glob.glob(str(path), recursive=True)))
        images = [match for match in matches if match.is_file() and match.suffix.lower() in SUFFIXES]
        if not images:
            faults.append(f"{name} matches no image")
        yield from images
    else:
        faults.append(f"{name} does not exist")
