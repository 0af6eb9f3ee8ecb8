"""What the tasks answer with: frozen dataclasses in pixels of the original image (x right, y down, float32).

Scores are the decoder's own token probabilities, never a constant. With `p_t` the probability the model gave token `t`
of the answer, the score of a region, phrase, line or caption is the geometric mean over the tokens that spell it,

    score = exp(mean_t log p_t),

the mean running over the tokens of its label and of its own coordinates (a label shared by several boxes counts for
each of them). The published large checkpoint's processor uses the same mean over coordinates or label alone. NaN means
that the probabilities are not known, as when the raw text of another runtime is parsed.

A bundle that was calibrated for a task puts this mean through a rising curve, so that a score is about the chance of
being right (`calibration`); the order of the answers to a task stays what it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from .geometry import AnyArray, BoolArray, Float32Array, ImageSize, Int64Array

if TYPE_CHECKING:
    from PIL.Image import Image

    from .images import ImageSource


@dataclass(frozen=True, eq=False)
class Result:
    """What every answer carries.

    `task` is the upstream token; `size` the original image's size. `scores` is [N] float32, one per item. `finish` is
    "eos" when the model ended its answer, "length" when the token limit did: the answer is then cut short. `tokens`
    counts the tokens of the answer without `<s>` and `<pad>`, `dropped` the malformed pieces the parser left out.
    `timings_ms` maps stage names (`load`, `preprocess`, `vision`, `search`, `parse`) to milliseconds; stages that an
    encoded view skipped are absent. `raw` is the answer as the model wrote it, added tokens included.
    """

    task: str
    size: ImageSize
    scores: Float32Array
    finish: str = "eos"
    tokens: int = 0
    dropped: int = 0
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    raw: str = ""

    def __len__(self) -> int:
        """Number of items: regions, lines, or 1 for a text."""
        return len(self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values that `json` can write; NaN scores become None."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}

    def to_json(self, *, indent: int | None = None) -> str:
        """`to_dict` as a JSON text (strict JSON, non-ASCII characters kept)."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def draw(self, image: ImageSource, *, bgr: bool = False) -> Image:
        """The image (anything `Florence.encode` takes) with this answer drawn on it, as an RGB `PIL.Image`."""
        from .draw import draw

        return draw(self, image, bgr=bgr)


@dataclass(frozen=True, eq=False, kw_only=True)
class Text(Result):
    """A caption, a description, a category or the text read."""

    text: str

    @property
    def score(self) -> float:
        """The one score, as a float."""
        return float(self.scores[0])

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, eq=False, kw_only=True)
class Detections(Result):
    """Labelled boxes.

    `boxes` is [N, 4] float32 x1 y1 x2 y2 with x1 <= x2 and y1 <= y2, inside the image. `labels` has N strings, empty
    ones for region proposals. `class_ids` is [N] int64: the index into `classes` where class names were given (-1 for a
    label that is none of them), else the index among the distinct labels in order of appearance. `polygons[i]` holds
    the rings of box i ([M, 2] float32 each) where the model answered with a polygon, and is empty where with a box; the
    whole tuple is empty when there are only boxes.
    """

    boxes: Float32Array
    labels: tuple[str, ...]
    class_ids: Int64Array
    classes: tuple[str, ...] = ()
    polygons: tuple[tuple[Float32Array, ...], ...] = ()

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections` (needs supervision), labels under `data["class_name"]`."""
        from .export import detections_to_supervision

        return detections_to_supervision(self)


@dataclass(frozen=True, eq=False, kw_only=True)
class Polygons(Result):
    """Masks as polygons, one instance per item.

    `polygons[i]` is a tuple of rings, each [M, 2] float32 x y with M >= 3; the rings of one instance are parts of one
    mask (their union). `labels` has N strings: the phrase or region asked for where the model wrote none.
    """

    polygons: tuple[tuple[Float32Array, ...], ...]
    labels: tuple[str, ...]

    def boxes(self) -> Float32Array:
        """The bounding boxes [N, 4] float32 x1 y1 x2 y2 of the instances."""
        corners = [np.concatenate(rings) for rings in self.polygons]
        rows = [np.concatenate([points.min(axis=0), points.max(axis=0)]) for points in corners]
        return np.asarray(rows, dtype=np.float32).reshape(-1, 4)

    def to_masks(self) -> BoolArray:
        """The instances as masks [N, height, width] bool: a pixel belongs where its centre lies in any ring."""
        from .export import polygons_to_masks

        return polygons_to_masks(self)

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections` with masks (needs supervision)."""
        from .export import polygons_to_supervision

        return polygons_to_supervision(self)


@dataclass(frozen=True, eq=False, kw_only=True)
class Quads(Result):
    """Lines of text with their corners.

    `quads` is [N, 4, 2] float32 x y, clockwise from the corner where the text begins; `texts` has N strings.
    """

    quads: Float32Array
    texts: tuple[str, ...]

    def boxes(self) -> Float32Array:
        """The bounding boxes [N, 4] float32 x1 y1 x2 y2 of the lines."""
        return np.concatenate([self.quads.min(axis=1), self.quads.max(axis=1)], axis=1)

    def to_supervision(self) -> Any:
        """The bounding boxes as `supervision.Detections` (needs supervision), texts under `data["class_name"]`."""
        from .export import quads_to_supervision

        return quads_to_supervision(self)


def _plain(value: Any) -> Any:
    """Arrays, tuples and NaN as values that strict JSON knows."""
    if isinstance(value, np.ndarray):
        array: AnyArray = value
        return _plain(array.tolist())
    if isinstance(value, ImageSize):
        return {"width": value.width, "height": value.height}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
