"""What is asked: a task and its input as the one sentence that the encoder gets.

The sentences are the task table's; this module checks the input and writes it in. The tokens around a prompt are for
`tokens.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ._pieces import CONTROL_TOKENS, reserved_in
from .errors import InputError
from .geometry import ImageSize
from .locations import as_size, quantise, spell
from .tasks import CLASS_SEPARATOR, FREE_PROMPT, InputKind, Task, find

TaskInput = str | Sequence[str] | npt.ArrayLike | None
"""A phrase, a class name or several, a box, or None: what `Task.input` says."""

ANY_SIZE = ImageSize(1 << 20, 1 << 20)
"""Larger than any image: stands for the size where a box is checked before its image is known."""


def prompt_for(task: Task, given: TaskInput, size: Sequence[int]) -> str:
    """The prompt of a task.

    `given` is a phrase, a class name or a list of them, a box x1 y1 x2 y2 in pixels of the image of `size` (width,
    height), or None, as `task.input` says. Raises `InputError` when the input is missing, unwanted or unusable.
    """
    if task.input is InputKind.NONE:
        if given is not None:
            raise InputError(f"{task.token} takes no input; got {given!r}")
        return task.prompt
    if given is None:
        raise InputError(f"{task.token} takes {task.input.value}; got none")
    return task.prompt.replace("{input}", _WRITERS[task.input](task, given, as_size(size)))


def read_input(task: Task, texts: Sequence[str]) -> TaskInput:
    """The input of a task from texts, as command lines and ROS parameters have it; None where there are none.

    A phrase is one text, a box one "x1,y1,x2,y2", class names are any number with or without commas. Raises
    `InputError` for what the task does not take, as far as that can be known without an image.
    """
    given: TaskInput = _READERS[task.input](texts) if texts else None
    prompt_for(task, given, ANY_SIZE)
    return given


def read_question(name: str, texts: Sequence[str]) -> tuple[Task, TaskInput]:
    """The task that a name means with these texts, and its input; `InputError` as from `find` and `read_input`."""
    task = find(name, with_input=bool(texts))
    return task, read_input(task, texts)


def class_names(given: TaskInput) -> tuple[str, ...]:
    """The names in the input of an open-vocabulary question, stripped; `InputError` for anything but names."""
    names = given.tolist() if isinstance(given, np.ndarray) else given
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, Sequence) or not names:
        raise InputError(f"classes are a name or a list of one name or more; got {given!r}")
    return tuple(_clean(name, "a class name") for name in names)


def _phrase(task: Task, given: TaskInput, size: ImageSize) -> str:
    if task is FREE_PROMPT:
        return _clean(given, "a prompt", forbidden=CONTROL_TOKENS)
    return _clean(given, "a phrase")


def _classes(task: Task, given: TaskInput, size: ImageSize) -> str:
    return CLASS_SEPARATOR.join(class_names(given))


def _box(task: Task, given: TaskInput, size: ImageSize) -> str:
    return spell(quantise(checked_box(given, size), size).tolist())


def checked_box(given: TaskInput, size: ImageSize) -> npt.NDArray[np.float64]:
    """The box [4] float64, once it is four finite numbers, not inverted and inside the image."""
    expected = "a box is x1 y1 x2 y2 in pixels with x1 <= x2 and y1 <= y2"
    try:
        box = np.asarray(given, np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last from a tensor that records gradients
        raise InputError(f"{expected}; got {given!r:.200}") from None
    if box.shape != (4,):
        raise InputError(f"{expected}; got an array of shape {list(box.shape)}")
    if not np.isfinite(box).all():
        raise InputError(f"{expected}; got {box.tolist()}, which is not finite")
    x1, y1, x2, y2 = box.tolist()
    faults = [
        text
        for wrong, text in (
            (x1 > x2, f"x1 ({x1:g}) is right of x2 ({x2:g})"),
            (y1 > y2, f"y1 ({y1:g}) is below y2 ({y2:g})"),
            (min(x1, x2) < 0 or max(x1, x2) > size.width, f"x leaves the image, 0 to {size.width}"),
            (min(y1, y2) < 0 or max(y1, y2) > size.height, f"y leaves the image, 0 to {size.height}"),
        )
        if wrong
    ]
    if faults:
        raise InputError(f"{expected}; got {box.tolist()}: {'; '.join(faults)}")
    return box


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; one from JSON or from a file name need not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _clean(given: object, what: str, forbidden: Sequence[str] | None = None) -> str:
    """The stripped text, once it is one and holds no added token (or none of those forbidden)."""
    if not isinstance(given, str):
        raise InputError(f"{what} is a string; got {given!r}")
    text = given.strip()
    if not text:
        raise InputError(f"{what} must hold more than white space; got {given!r}")
    if not is_unicode(text):
        raise InputError(f"{what} must be Unicode text; got {given!r}, which holds half a surrogate pair")
    found = [token for token in reserved_in(text) if forbidden is None or token in forbidden]
    if found:
        raise InputError(f"{what} must not hold the model's own tokens; got {', '.join(found)} in {given!r}")
    return text


_WRITERS: dict[InputKind, Callable[[Task, TaskInput, ImageSize], str]] = {
    InputKind.PHRASE: _phrase,
    InputKind.CLASSES: _classes,
    InputKind.BOX: _box,
}


def _one(texts: Sequence[str]) -> str:
    if len(texts) > 1:
        raise InputError(f"the input was given {len(texts)} times, but the task takes one")
    return texts[0]


def _names(texts: Sequence[str]) -> list[str]:
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def _corners(texts: Sequence[str]) -> list[float]:
    try:
        return [float(number) for number in _one(texts).replace(",", " ").split()]
    except ValueError:
        raise InputError(f"the input {texts[0]!r} is no box; give x1,y1,x2,y2 in pixels") from None


_READERS: dict[InputKind, Callable[[Sequence[str]], TaskInput]] = {
    InputKind.NONE: _one,
    InputKind.PHRASE: _one,
    InputKind.CLASSES: _names,
    InputKind.BOX: _corners,
}
