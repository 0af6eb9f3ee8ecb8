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
from .tasks import CLASS_SEPARATOR, FREE_PROMPT, InputKind, Task

TaskInput = str | Sequence[str] | npt.ArrayLike | None
"""A phrase, a class name or several, a box, or None: what `Task.input` says."""


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


def class_names(given: TaskInput) -> tuple[str, ...]:
    """The names in the input of an open-vocabulary question, stripped; `InputError` for anything but names."""
    names = [given] if isinstance(given, str) else given
    if isinstance(names, np.ndarray):
        names = names.tolist()
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
    except (TypeError, ValueError):
        raise InputError(f"{expected}; got {given!r}") from None
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


def _clean(given: object, what: str, forbidden: Sequence[str] | None = None) -> str:
    """The stripped text, once it is one and holds no added token (or none of those forbidden)."""
    if not isinstance(given, str):
        raise InputError(f"{what} is a string; got {given!r}")
    text = given.strip()
    if not text:
        raise InputError(f"{what} must hold more than white space; got {given!r}")
    found = [token for token in reserved_in(text) if forbidden is None or token in forbidden]
    if found:
        raise InputError(f"{what} must not hold the model's own tokens; got {', '.join(found)} in {given!r}")
    return text


_WRITERS: dict[InputKind, Callable[[Task, TaskInput, ImageSize], str]] = {
    InputKind.PHRASE: _phrase,
    InputKind.CLASSES: _classes,
    InputKind.BOX: _box,
}
