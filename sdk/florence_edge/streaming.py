"""An answer read while it is being written."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import cast

import numpy as np

from .backends import Hypothesis
from .errors import InputError
from .geometry import Int64Array
from .results import Result

Steps = Generator[Int64Array, None, Hypothesis]


class TextStream(Iterator[str]):
    """Iterates over the pieces of an answer as they become certain; `result` holds the parsed answer at the end.

    Every piece is whole characters, and the pieces together are the answer's text (for tasks that answer with regions:
    the answer as the model wrote it, location tokens included). Nothing is generated before the iteration starts; from
    then on, until the stream is read to its end, closed or dropped, the model is busy with it: other threads wait, and
    a call from the same thread is refused.
    """

    def __init__(
        self, steps: Steps, *, read: Callable[[Int64Array], str], finish: Callable[[Hypothesis], Result]
    ) -> None:
        self._outcome: list[Result] = []
        self._pieces = _pieces(steps, read, finish, self._outcome)

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def result(self) -> Result:
        """The parsed answer; raises `InputError` before the stream was read to its end."""
        if not self._outcome:
            raise InputError("the stream was not read to its end, so it has no result; iterate over it first")
        return self._outcome[0]

    def close(self) -> None:
        """Gives up the rest of the answer and frees the model; calling it twice is allowed."""
        self._pieces.close()


def _pieces(
    steps: Steps, read: Callable[[Int64Array], str], finish: Callable[[Hypothesis], Result], outcome: list[Result]
) -> Generator[str, None, None]:
    """The pieces, and in the end the result in `outcome`.

    It knows nothing of the `TextStream`, so that dropping that ends it at once. The whole answer is read anew for every
    piece: token by token, the bytes of a character could not be put together.
    """
    ids: list[Int64Array] = []
    told = ""
    with closing(steps):
        while True:
            try:
                ids.append(next(steps))
            except StopIteration as stop:
                hypothesis = cast(Hypothesis, stop.value)
                break
            text = certain(read(np.concatenate(ids)))
            if text != told:
                yield text[len(told) :]
                told = text
    outcome.append(finish(hypothesis))
    text = read(hypothesis.ids)
    if text != told:
        yield text[len(told) :]


def certain(text: str) -> str:
    """The part of a text that further tokens cannot change.

    The bytes of an unfinished character decode to U+FFFD, and spaces at the end are dropped from a finished answer.
    """
    return text.rstrip("\ufffd").rstrip()
