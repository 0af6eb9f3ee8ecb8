"""Bayer mosaics and YUV as RGB, in NumPy alone.

Both are bit for bit what OpenCV's `cvtColor` gives, which is what every node that uses cv_bridge sees: bilinear
demosaicing with the border copied from its neighbours, and ITU-R BT.601 with limited range in 20-bit fixed point.
"""

from __future__ import annotations

import numpy as np

from florence_edge.geometry import AnyArray, Int32Array, UInt8Array

_LUMA, _RED_V, _GREEN_U, _GREEN_V, _BLUE_U = 1220542, 1673527, -409993, -852492, 2116026
"""1.164, 1.596, -0.391, -0.813 and 2.018 times 2^20: BT.601 from Y 16..235 and UV 16..240 to RGB 0..255."""
_SHIFT = 20


def yuv_to_rgb(luma: UInt8Array, u: UInt8Array, v: UInt8Array) -> UInt8Array:
    """RGB [H, W, 3] uint8 of three planes [H, W] uint8."""
    scaled = np.maximum(luma.astype(np.int32) - 16, 0) * _LUMA
    du, dv = u.astype(np.int32) - 128, v.astype(np.int32) - 128
    half = 1 << (_SHIFT - 1)
    planes = (_RED_V * dv, _GREEN_U * du + _GREEN_V * dv, _BLUE_U * du)
    return np.stack([((scaled + half + plane) >> _SHIFT).clip(0, 255).astype(np.uint8) for plane in planes], axis=-1)


def demosaic(mosaic: AnyArray, pattern: str) -> AnyArray:
    """RGB [H, W, 3] of a mosaic [H, W] (uint8 or uint16), H and W 3 or more.

    `pattern` names the colours of the upper left two by two pixels, row by row: "rggb", "bggr", "gbrg" or "grbg".
    """
    wide: Int32Array = mosaic.astype(np.int32)
    up, down, centre = wide[:-2], wide[2:], wide[1:-1]
    sides = (centre[:, :-2] + centre[:, 2:] + 1) >> 1
    above_below = (up[:, 1:-1] + down[:, 1:-1] + 1) >> 1
    cross = (centre[:, :-2] + centre[:, 2:] + up[:, 1:-1] + down[:, 1:-1] + 2) >> 2
    corners = (up[:, :-2] + up[:, 2:] + down[:, :-2] + down[:, 2:] + 2) >> 2
    own = centre[:, 1:-1]
    rgb = np.empty((*own.shape, 3), dtype=mosaic.dtype)
    for row in range(2):
        for column in range(2):
            # The first inner pixel is (1, 1), so parities within the inner image are those of the mosaic turned round.
            here = pattern[2 * (1 - row) + (1 - column)]
            beside = pattern[2 * (1 - row) + column]
            rows, columns = slice(row, None, 2), slice(column, None, 2)
            if here == "g":
                values = {"g": own, beside: sides, {"r": "b", "b": "r"}[beside]: above_below}
            else:
                values = {here: own, "g": cross, {"r": "b", "b": "r"}[here]: corners}
            for channel, name in enumerate("rgb"):
                rgb[rows, columns, channel] = values[name][rows, columns]
    return np.pad(rgb, ((1, 1), (1, 1), (0, 0)), mode="edge")
