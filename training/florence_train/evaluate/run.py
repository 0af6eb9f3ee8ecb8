"""`evaluate`: a model and data in, a report out."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from florence_edge.card import identity
from florence_edge.errors import InputError, listing
from florence_edge.model import Florence
from florence_edge.options import SearchOptions
from florence_edge.tasks import find
from florence_train.data import Dataset, Record
from florence_train.data.record import asking

from . import measures_boxes, measures_shapes, measures_text
from .answers import Answer, ask
from .gallery import worst
from .report import Report
from .resampling import Resampling
from .section import Section

MEASURES: dict[str, Callable[[Section], None]] = {
    "<CAPTION>": measures_text.caption,
    "<DETAILED_CAPTION>": measures_text.caption,
    "<MORE_DETAILED_CAPTION>": measures_text.caption,
    "<OCR>": measures_text.reading,
    "<OCR_WITH_REGION>": measures_shapes.lines,
    "<OD>": measures_boxes.detection,
    "<DENSE_REGION_CAPTION>": measures_boxes.described,
    "<REGION_PROPOSAL>": measures_boxes.proposals,
    "<CAPTION_TO_PHRASE_GROUNDING>": measures_boxes.grounding,
    "<REFERRING_EXPRESSION_SEGMENTATION>": measures_shapes.masks,
    "<REGION_TO_SEGMENTATION>": measures_shapes.masks,
    "<OPEN_VOCABULARY_DETECTION>": measures_boxes.described,
    "<REGION_TO_CATEGORY>": measures_text.category,
    "<REGION_TO_DESCRIPTION>": measures_text.caption,
    "<REGION_TO_OCR>": measures_text.reading,
    "<ASK>": measures_text.reply,
}
"""What is measured of each task."""


@dataclass(frozen=True)
class EvalOptions:
    """How to evaluate.

    `tasks` limits the questions to some tasks (names as `tasks.find` takes them), `limit` the images to the first so
    many. `batch_size` images are asked about together. `resamples` bootstrap draws give intervals of `confidence`;
    0 gives none. `worst` answers of each task are listed.
    """

    tasks: tuple[str, ...] = ()
    limit: int | None = None
    search: SearchOptions | None = None
    batch_size: int = 8
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    worst: int = 5

    def __post_init__(self) -> None:
        faults = [
            message
            for wrong, message in (
                (self.limit is not None and self.limit < 1, f"limit is {self.limit}; it must be 1 or more"),
                (self.batch_size < 1, f"batch_size is {self.batch_size}; it must be 1 or more"),
                (self.resamples < 0, f"resamples is {self.resamples}; it must be 0 or more"),
                (not 0 < self.confidence < 1, f"confidence is {self.confidence}; it must be between 0 and 1"),
                (self.worst < 0, f"worst is {self.worst}; it must be 0 or more"),
            )
            if wrong
        ]
        if faults:
            raise InputError(listing("these evaluation options cannot be used:", faults))


WITHOUT_INTERVALS = EvalOptions(resamples=0)
"""Without intervals, which take longer than the measures themselves."""


def evaluate(
    model: Florence,
    data: Dataset | Iterable[Record],
    *,
    options: EvalOptions = EvalOptions(),
    name: str = "data",
    gallery: Path | None = None,
    on_image: Callable[[], Any] = lambda: None,
) -> Report:
    """Asks a model everything that the data asks, and compares the answers with the data's.

    `data` is what `florence_train.data.load` or `tabletop` gives. All questions about an image share its encoding.
    `name` is how the report calls the data; pictures of the worst answers go to the folder `gallery` if one is given.
    Raises `InputError` where there is nothing to ask, `DependencyError` without pycocotools if boxes are asked for.
    """
    start = time.perf_counter()
    answers = answered(model, data, options=options, name=name, on_image=on_image)
    seconds = time.perf_counter() - start
    sections = measured(answers, options)
    cases = [case for part in sections for case in worst(part.answers, part.quality, options.worst, gallery)]
    faults = data.faults if isinstance(data, Dataset) else ()
    return Report(
        model={
            "bundle": str(model.bundle.folder),
            "identity": identity(model.bundle),
            "backend": type(model.backend).__name__,
        },
        data=name,
        settings=_settings(options, model),
        images=len({answer.image for answer in answers}),
        questions=len(answers),
        metrics=tuple(metric for section in sections for metric in section.metrics),
        tables=tuple(table for section in sections for table in section.tables),
        worst=tuple(cases),
        failures=tuple(f"{a.record.name}: {a.task.token}: {a.error}" for a in answers if a.error),
        faults=tuple(str(fault) for fault in faults),
        seconds=seconds,
        machine={"processor": platform.processor() or platform.machine(), "system": platform.system()},
    )


def answered(
    model: Florence,
    data: Dataset | Iterable[Record],
    *,
    options: EvalOptions,
    name: str = "data",
    on_image: Callable[[], Any] = lambda: None,
) -> list[Answer]:
    """The answers to everything that the data asks; `InputError` where it asks nothing."""
    records = data.records if isinstance(data, Dataset) else data
    wanted = {find(task).token for task in options.tasks}
    chosen = islice(asking(records, wanted), options.limit)
    answers = list(ask(model, chosen, search=options.search, batch_size=options.batch_size, on_image=on_image))
    if not answers:
        raise InputError(f"{name} asks nothing{' of ' + ', '.join(sorted(wanted)) if wanted else ''}")
    return answers


def measured(answers: Sequence[Answer], options: EvalOptions = WITHOUT_INTERVALS) -> list[Section]:
    """The numbers of every task that was asked, in the order of the task table."""
    return [_measured(group, options) for group in _by_task(answers)]


def _by_task(answers: Sequence[Answer]) -> list[list[Answer]]:
    """The answers of each task, in the order of the task table."""
    groups: dict[str, list[Answer]] = {token: [] for token in MEASURES}
    for answer in answers:
        groups[answer.task.token].append(answer)
    return [group for group in groups.values() if group]


def _measured(answers: Sequence[Answer], options: EvalOptions) -> Section:
    resampling = Resampling(
        [answer.image for answer in answers],
        resamples=options.resamples,
        confidence=options.confidence,
        seed=options.seed,
    )
    section = Section(answers, resampling)
    MEASURES[section.task](section)
    return section


def _settings(options: EvalOptions, model: Florence) -> dict[str, Any]:
    """The options, the search spelled out as it was run but for the limit of tokens, which is each task's."""
    search = model.bundle.manifest.search.over(options.search or SearchOptions())
    kept = {name: getattr(options, name) for name in ("resamples", "confidence", "seed")}
    return {**kept, "tasks": list(options.tasks), "limit": options.limit, "search": asdict(search)}
