"""A sample with its summary, the form every measured figure is kept in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .stats import Summary, summarise


@dataclass(frozen=True)
class Series:
    """A sample, in the order it was taken, and its summary."""

    samples: tuple[float, ...]
    summary: Summary

    @classmethod
    def of(cls, samples: Sequence[float]) -> Series:
        """The series of at least one value; milliseconds are kept to the nanosecond, all that the clock tells."""
        kept = tuple(round(float(value), 6) for value in samples)
        return cls(kept, summarise(kept))
