"""What a node asks: a task and its input as ROS parameters can say them, checked before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from florence_edge.prompts import TaskInput, read_question


@dataclass(frozen=True)
class Question:
    """A task by any of its names and its input as texts: a phrase, class names, or "x1,y1,x2,y2" in pixels.

    Empty texts count as none, since ROS cannot tell an empty list of strings from a list of unknown type. Raises
    `InputError` for an unknown task or an input that it does not take.
    """

    task: str
    texts: tuple[str, ...] = ()
    input: TaskInput = field(init=False)

    def __post_init__(self) -> None:
        texts = tuple(text for text in self.texts if text.strip())
        object.__setattr__(self, "texts", texts)
        object.__setattr__(self, "input", read_question(self.task, texts)[1])

    @classmethod
    def of(cls, task: str, texts: Sequence[str]) -> Question:
        """From parameter values."""
        return cls(task, tuple(texts))

    def __str__(self) -> str:
        return " ".join([self.task, *map(repr, self.texts)])
