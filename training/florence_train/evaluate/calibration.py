"""Whether scores mean what they say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from florence_edge.geometry import Int64Array

from .resampling import Float64Array, Statistic

BINS = 10


def calibration_error(scores: npt.ArrayLike, right: npt.ArrayLike, answer_of: Int64Array) -> Statistic:
    """Expected calibration error over `BINS` bins of equal width (Guo et al., 2017, equation 3), 0 is perfect.

    `scores` [M] and `right` [M] (0 or 1) are of single items; `answer_of` [M] names the answer each belongs to.
    """
    score, hit = np.asarray(scores, np.float64), np.asarray(right, np.float64)
    place = np.minimum((score * BINS).astype(np.int64), BINS - 1)

    def statistic(weights: Float64Array) -> float:
        weight = weights[answer_of]
        total = weight.sum()
        if not total:
            return float("nan")
        gaps = np.bincount(place, weight * (hit - score), minlength=BINS)
        return float(np.abs(gaps).sum() / total)

    return statistic
