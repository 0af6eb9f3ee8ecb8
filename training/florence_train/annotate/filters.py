"""Named steps that take doubtful answers out: each looks at the answers about one image and says which items to keep.

A step is written `NAME`, `NAME=VALUE` or `NAME=VALUE@TASK,TASK`, the last for some tasks alone. Items are regions,
lines of text, or the one text of an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from florence_edge.errors import InputError, listing, missing
from florence_edge.geometry import BoolArray, Float32Array
from florence_edge.phrases import UNGROUNDABLE
from florence_edge.results import Detections, Polygons, Quads, Result, Text
from florence_edge.tasks import DETAIL, InputKind, find
from florence_train.evaluate.overlap import box_iou
from florence_train.evaluate.reading import bare

from .plan import Answered

Keep = Callable[[Answered, Sequence[Answered]], BoolArray]
"""An answer, and all answers about its image that are left so far, to which of its items stay: [N] bool."""

CAPTIONS = tuple(DETAIL.values())


@dataclass(frozen=True)
class Filter:
    """One step: `name` is how reports call it, `tasks` those it looks at (empty: all)."""

    name: str
    keep: Keep
    tasks: frozenset[str] = frozenset()

    def __call__(self, answer: Answered, image: Sequence[Answered]) -> BoolArray:
        """Which items of an answer stay, [N] bool."""
        if self.tasks and answer.task.token not in self.tasks:
            return alike(answer)
        return self.keep(answer, image)


def read_filter(text: str) -> Filter:
    """The step that a text means; `InputError` says what is allowed."""
    rule, _, tasks = text.partition("@")
    name, _, value = rule.partition("=")
    if name not in FILTERS:
        raise InputError(f"{text!r}: no filter is called {name!r}; there are {', '.join(FILTERS)}")
    tokens = frozenset(find(task).token for task in tasks.split(",")) if tasks else frozenset()
    try:
        return Filter(text, FILTERS[name](value), tokens)
    except InputError as error:
        raise InputError(f"{text!r}: {error}") from error


def read_filters(texts: Sequence[str]) -> tuple[Filter, ...]:
    """The steps in order; `InputError` lists every text that means none."""
    steps, faults = [], [f"{text!r} is given twice" for text in dict.fromkeys(texts) if texts.count(text) > 1]
    for text in texts:
        try:
            steps.append(read_filter(text))
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError(listing("these filters cannot be used:", faults))
    return tuple(steps)


def confidence(value: str) -> Keep:
    """Items whose score is at least VALUE; an unknown score does not pass."""
    least = _share(value)
    return lambda answer, image: np.asarray(answer.result.scores >= least)


def finished(value: str) -> Keep:
    """Answers that the model ended itself and that hold no malformed piece."""
    _none(value)
    return lambda answer, image: alike(answer, stay=answer.result.finish == "eos" and not answer.result.dropped)


def nms(value: str) -> Keep:
    """Of boxes with one label that overlap by more than VALUE (IoU) the best scored, by OpenCV."""
    most = _share(value)

    def keep(answer: Answered, image: Sequence[Answered]) -> BoolArray:
        boxes, labels = regions(answer)
        if len(boxes) < 2 or not isinstance(answer.result, (Detections, Polygons)):
            return alike(answer)
        try:
            import cv2
        except ImportError as error:
            raise missing("opencv-python", extra="train", needed_for="the filter nms") from error
        known = {label: number for number, label in enumerate(dict.fromkeys(labels))}
        sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
        # Unknown scores come last; OpenCV takes none that is not above its threshold.
        scores = np.nan_to_num(answer.result.scores, nan=0.0) + np.float32(1.0)
        numbers = [known[label] for label in labels]
        best = cv2.dnn.NMSBoxesBatched(sides.tolist(), scores.tolist(), numbers, 0.0, most)
        return np.isin(np.arange(len(boxes)), np.asarray(best).reshape(-1))

    return keep


def blacklist(value: str) -> Keep:
    """Items whose label or text is none of VALUE: a file with one phrase a line, or phrases with | between them.

    Case and a leading article do not count. Without a value: what the published processor grounds never.
    """
    phrases = UNGROUNDABLE if not value else frozenset(_phrases(value))
    banned = {bare(phrase) for phrase in phrases}
    return lambda answer, image: np.array([bare(text) not in banned for text in texts(answer.result)], np.bool_)


def area(value: str) -> Keep:
    """Regions that cover LOW..HIGH of the image, as shares of its area."""
    low, high = _bounds(value)

    def keep(answer: Answered, image: Sequence[Answered]) -> BoolArray:
        boxes, _ = regions(answer)
        if not len(boxes):
            return alike(answer)
        width, height = answer.result.size
        share = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / (width * height)
        return np.asarray((share >= low) & (share <= high))

    return keep


def words(value: str) -> Keep:
    """Captions of LOW..HIGH words."""
    low, high = _bounds(value)
    return _captions(lambda text: low <= len(text.split()) <= high)


def objects(value: str) -> Keep:
    """Captions that name LOW..HIGH things; see `noun_phrases`."""
    low, high = _bounds(value)
    return _captions(lambda text: low <= noun_phrases(text) <= high)


def agreement(value: str) -> Keep:
    """Regions, and categories of regions, that another task's answer confirms.

    It must hold a region that overlaps by VALUE (IoU) or more; where both have a label these must be equal, or one the
    end of the other ("red cube" and "cube"). Answers of other kinds pass.
    """
    least = _share(value)

    def keep(answer: Answered, image: Sequence[Answered]) -> BoolArray:
        boxes, labels = regions(answer)
        if not len(boxes):
            return alike(answer)
        found = np.zeros(len(boxes), np.bool_)
        for other in image:
            if other.task.token == answer.task.token:
                continue
            theirs, names = regions(other)
            same = np.array([[_fits(mine, name) for name in names] for mine in labels], np.bool_)
            if len(names):
                found |= ((box_iou(boxes, theirs) >= least) & same).any(axis=1)
        return found

    return keep


FILTERS: Mapping[str, Callable[[str], Keep]] = {
    "finished": finished,
    "confidence": confidence,
    "nms": nms,
    "blacklist": blacklist,
    "area": area,
    "words": words,
    "objects": objects,
    "agreement": agreement,
}

_OPENING = re.compile(
    r"\b(?:an?|the|this|that|these|those|his|her|its|their|my|our|your|some|several|many|few|both|another|"
    r"one|two|three|four|five|six|seven|eight|nine|ten|[0-9]+)\b",
    re.IGNORECASE,
)


def noun_phrases(text: str) -> int:
    """How many things an English caption names: the articles, counting words and possessives that open a noun phrase.

    Neighbouring ones ("all the three") open one together. "A red cube left of two balls" names two.
    """
    ends, count = -2, 0
    for found in _OPENING.finditer(text):
        count += text[max(ends, 0) : found.start()].strip() != "" or ends < 0
        ends = found.end()
    return count


def texts(result: Result) -> Sequence[str]:
    """The label or text of every item."""
    if isinstance(result, Text):
        return (result.text,)
    if isinstance(result, Quads):
        return result.texts
    return result.labels if isinstance(result, (Detections, Polygons)) else ("",) * len(result)


def regions(answer: Answered) -> tuple[Float32Array, Sequence[str]]:
    """Boxes [N, 4] and labels of an answer's items; of a region's category, the region itself; else none."""
    result = answer.result
    if isinstance(result, Detections):
        return result.boxes, result.labels
    if isinstance(result, Polygons):
        return result.boxes(), result.labels if answer.task.input is not InputKind.BOX else ("",) * len(result)
    if isinstance(result, Quads):
        return result.boxes(), result.texts
    if answer.task.token == "<REGION_TO_CATEGORY>" and isinstance(result, Text):
        return np.array([answer.given], np.float32), (result.text,)
    return np.zeros((0, 4), np.float32), ()


def _captions(passes: Callable[[str], bool]) -> Keep:
    def keep(answer: Answered, image: Sequence[Answered]) -> BoolArray:
        if answer.task.token not in CAPTIONS or not isinstance(answer.result, Text):
            return alike(answer)
        return alike(answer, stay=passes(answer.result.text))

    return keep


def alike(answer: Answered, *, stay: bool = True) -> BoolArray:
    """Marks [N] that say the same of every item of an answer."""
    return np.full(len(answer.result), stay, np.bool_)


def _fits(mine: str, other: str) -> bool:
    a, b = bare(mine), bare(other)
    return not a or not b or a == b or a.endswith(f" {b}") or b.endswith(f" {a}")


def _phrases(value: str) -> list[str]:
    path = Path(value)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else value.split("|")
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise InputError("it names no phrase")
    return found


def _share(value: str) -> float:
    return _number(value, "a number in 0..1", 1.0)


def _bounds(value: str) -> tuple[float, float]:
    low, separator, high = value.partition("..")
    what = "two numbers LOW..HIGH with LOW <= HIGH, of which one may be left out"
    first = _number(low, what) if low else 0.0
    last = _number(high, what) if high else float("inf")
    if not separator or not (low or high) or first > last:
        raise InputError(f"its value is {value!r}; it must be {what}")
    return first, last


def _number(value: str, what: str, most: float = float("inf")) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise InputError(f"its value is {value!r}; it must be {what}")
    return number


def _none(value: str) -> None:
    if value:
        raise InputError(f"it takes no value; got {value!r}")
