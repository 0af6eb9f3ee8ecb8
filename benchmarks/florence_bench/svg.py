"""Small pictures as SVG text: axes, marks and labels in one frame; knows nothing of benchmarks.

Colours are CSS variables with a fallback, so that a page can switch them with the reader's light or dark setting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

from .numerals import short

WIDTH, HEIGHT = 560.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 20.0, 16.0, 48.0
PALETTE = tuple(
    f"var(--c{index}, {colour})"
    for index, colour in enumerate(("#3b6fb6", "#d9822b", "#4c9f70", "#b5486b", "#7a5fb0", "#8a8f98"))
)
_INK, _LINE = "var(--ink, #333)", "var(--line, #8884)"


@dataclass(frozen=True)
class Axis:
    """A scale from data to the frame; `ticks` are where it is labelled."""

    low: float
    high: float
    label: str
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high one."""
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, low))
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[float]:
        """Powers of ten, or about five round numbers."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            factors = (1,) if len(powers) > 4 else (1, 3)
            ticks = (factor * 10.0**power for power in powers for factor in factors)
            return [tick for tick in ticks if self.low <= tick * (1 + 1e-9) and tick <= self.high * (1 + 1e-9)]
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass
class Plot:
    """One picture under construction."""

    x: Axis
    y: Axis
    title: str
    height: float = HEIGHT
    left: float = LEFT
    _marks: list[str] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point of the data in the picture."""
        wide, high = WIDTH - self.left - RIGHT, self.height - TOP - BOTTOM
        return self.left + self.x.share(x) * wide, self.height - BOTTOM - self.y.share(y) * high

    def line(self, points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> None:
        """A polygonal line through points of the data."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')

    def dot(self, x: float, y: float, colour: str, hint: str = "") -> None:
        """A point, with a text that shows under the pointer."""
        px, py = self.at(x, y)
        self._marks.append(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4.5" fill="{colour}"><title>{escape(hint)}</title></circle>'
        )

    def box(self, start: tuple[float, float], end: tuple[float, float], colour: str, hint: str = "") -> None:
        """A filled rectangle between two corners."""
        (x1, y1), (x2, y2) = self.at(*start), self.at(*end)
        self._marks.append(
            f'<rect x="{min(x1, x2):.1f}" y="{min(y1, y2):.1f}" width="{max(abs(x2 - x1), 0.5):.1f}" '
            f'height="{abs(y2 - y1):.1f}" fill="{colour}"><title>{escape(hint)}</title></rect>'
        )

    def text(self, x: float, y: float, words: str, *, anchor: str = "start", dx: float = 0, dy: float = 0) -> None:
        """Words at a point of the data."""
        px, py = self.at(x, y)
        self._marks.append(_text(px + dx, py + dy, words, anchor))

    def svg(self, *, y_labels: Callable[[float], str] | None = None) -> str:
        """The picture; `y_labels` replaces the numbers of the vertical axis, and with them its grid."""
        frame = [*self._horizontal(), *(self._vertical() if y_labels is None else [])]
        return (
            f'<svg viewBox="0 0 {WIDTH:.0f} {self.height:.0f}" role="img" aria-label="{escape(self.title)}" '
            f'xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif" font-size="12">'
            f"{''.join([*frame, *self._marks])}</svg>"
        )

    def _horizontal(self) -> list[str]:
        bottom = self.height - BOTTOM
        marks = [f'<line x1="{self.left}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}" stroke="{_LINE}"/>']
        for tick in self.x.ticks():
            px, _ = self.at(tick, self.y.low)
            marks.append(f'<line x1="{px:.1f}" y1="{TOP}" x2="{px:.1f}" y2="{bottom}" stroke="{_LINE}"/>')
            marks.append(_text(px, bottom + 17, short(tick), "middle"))
        middle = (self.left + WIDTH - RIGHT) / 2
        return [*marks, _text(middle, self.height - 10, self.x.label, "middle")]

    def _vertical(self) -> list[str]:
        marks = []
        for tick in self.y.ticks():
            _, py = self.at(self.x.low, tick)
            marks.append(f'<line x1="{self.left}" y1="{py:.1f}" x2="{WIDTH - RIGHT}" y2="{py:.1f}" stroke="{_LINE}"/>')
            marks.append(_text(self.left - 8, py + 4, short(tick), "end"))
        middle = (TOP + self.height - BOTTOM) / 2
        turned = f'transform="rotate(-90 14 {middle:.0f})"'
        return [*marks, _text(14, middle, self.y.label, "middle", turned)]


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def _text(x: float, y: float, words: str, anchor: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_INK}" {extra}>{escape(words)}</text>'
