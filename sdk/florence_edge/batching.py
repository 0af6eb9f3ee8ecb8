"""Answers many questions at once: each distinct image is encoded once, questions that can share a search share one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from .backends import ImageFeatures
from .codec import Question
from .errors import FlorenceError, InputError
from .images import ImageSource
from .options import SearchOptions
from .prompts import TaskInput
from .results import Result
from .runtime import Runtime
from .tasks import find
from .view import Prepared, Stopwatch, View

OnError = Literal["raise", "return"]
Item = tuple[ImageSource | View, str] | tuple[ImageSource | View, str, TaskInput]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Ask:
    """One item of the batch: its place, its task and its input."""

    index: int
    task: str
    input: TaskInput


@dataclass(frozen=True, eq=False)
class _Ready:
    """An image that was read, and its questions by their place in the batch."""

    image: Prepared | View
    questions: dict[int, Question]


@dataclass(frozen=True, eq=False)
class _Job:
    """A question to search for: its place, the row of the features it is about, its share of its image's time."""

    index: int
    question: Question
    row: int
    stages: dict[str, float]


class Batch:
    """One run over many items; `run` gives a result or an error for every one of them, in order."""

    def __init__(self, runtime: Runtime, *, search: SearchOptions | None, size: int, on_error: OnError) -> None:
        if not isinstance(size, int) or size < 1:
            raise InputError(f"batch_size is {size!r}; it must be a whole number, 1 or more")
        if on_error not in ("raise", "return"):
            raise InputError(f"errors is {on_error!r}; it must be 'raise' or 'return'")
        self._runtime, self._search, self._size, self._on_error = runtime, search, size, on_error
        self._answers: dict[int, Result | FlorenceError] = {}

    def run(self, items: Iterable[Item]) -> list[Result | FlorenceError]:
        """Answers the items."""
        self._runtime.check_open()
        asked = self._by_image(items)
        views = [pair for pair in asked if isinstance(pair[0], View)]
        sources = [pair for pair in asked if not isinstance(pair[0], View)]
        for chunk in (*([pair] for pair in views), *_chunks(sources, self._size)):
            self._encode([ready for source, asks in chunk for ready in self._read(source, asks)])
        return [self._answers[index] for index in sorted(self._answers)]

    def _by_image(self, items: Iterable[Item]) -> list[tuple[ImageSource | View, list[_Ask]]]:
        """The distinct images in order of appearance, each with what is asked about it."""
        asked: dict[object, tuple[ImageSource | View, list[_Ask]]] = {}
        for index, item in enumerate(items):
            if not isinstance(item, tuple) or len(item) not in (2, 3):
                self._fail([index], InputError(f"got {item!r:.80}; an item is (image, task) or (image, task, input)"))
                continue
            _, asks = asked.setdefault(_identity(item[0]), (item[0], []))
            asks.append(_Ask(index, item[1], item[2] if len(item) == 3 else None))
        return list(asked.values())

    def _read(self, source: ImageSource | View, asks: Sequence[_Ask]) -> Iterator[_Ready]:
        """Reads an image and puts its questions into tokens; nothing when none can be asked."""
        try:
            image = self._runtime.prepare(source)
        except FlorenceError as error:
            self._fail([ask.index for ask in asks], error)
            return
        questions = {}
        for ask in asks:
            try:
                task = find(ask.task, with_input=ask.input is not None)
                questions[ask.index] = self._runtime.codec.question(task, ask.input, image.size, self._search)
            except FlorenceError as error:
                self._fail([ask.index], error)
        if questions:
            yield _Ready(image, questions)

    def _encode(self, images: Sequence[_Ready]) -> None:
        """Encodes images together and answers everything asked about them."""
        if not images:
            return
        watch = Stopwatch()
        try:
            features = self._features([ready.image for ready in images], watch)
        except FlorenceError as error:
            if not self._one_by_one(images, self._encode):
                self._fail([index for ready in images for index in ready.questions], error)
            return
        jobs = [
            _Job(index, question, row, _shares(ready, watch, len(images)))
            for row, ready in enumerate(images)
            for index, question in ready.questions.items()
        ]
        for group in _grouped(jobs):
            for chunk in _chunks(group, self._size):
                self._answer(features, chunk)

    def _features(self, images: Sequence[Prepared | View], watch: Stopwatch) -> ImageFeatures:
        """The features of one view, or of images encoded now."""
        if isinstance(images[0], View):
            return images[0].features
        pixels = np.concatenate([image.pixels for image in images if isinstance(image, Prepared)])
        with watch.measure("vision"):
            return self._runtime.encode(pixels)

    def _answer(self, features: ImageFeatures, jobs: Sequence[_Job]) -> None:
        """Searches for the answers to questions that share their search options."""
        watch = Stopwatch()
        try:
            with watch.measure("search"):
                hypotheses = self._runtime.generate(features, [job.question for job in jobs], [job.row for job in jobs])
        except FlorenceError as error:
            if not self._one_by_one(jobs, lambda some: self._answer(features, some)):
                self._fail([job.index for job in jobs], error)
            return
        search = watch.stages["search"] / len(jobs)
        for job, hypothesis in zip(jobs, hypotheses, strict=True):
            stages = {**job.stages, "search": search}
            self._answers[job.index] = self._runtime.codec.result(job.question, hypothesis, stages)

    def _one_by_one(self, group: Sequence[T], answer: Callable[[Sequence[T]], None]) -> bool:
        """Repeats a failed group one member at a time, so that only the bad one fails; False when that cannot help."""
        if len(group) == 1 or self._on_error == "raise":
            return False
        for member in group:
            answer([member])
        return True

    def _fail(self, indexes: Sequence[int], error: FlorenceError) -> None:
        """Keeps the error as the answer of its items, or raises it with their places."""
        if self._on_error == "raise":
            places = ", ".join(str(index) for index in indexes)
            raise type(error)(f"item {places}: {error}") from error
        self._answers.update(dict.fromkeys(indexes, error))


def _identity(source: ImageSource | View) -> object:
    """What makes two sources the same image: the file a path leads to, else the object itself."""
    if not isinstance(source, (str, os.PathLike)):
        return id(source)
    try:
        return os.path.realpath(os.fsdecode(source))
    except ValueError:  # no path at all, such as one with a null character; reading it will say so
        return source


def _shares(ready: _Ready, vision: Stopwatch, images: int) -> dict[str, float]:
    """What each question of an image bears of its image's time, so that the results of a batch add up to its time."""
    if isinstance(ready.image, View):
        return {}
    stages = {**ready.image.timings_ms, "vision": vision.stages["vision"] / images}
    return {stage: spent / len(ready.questions) for stage, spent in stages.items()}


def _grouped(jobs: Iterable[_Job]) -> Iterator[list[_Job]]:
    """The jobs by search options: one search has one token limit, and the limit can change an answer."""
    groups: dict[SearchOptions, list[_Job]] = {}
    for job in jobs:
        groups.setdefault(job.question.options, []).append(job)
    yield from groups.values()


def _chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
