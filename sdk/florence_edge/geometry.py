"""Sizes and arrays that every module shares, so that width and height are never confused."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[Any]


class ImageSize(NamedTuple):
    """Width and height in pixels, in that order, as Pillow has it (NumPy shapes are the other way round)."""

    width: int
    height: int
