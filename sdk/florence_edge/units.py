"""Quantities as people read them."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB")


def size(count: int) -> str:
    """A number of bytes: `8.4 MiB`."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{count} B"
