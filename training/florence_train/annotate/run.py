"""`annotate`: a model and images in, training data and an account of it out.

Answers come first and are kept as they are, scores included; filters run over what is kept. So a killed run loses
nothing, and other filters need no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from florence_edge.card import identity
from florence_edge.errors import BackendError, FlorenceError, InputError, listing
from florence_edge.files import write, writing
from florence_edge.model import Florence
from florence_edge.results import Result
from florence_edge.stream import Event, Frame, Run, Source, SourceError
from florence_edge.stream.asks import Schedule
from florence_edge.stream.feeds import Recorded
from florence_edge.stream.jsonl import JsonLines
from florence_edge.stream.loop import FAILURES_IN_A_ROW
from florence_edge.stream.mailbox import Ledger
from florence_edge.stream.writer import Writer
from florence_edge.view import Prepared

from .filters import Filter
from .plan import Plan, answer
from .report import Report
from .selecting import Tally, restore, select, steps_of, turn
from .sources import image_file, open_images

ANSWERS, LABELS = "answers.jsonl", "train.jsonl"
"""What lies in the output folder: the answers as the model gave them, and the training data made of them."""

_WAIT_S = 0.2


@dataclass(frozen=True)
class Job:
    """What decides the answers: the model, the images, the questions."""

    model: str
    source: Source
    plan: Plan
    out: Path

    def run(self) -> Run:
        """The run as sinks know it."""
        decided = {"bundle": self.model, "plan": self.plan.to_dict(), "source": self.source.identity}
        key = hashlib.sha256(json.dumps(decided, sort_keys=True).encode("utf-8")).hexdigest()[:16]
        return Run(key, {self.source.tag: None}, live=False, resume=True)


def annotate(
    model: Florence,
    source: str | Source,
    *,
    out: str | Path,
    plan: Plan,
    filters: Sequence[Filter] = (),
    on_image: Callable[[], Any] = lambda: None,
) -> Report:
    """Labels the images of a source and writes `answers.jsonl`, `train.jsonl`, `report.json` and `report.md` to `out`.

    `source` is a text as `open_images` takes it. A run that was stopped, or killed, goes on behind its last answer when
    it is called again; a finished one is only filtered anew. An image that cannot be read, or a question that cannot be
    answered, is told in the report. Raises `SinkError` where `out` holds the answers of another run, `SourceError` when
    the source was lost, and `BackendError` when the engine fails again and again.
    """
    images = open_images(source) if isinstance(source, str) else source
    job = Job(identity(model.bundle), images, plan, Path(out))
    collect(job, lambda start: _events(model, job, start), on_image=on_image)
    return label(job.out, plan, filters=filters)


def collect(job: Job, events: Callable[[int], Generator[Event, None, None]], *, on_image: Callable[[], Any]) -> None:
    """Adds to the answers what they lack; `events` gives those from an image on, in order."""
    job.out.mkdir(parents=True, exist_ok=True)
    writer = Writer([JsonLines(job.out / ANSWERS)], job.run())
    failures = 0
    try:
        start = writer.open()[job.source.tag]
        for _ in range(start):
            on_image()
        with closing(events(start)) as given:
            for event in given:
                failed = [error for error in event.errors.values() if isinstance(error, BackendError)]
                failures = failures + 1 if failed else 0
                if failures >= FAILURES_IN_A_ROW:
                    raise BackendError(f"the engine failed on {failures} images in a row: {failed[0]}") from failed[0]
                writer.put(event)
                on_image()
    finally:
        writer.close()


def label(out: Path, plan: Plan, *, filters: Sequence[Filter] = ()) -> Report:
    """Filters the answers in a folder into training data and writes it with the report, each in one step."""
    tallies: dict[str, Tally] = {}
    faults: list[str] = []
    images = labelled = turns = 0
    with writing(out / LABELS) as stream:
        for values in _answers(out / ANSWERS):
            images += 1
            errors = values.get("errors", {})
            faults += [f"{values['name']}: {prefix or 'the image'}: {error}" for prefix, error in errors.items()]
            left = select(restore(values), filters, plan=plan, tallies=tallies)
            labelled += bool(left)
            for answered in left:
                line = turn(answered, image=values["name"], run=values["run"])
                stream.write(json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n")
                turns += 1
    report = Report(
        images=images,
        labelled=labelled,
        turns=turns,
        steps=tuple(steps_of(filters)),
        tasks={token: tallies[token].to_dict(steps_of(filters)) for token in plan.tasks if token in tallies},
        faults=tuple(faults),
        plan=plan.to_dict(),
    )
    write(out / "report.json", report.to_json().encode("utf-8"))
    write(out / "report.md", report.to_markdown().encode("utf-8"))
    return report


def _events(model: Florence, job: Job, start: int) -> Generator[Event, None, None]:
    """The answers from an image on; images are read and resized ahead of the model, in threads of their own."""
    source = job.source
    feed = Recorded([source], Schedule(job.plan.asks), lambda: model.bundle.manifest.image, Ledger([source.tag]))
    feed.start({source.tag: start})
    try:
        while not feed.finished:
            ready = feed.next(_WAIT_S)
            if ready is not None:
                yield event_of(ready.frame, job, *answers_about(model, ready.prepared, job.plan))
    finally:
        feed.close()
    if feed.faults:
        raise SourceError(listing("the source was lost; what was answered is complete:", feed.faults))


def answers_about(
    model: Florence, image: Prepared | None, plan: Plan
) -> tuple[Mapping[str, Result], Mapping[str, FlorenceError]]:
    """Results and errors by prefix, none for an image that cannot be read; a failing engine is an error of its own."""
    if image is None:
        return {}, {}
    try:
        return answer(model, image, plan=plan)
    except BackendError as error:
        return {}, {"": error}


def event_of(frame: Frame, job: Job, results: Mapping[str, Result], errors: Mapping[str, FlorenceError]) -> Event:
    """The answers about one image, which is called as training data in the output folder will name it."""
    if frame.error is None:
        frame = replace(frame, name=image_file(job.source, frame, job.out))
    return Event(frame, results, errors)


def _answers(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}: line {number} is no answer: {error}") from error
