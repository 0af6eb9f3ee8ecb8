"""Scores as chances of being right: a rising curve per task, fitted on held-out data and kept in a bundle's manifest.

A mean token probability says which of two answers is the better one, not how often such answers are right. Location
tokens share their probability with their neighbours, so that good boxes score far too low; captions are judged as a
whole, so that good tokens score them far too high. A curve mends that and changes no ranking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .geometry import Float32Array

_EDGE = 2.0**-24
"""Distance from 0 and 1 at which the log-odds are cut off: float32 has no number between 1 and one this much less."""


@dataclass(frozen=True)
class Calibration:
    """The curve `sigmoid(slope * log(s / (1 - s)) + offset)` of a score `s` (Platt, 1999, on its log-odds).

    `slope` is above 0, so the curve rises. `items` answers were used to fit it; the expected calibration error (10
    bins) of items it was not fitted on fell from `error_before` to `error_after`.
    """

    slope: float
    offset: float
    items: int
    error_before: float
    error_after: float

    def __post_init__(self) -> None:
        if not self.slope > 0:
            raise InputError(f"slope is {self.slope}; it must be above 0, for scores to keep their order")

    def __call__(self, scores: npt.ArrayLike) -> Float32Array:
        """Chances [N] float32 of scores [N] in 0..1; unknown ones (NaN) stay unknown."""
        odds = self.slope * log_odds(scores) + self.offset
        return (0.5 * (1 + np.tanh(odds / 2))).astype(np.float32)


def log_odds(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """`log(s / (1 - s))` of scores [N] in 0..1, finite also at the ends."""
    inside = np.asarray(scores, np.float64).clip(_EDGE, 1 - _EDGE)
    odds: npt.NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
    return odds
