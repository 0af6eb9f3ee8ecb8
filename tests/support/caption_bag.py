"""A process that may be killed: asks a scripted model about a bag and writes a bag, going on where it was.

python -m support.caption_bag BUNDLE INPUT OUTPUT
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from florence_edge.bundle import Bundle
from florence_edge.model import Florence
from florence_edge.stream import StreamOptions, watch
from florence_edge.tasks import Task
from support.fake_backend import FakeBackend, plausible

TASKS = ("detect", "caption", ("segment", "the red cube"))


def slow(task: Task, given: str, brightness: float) -> str:
    """Answers that depend on the picture, and take a moment."""
    time.sleep(0.004)
    answer = plausible(task, given, brightness)
    return f"{answer} {brightness:.4f}" if task.token == "<CAPTION>" else answer


def main(bundle: str, source: str, output: str) -> None:
    opened = Bundle.open(Path(bundle))
    model = Florence(opened, FakeBackend(opened, slow))
    with watch(
        model, f"bag://{source}", TASKS, sinks=[f"bag://{output}"], options=StreamOptions(resume=True)
    ) as events:
        for _ in events:
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
