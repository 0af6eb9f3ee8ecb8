"""An answer cut into pieces, as a result in pixels: one builder per kind of result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from typing import Any

import numpy as np

from ._pieces import Piece, spelled, without_blanks
from ._pieces import Text as TextPiece
from ._regions import Region, read
from .geometry import Float32Array, ImageSize, Int64Array
from .locations import dequantise
from .phrases import UNGROUNDABLE
from .prompts import TaskInput, class_names
from .results import Detections, Polygons, Quads, Result, Text
from .tasks import Grammar, InputKind, Task


@dataclass(frozen=True)
class ParseOptions:
    """What was asked, and how labels are kept.

    `classes` are the names that `Detections.class_ids` counts, matched without regard to case; `label` names the masks
    that the model left without one. `skip_ungroundable` leaves phrases such as "it" or "the image" out of phrase
    grounding, as the published processor does. `ascii_labels` drops all but ASCII characters from the labels of boxes
    and masks, as it does for boxes.
    """

    classes: tuple[str, ...] = ()
    label: str = ""
    skip_ungroundable: bool = True
    ascii_labels: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", class_names(self.classes) if len(self.classes) else ())

    @classmethod
    def for_input(cls, task: Task, given: TaskInput) -> ParseOptions:
        """The options that follow from a question's input: its classes; for masks its phrase, or "region" for a box."""
        if given is None:
            return cls()
        if task.input is InputKind.CLASSES:
            return cls(classes=class_names(given))
        if task.grammar is Grammar.POLYGONS:
            return cls(label=given.strip() if isinstance(given, str) else "region")
        return cls()


@dataclass(frozen=True)
class Answer:
    """An answer cut into pieces, with all that a result needs to know about it."""

    task: Task
    size: ImageSize
    pieces: list[Piece]
    finish: str
    tokens: int
    options: ParseOptions

    def common(self, scores: Sequence[float], dropped: int) -> dict[str, Any]:
        """The fields that every result has."""
        return {
            "task": self.task.token,
            "size": self.size,
            "scores": _probabilities(scores),
            "finish": self.finish,
            "tokens": self.tokens,
            "dropped": dropped,
            "raw": spelled(self.pieces),
        }


def result_of(answer: Answer) -> Result:
    """The result that the answer spells; malformed spans are left out and counted."""
    return _BUILDERS[answer.task.grammar](answer)


def _text(answer: Answer) -> Text:
    """All text runs; the location tokens that region tasks append, and any other added token, are no text."""
    runs = [piece for piece in answer.pieces if isinstance(piece, TextPiece)]
    tokens = sum(run.tokens for run in runs)
    logprob = sum(run.logprob for run in runs) / tokens if tokens else np.nan
    return Text(**answer.common([logprob], 0), text="".join(run.text for run in runs).strip())


def _detections(answer: Answer) -> Detections:
    regions, dropped = _regions(answer)
    options = answer.options
    if answer.task.grammar is Grammar.PHRASE_BOXES and options.skip_ungroundable:
        regions = [region for region in regions if region.label.text not in UNGROUNDABLE]
    labels = _labels(regions, options)
    points = _points(regions, answer.size)
    return Detections(
        **answer.common([region.logprob() for region in regions], dropped),
        boxes=_bounds(regions, points),
        labels=labels,
        class_ids=class_ids(labels, options.classes),
        classes=options.classes,
        polygons=_rings(regions, points),
    )


def _polygons(answer: Answer) -> Polygons:
    regions, dropped = _regions(answer)
    return Polygons(
        **answer.common([region.logprob() for region in regions], dropped),
        polygons=_rings(regions, _points(regions, answer.size)),
        labels=tuple(label or answer.options.label for label in _labels(regions, answer.options)),
    )


def _quads(answer: Answer) -> Quads:
    regions, dropped = _regions(answer)
    return Quads(
        **answer.common([region.logprob() for region in regions], dropped),
        quads=_points(regions, answer.size).reshape(-1, 4, 2),
        texts=tuple(region.label.text for region in regions),
    )


_BUILDERS: dict[Grammar, Callable[[Answer], Result]] = {
    Grammar.TEXT: _text,
    Grammar.LABELLED_BOXES: _detections,
    Grammar.BOXES: _detections,
    Grammar.PHRASE_BOXES: _detections,
    Grammar.QUADS: _quads,
    Grammar.POLYGONS: _polygons,
    Grammar.LABELLED_BOXES_OR_POLYGONS: _detections,
}


def _regions(answer: Answer) -> tuple[list[Region], int]:
    return read(answer.task.grammar, without_blanks(answer.pieces))


def _labels(regions: Sequence[Region], options: ParseOptions) -> tuple[str, ...]:
    labels = (region.label.text for region in regions)
    if options.ascii_labels:
        return tuple(label.encode("ascii", "ignore").decode("ascii") for label in labels)
    return tuple(labels)


def class_ids(labels: Sequence[str], classes: Sequence[str] = ()) -> Int64Array:
    """Index of each label among the classes (-1 for none), or among the distinct labels where no classes are given."""
    keys = [label.casefold() for label in labels] if classes else labels
    names = [name.casefold() for name in classes] or list(dict.fromkeys(labels))
    index = {name: place for place, name in reversed(list(enumerate(names)))}
    return np.asarray([index.get(key, -1) for key in keys], np.int64)


def _points(regions: Sequence[Region], size: ImageSize) -> Float32Array:
    """All points of all regions [P, 2] in pixels, in order."""
    bins = [index for region in regions for part in region.parts for index in part.bins]
    return dequantise(np.asarray(bins, np.int64).reshape(-1, 2), size)


def _bounds(regions: Sequence[Region], points: Float32Array) -> Float32Array:
    """Smallest boxes [N, 4] around each region's points, which also puts the corners of a box in order."""
    if not regions:
        return np.zeros((0, 4), np.float32)
    counts = [sum(len(part.bins) // 2 for part in region.parts) for region in regions]
    starts = [0, *accumulate(counts[:-1])]
    corners = [np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)]
    return np.concatenate(corners, axis=1)


def _rings(regions: Sequence[Region], points: Float32Array) -> tuple[tuple[Float32Array, ...], ...]:
    """The points of each region, ring by ring; nothing for a region that is no polygon."""
    ends = accumulate(len(part.bins) // 2 for region in regions for part in region.parts)
    cuts = pairwise([0, *ends])
    return tuple(
        tuple([points[start:stop] for start, stop in islice(cuts, len(region.parts)) if region.is_polygon])
        for region in regions
    )


def _probabilities(logprobs: Sequence[float]) -> Float32Array:
    with np.errstate(over="ignore"):  # a caller's logprobs may be no log-probabilities
        return np.exp(np.asarray(logprobs, np.float64)).astype(np.float32)
