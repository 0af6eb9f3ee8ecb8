"""Keeps the time of one frame within a budget: first shorter answers, then fewer beams, then smaller pictures.

The cost of a search is taken to grow with the tokens it writes, at a price per token that depends on the beams. Prices
are measured as the stream runs and follow a slow-down at once, a speed-up slowly; until one is known nothing is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from florence_edge.manifest import Manifest
from florence_edge.options import SearchConfig, SearchOptions
from florence_edge.preprocess import ImageSpec

from .asks import Ask, check_rate
from .events import Cut

LEAST_TOKENS = 16
"""An answer is never cut below this: one labelled box and its end take about ten tokens."""

_SIDES = (1.0, 0.75, 0.5)
_SIDE_STEP = 32
"""Sides of smaller pictures are multiples of this, the vision tower's stride."""


class Budget:
    """Plans the searches of each frame of a stream; `limit_ms` None cuts nothing. Used by one thread, `spec` by any."""

    def __init__(self, limit_ms: float | None, manifest: Manifest) -> None:
        if limit_ms is not None:
            check_rate("budget_ms", limit_ms)
        self.limit_ms = limit_ms
        self._config = manifest.search
        self._specs = _specs(manifest)
        self._level = 0
        self._vision_ms: dict[int, float] = {}
        self._token_ms: dict[int, float] = {}

    @property
    def spec(self) -> ImageSpec:
        """The size to which the next picture should be brought."""
        return self._specs[self._level]

    def plan(self, ask: Ask, left_ms: float) -> tuple[SearchOptions | None, tuple[Cut, ...]]:
        """The search options of one answer that may take `left_ms`, and what was cut for it."""
        config = self._wanted(ask)
        beams, tokens = self._affordable(config, left_ms)
        cuts: tuple[Cut, ...] = ()
        if tokens < config.max_new_tokens:
            cuts += (Cut(ask.name, "tokens", config.max_new_tokens, tokens),)
        if beams < config.beams:
            cuts += (Cut(ask.name, "beams", config.beams, beams),)
        if not cuts:
            return ask.search, ()
        shorter = min(config.min_new_tokens, tokens)
        search = ask.search or SearchOptions()
        return replace(search, beams=beams, max_new_tokens=tokens, min_new_tokens=shorter), cuts

    def encoded(self, side: int, spent_ms: float) -> tuple[Cut, ...]:
        """Learns what encoding a picture of that height took; returns what was cut of it."""
        self._vision_ms[side] = price = _follow(self._vision_ms.get(side), spent_ms)
        for other, known in self._vision_ms.items():  # else one slow picture would cost the full size for ever
            self._vision_ms[other] = min(known, _follow(known, price * (other / side) ** 2))
        full = self._specs[0].height
        return () if side == full else (Cut("", "resolution", full, side),)

    def searched(self, options: SearchOptions | None, tokens: int, spent_ms: float) -> None:
        """Learns what an answer took; a price found for one number of beams scales the others'."""
        beams = self._config.over(options).beams
        old, new = self._token_ms.get(beams), spent_ms / max(1, tokens)
        price = _follow(old, new)
        if old:
            self._token_ms = {known: value * price / old for known, value in self._token_ms.items()}
        self._token_ms[beams] = price

    def settle(self, asks: Sequence[Ask]) -> None:
        """Chooses the size of the next pictures: the largest at which the shortest answers are expected to fit."""
        if self.limit_ms is None or not self._vision_ms:
            return
        least = sum(self._price(1) * min(LEAST_TOKENS, self._wanted(ask).max_new_tokens) for ask in asks)
        fitting = (level for level in range(len(self._specs)) if self._vision(level) + least <= self.limit_ms)
        self._level = next(fitting, len(self._specs) - 1)

    def _affordable(self, config: SearchConfig, left_ms: float) -> tuple[int, int]:
        """Beams and tokens that fit: all beams while at least the shortest answer does, else one."""
        if self.limit_ms is None or not self._token_ms:
            return config.beams, config.max_new_tokens
        floor = min(LEAST_TOKENS, config.max_new_tokens)
        for beams in (config.beams, 1):
            tokens = int(max(0.0, left_ms) / max(self._price(beams), 1e-6))
            if tokens >= floor:
                return beams, min(tokens, config.max_new_tokens)
        return 1, floor

    def _wanted(self, ask: Ask) -> SearchConfig:
        """The search that the task has without a budget."""
        config = self._config.over(ask.search)
        if ask.search is not None and ask.search.max_new_tokens is not None:
            return config
        limit = min(ask.row.budget, config.max_new_tokens)
        return replace(config, max_new_tokens=limit)

    def _price(self, beams: int) -> float:
        """Milliseconds per token; of beams never tried, the price of the nearest number that was."""
        if not self._token_ms:
            return 0.0
        return self._token_ms[min(self._token_ms, key=lambda known: abs(known - beams))]

    def _vision(self, level: int) -> float:
        """Milliseconds to encode a picture; of sizes never tried, by the ratio of pixels."""
        side = self._specs[level].height
        if side in self._vision_ms:
            return self._vision_ms[side]
        known = max(self._vision_ms)
        return self._vision_ms[known] * (side / known) ** 2


def _specs(manifest: Manifest) -> tuple[ImageSpec, ...]:
    """The picture sizes that a bundle allows, largest first: its own alone where its vision graph has a fixed one."""
    full, shape = manifest.image, manifest.graphs.vision.inputs[0].shape
    if len(shape) != 4 or any(isinstance(side, int) for side in shape[2:]):
        return (full,)
    sizes = dict.fromkeys((_side(full.height, part), _side(full.width, part)) for part in _SIDES)
    return tuple(replace(full, height=height, width=width) for height, width in sizes)


def _side(full: int, part: float) -> int:
    return full if part == 1.0 else max(_SIDE_STEP, int(full * part) // _SIDE_STEP * _SIDE_STEP)


def _follow(old: float | None, new: float) -> float:
    return new if old is None else max(new, 0.9 * old + 0.1 * new)
