"""How numbers are written in tables and pictures."""

from __future__ import annotations

_UNITS = ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))


def number(value: float) -> str:
    """Four significant digits, and never an exponent for a large number."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def short(value: float) -> str:
    """A number in few characters: 0.05, 1.2, 350, 2600, 12k, 3M, 80G."""
    for limit, unit, name in _UNITS:
        if abs(value) >= limit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.0f}" if abs(value) >= 1e3 else f"{value:.3g}"
