"""SIGINT and SIGTERM as a question that the loop asks between steps."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_came: list[int] = []
"""Those that came since the last loop began; as its handlers, one list for the process."""


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether one of the signals came; the handlers before are put back."""
    _came.clear()

    def ask(number: int, frame: FrameType | None) -> None:
        _came.append(number)

    previous = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield lambda: bool(_came)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def stopped_by() -> int:
    """The signal that ended the last loop, for the command's exit code; SIGINT where another process got it."""
    return _came[0] if _came else signal.SIGINT


def leave_signals_to_the_loop(worker: int) -> None:
    """For workers of a data loader: a terminal or a scheduler signals the whole group, the loop ends them after saving.

    A worker computes in one thread, so that several do not fight for the cores.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
