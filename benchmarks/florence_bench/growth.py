"""How cost grows with tokens, beams, images per batch and pixels of the picture, everything else staying as it is.

The model's own input size is fixed in a bundle; `pixels` are those of the picture handed in, a JPEG file as a camera
or a disk gives it, which decoding and preprocessing pay for: everything behind them costs the same for any picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Literal

from florence_edge.images import load_image
from florence_edge.model import Florence
from florence_edge.view import prepare

from .clock import Clock, milliseconds
from .repeat import repeat
from .series import Series
from .settings import Settings
from .stats import Estimate, exponent, ratio_of_medians

TOKENS, BEAMS, BATCH, SIDES = (8, 16, 32, 64), (1, 2, 3, 4), (1, 2, 4), (256, 512, 1024, 2048)
LINEAR = 1.1
"""The largest exponent that still counts as linear: measured medians scatter by a few percent."""
_RUNS = 5
Verdict = Literal["yes", "no", "open"]


@dataclass(frozen=True)
class Growth:
    """Milliseconds at each size of what is varied.

    `exponent` is the power with which they grow, 1 being linear; `per_unit` the cost per unit at the largest size over
    that at the smallest. `linear_or_better` is open where the interval of the exponent lies on both sides of `LINEAR`.
    """

    varied: str
    measured: str
    sizes: tuple[float, ...]
    costs_ms: tuple[Series, ...]
    exponent: Estimate
    per_unit: Estimate
    linear_or_better: Verdict


def grow(model: Florence, image: bytes, settings: Settings, clock: Clock) -> tuple[Growth, ...]:
    """One study for every name in `settings.growth`."""
    study = _Study(model, image, settings, clock)
    return tuple(study.run(name) for name in settings.growth)


def judge(varied: str, measured: str, sizes: tuple[float, ...], costs: tuple[Series, ...], seed: int) -> Growth:
    """What costs at increasing sizes say about growth."""
    power = exponent(sizes, [cost.samples for cost in costs], seed=seed)
    dearer = ratio_of_medians(costs[-1].samples, costs[0].samples, seed=seed)
    share = sizes[0] / sizes[-1]
    per_unit = Estimate(dearer.value * share, dearer.low * share, dearer.high * share, dearer.confidence)
    verdict: Verdict = "yes" if power.high <= LINEAR else "no" if power.low > LINEAR else "open"
    return Growth(varied, measured, sizes, costs, power, per_unit, verdict)


class _Study:
    def __init__(self, model: Florence, image: bytes, settings: Settings, clock: Clock) -> None:
        self._model, self._image, self._settings, self._clock = model, image, settings, clock
        self._brief = replace(settings, warmup_seconds=0.0, seconds=settings.seconds / 20, runs=_RUNS)
        self._given = list(settings.input) if isinstance(settings.input, tuple) else settings.input

    def run(self, name: str) -> Growth:
        """Measures one study."""
        sizes, measured, work = {
            "tokens": (self._token_sizes(), "search of one answer", self._tokens),
            "beams": (BEAMS, "search of one answer", self._beams),
            "batch": (BATCH, "whole batch of different images", self._batch),
            "pixels": (SIDES, "decoding and preprocessing", self._pixels),
        }[name]
        costs = [self._series(work(size)) for size in sizes]
        counted = tuple(float(size * size if name == "pixels" else size) for size in sizes)
        return judge(name, measured, counted, tuple(costs), self._settings.seed)

    def _token_sizes(self) -> tuple[int, ...]:
        limit = self._model.bundle.manifest.limits.new_tokens
        return tuple(size for size in TOKENS if size <= limit)

    def _series(self, once: Callable[[], float]) -> Series:
        """The costs of some runs, the first one left out: it meets its shapes for the first time."""
        once()
        samples: list[float] = []
        repeat(lambda _: samples.append(once()), self._brief, self._clock)
        return Series.of(samples)

    def _tokens(self, tokens: int) -> Callable[[], float]:
        return self._search(tokens, self._settings.beams)

    def _beams(self, beams: int) -> Callable[[], float]:
        return self._search(self._settings.tokens, beams)

    def _search(self, tokens: int, beams: int | None) -> Callable[[], float]:
        view, options = self._model.encode(self._image), self._settings.fixed(tokens, beams)
        task, given = self._settings.task, self._given
        return lambda: self._model.run(task, view, given, search=options).timings_ms["search"]

    def _batch(self, size: int) -> Callable[[], float]:
        options = self._settings.fixed()

        def once() -> float:
            copies = [bytes(bytearray(self._image)) for _ in range(size)]  # one object would be encoded once
            items = [(copy, self._settings.task, self._given) for copy in copies]
            start = self._clock.now()
            self._model.run_many(items, search=options, batch_size=size)
            return milliseconds(self._clock.now() - start)

        return once

    def _pixels(self, side: int) -> Callable[[], float]:
        made = BytesIO()
        load_image(self._image).resize((side, side)).save(made, format="JPEG", quality=90)
        data = made.getvalue()

        def once() -> float:
            return sum(prepare(data, self._model.bundle.manifest.image).timings_ms.values())

        return once
