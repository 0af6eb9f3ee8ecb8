"""One picture on its way into a model: read and resized (`Prepared`), then encoded (`View`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from .backends import ImageFeatures
from .geometry import Float32Array, ImageSize
from .images import ImageSource, load_image
from .preprocess import ImageSpec, to_pixels


@dataclass(frozen=True, eq=False)
class View:
    """An encoded image that any number of questions can be asked about.

    `features` holds [1, N, D] on the backend's own device; `size` is the size of the original image, upright.
    `timings_ms` says what making the view cost (`load`, `preprocess`, `vision`). Only the model that made a view (its
    `owner`) can read it, and only until that model is closed.
    """

    features: ImageFeatures
    size: ImageSize
    timings_ms: Mapping[str, float]
    owner: object = field(repr=False)


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image ready for the vision graph: `pixels` [1, 3, H, W] float32 and the size of the original, upright."""

    pixels: Float32Array
    size: ImageSize
    timings_ms: Mapping[str, float]


class Stopwatch:
    """Milliseconds spent per named stage."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Adds the time its block takes to a stage."""
        start = perf_counter()
        try:
            yield
        finally:
            self.stages[stage] = self.stages.get(stage, 0.0) + (perf_counter() - start) * 1e3


def prepare(image: ImageSource, spec: ImageSpec, *, bgr: bool = False) -> Prepared:
    """Reads and resizes an image; raises `ImageError` for anything that is not a usable one."""
    watch = Stopwatch()
    with watch.measure("load"):
        picture = load_image(image, bgr=bgr)
    with watch.measure("preprocess"):
        pixels = to_pixels(picture, spec)
    return Prepared(pixels, ImageSize(*picture.size), watch.stages)
