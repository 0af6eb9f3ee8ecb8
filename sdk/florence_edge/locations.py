"""Pixels to location bins and back: the only quantiser, shared by prompts, parsers and training targets.

The image is cut into 1,000 bins per axis, so `<loc_i>` means the same part of an image whatever its size. The
arithmetic is that of the published processor, in float32: `floor(x / (size / 1000))`, held within 0..999, one way, and
the centre of the bin, `(bin + 0.5) * (size / 1000)`, the other.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .geometry import Float32Array, ImageSize, Int64Array
from .vocabulary import LOCATION_BINS


def as_size(size: Sequence[int]) -> ImageSize:
    """A `(width, height)` pair as an `ImageSize`; `InputError` when it is no pair of positive whole numbers."""
    allowed = "the size is (width, height) of the original image in pixels, two whole numbers of 1 or more"
    try:
        width, height = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise InputError(f"{allowed}; got {size!r}") from None
    if width < 1 or height < 1:
        raise InputError(f"{allowed}; got width {width} and height {height}")
    return ImageSize(width, height)


def quantise(points: npt.ArrayLike, size: Sequence[int]) -> Int64Array:
    """Bins of coordinates.

    `points` is [..., 2k], k points x y in pixels one after the other (a box is two points); the answer is [..., 2k]
    int64 in 0..999. Coordinates outside the image fall into its outermost bins. Raises `InputError` for an odd last
    axis and for coordinates that are not finite.
    """
    pixels = np.asarray(points, dtype=np.float32)
    if not np.isfinite(pixels).all():
        raise InputError("coordinates must be finite numbers; got NaN or infinity")
    bins: Float32Array = np.floor(pixels / _bin_sizes(pixels.shape, size)).clip(0, LOCATION_BINS - 1)
    return bins.astype(np.int64)


def dequantise(bins: npt.ArrayLike, size: Sequence[int]) -> Float32Array:
    """Centres of bins, in pixels.

    `bins` is [..., 2k] as `quantise` returns it; the answer has its shape, float32. A bin past the last one, which only
    raw text of another runtime can hold, is clipped to the image's edge.
    """
    indices = np.asarray(bins)
    steps = _bin_sizes(indices.shape, size)
    edges = np.resize(np.asarray(as_size(size), np.float32), steps.shape)
    centres: Float32Array = (indices.astype(np.float32) + np.float32(0.5)) * steps
    return np.minimum(centres, edges, out=centres)


def spell(bins: Iterable[int]) -> str:
    """Location tokens one after the other: `[1, 2]` is `<loc_1><loc_2>`."""
    return "".join([f"<loc_{index}>" for index in bins])


def _bin_sizes(shape: tuple[int, ...], size: Sequence[int]) -> Float32Array:
    """Width and height of a bin in turn, one per entry of the last axis."""
    if not shape or shape[-1] % 2:
        raise InputError(f"coordinates come in pairs x y along the last axis; got an array of shape {list(shape)}")
    per_bin = np.asarray([side / LOCATION_BINS for side in as_size(size)], np.float32)
    return np.resize(per_bin, shape[-1])
