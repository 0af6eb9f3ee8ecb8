"""`sensor_msgs` images as RGB pictures: every common raw encoding by table, and compressed ones.

Rows are cut by `step`, so padding never shears a picture. Sources: sensor_msgs/image_encodings.hpp for the names and
layouts, OpenCV's `cvtColor` (see `colour`) for the arithmetic. Alpha is dropped, as cv_bridge does. 16-bit colour and
grey keep their high byte. Depth (16UC1, 32FC1) has no picture of its own: it is scaled so that its largest finite value
becomes white.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from florence_edge.errors import ImageError
from florence_edge.geometry import AnyArray, UInt8Array
from florence_edge.images import load_image

from .colour import demosaic, yuv_to_rgb


@dataclass(frozen=True)
class RawImage:
    """The fields of a `sensor_msgs/Image`; `data` is its bytes as uint8 [N]."""

    width: int
    height: int
    encoding: str
    step: int
    data: UInt8Array
    bigendian: bool = False


@dataclass(frozen=True)
class Layout:
    """How one encoding lies in memory: sample type, samples per pixel in a row, and what makes RGB of the samples.

    `rgb` gets [H, W, samples] (values of `sample`). `planes` is the number of image heights that the data spans, for
    encodings with chroma planes below the image.
    """

    sample: str
    samples: int
    rgb: Callable[[AnyArray], AnyArray]
    planes: float = 1.0


def decode_raw(image: RawImage) -> UInt8Array:
    """RGB [H, W, 3] uint8 of a raw image; `ImageError` for an unknown encoding or data that does not fit its fields."""
    layout = LAYOUTS.get(image.encoding.strip().lower())
    if layout is None:
        raise ImageError(f"unknown image encoding {image.encoding!r}; known are: {', '.join(LAYOUTS)}")
    return np.ascontiguousarray(_to_8_bits(layout.rgb(_rows(image, layout))))


def decode_compressed(data: UInt8Array, format: str) -> UInt8Array:
    """RGB [H, W, 3] uint8 of a `sensor_msgs/CompressedImage`; `ImageError` when it is damaged or depth.

    Only the data says what it is: an empty `format` and the "rgb8; jpeg compressed bgr8" of image_transport are alike.
    """
    if "compressedDepth" in format:
        raise ImageError(f"format {format!r} holds depth, not a picture; choose a topic with colour or grey images")
    return np.asarray(load_image(data.tobytes()), dtype=np.uint8)


def _rows(image: RawImage, layout: Layout) -> AnyArray:
    """The samples [H, W, samples] without the padding of the rows."""
    sample = np.dtype(layout.sample)
    needed = image.width * layout.samples * sample.itemsize
    step = image.step or needed
    given = f"an image of {image.width} x {image.height} {image.encoding}, step {image.step}, {image.data.size} bytes"
    if image.width < 1 or image.height < 1:
        raise ImageError(f"{given}: both sides must be 1 or more")
    if step < needed:
        raise ImageError(f"{given}: a row takes {needed} bytes, more than its step")
    height = round(image.height * layout.planes)
    if layout.planes != 1.0 and image.data.size == step * image.height:
        height = image.height  # drivers that count the rows of the chroma planes as rows of the image
    if image.data.size < step * height:
        raise ImageError(f"{given}: {step * height} bytes are needed; the message was cut short")
    packed = image.data[: step * height].reshape(height, step)[:, :needed]
    ordered = sample.newbyteorder(">" if image.bigendian else "<")
    samples: AnyArray = np.ascontiguousarray(packed).view(ordered)
    return samples.reshape(height, image.width, layout.samples)


def _to_8_bits(rgb: AnyArray) -> UInt8Array:
    """uint16 colour by its high byte."""
    return rgb.astype(np.uint8) if rgb.dtype.itemsize == 1 else (rgb >> 8).astype(np.uint8)


def _grey(samples: AnyArray) -> AnyArray:
    return np.repeat(samples[:, :, :1], 3, axis=2)


def _pick(order: tuple[int, int, int], samples: AnyArray) -> AnyArray:
    return samples[:, :, order]


def _mosaic(pattern: str, samples: AnyArray) -> AnyArray:
    height, width, _ = samples.shape
    if height < 3 or width < 3:
        raise ImageError(f"a Bayer image of {width} x {height} pixels; both sides must be 3 or more")
    return demosaic(samples[:, :, 0], pattern)


def _depth(samples: AnyArray) -> AnyArray:
    """Depth with its largest finite value as white; holes (0, NaN, infinity) are black."""
    values = np.where(np.isfinite(samples), samples, 0).astype(np.float64).clip(min=0)
    largest = values.max()
    return _grey(np.rint(values * (255.0 / largest if largest > 0 else 0.0)).astype(np.uint8))


def _packed_yuv(luma: int, samples: AnyArray) -> AnyArray:
    """YUV 4:2:2, two bytes a pixel; `luma` is the place of Y in them (UYVY 1, YUYV 0)."""
    width = samples.shape[1]
    if width % 2:
        raise ImageError(f"YUV 4:2:2 of {width} pixels a row; the width must be even")
    chroma = samples[:, :, 1 - luma]
    return yuv_to_rgb(samples[:, :, luma], chroma[:, 0::2].repeat(2, axis=1), chroma[:, 1::2].repeat(2, axis=1))


def _planar_yuv(u_first: bool, samples: AnyArray) -> AnyArray:
    """YUV 4:2:0 (NV12, NV21): the luma rows, then half as many rows of interleaved chroma."""
    rows, width, _ = samples.shape
    height = rows * 2 // 3
    if width % 2 or height % 2 or rows * 2 % 3:
        raise ImageError(f"YUV 4:2:0 of {width} pixels and {rows} rows; width and height must be even")
    chroma = samples[height:, :, 0].repeat(2, axis=0)
    first, second = chroma[:, 0::2].repeat(2, axis=1), chroma[:, 1::2].repeat(2, axis=1)
    u, v = (first, second) if u_first else (second, first)
    return yuv_to_rgb(samples[:height, :, 0], u, v)


def _full_yuv(samples: AnyArray) -> AnyArray:
    """YUV 4:4:4 (NV24): the luma rows, then as many rows of twice the length with interleaved U and V."""
    rows, width, _ = samples.shape
    if rows % 3:
        raise ImageError(f"NV24 of {rows} rows; the chroma must have twice as many bytes as the luma")
    height = rows // 3
    chroma = samples[height:].reshape(height, width, 2)
    return yuv_to_rgb(samples[:height, :, 0], chroma[:, :, 0], chroma[:, :, 1])


def _bayer() -> dict[str, Layout]:
    patterns = ("rggb", "bggr", "gbrg", "grbg")
    return {
        f"bayer_{pattern}{bits}": Layout(f"u{bits // 8}", 1, partial(_mosaic, pattern))
        for bits in (8, 16)
        for pattern in patterns
    }


_RGB, _BGR = partial(_pick, (0, 1, 2)), partial(_pick, (2, 1, 0))

LAYOUTS: dict[str, Layout] = {
    "rgb8": Layout("u1", 3, _RGB),
    "bgr8": Layout("u1", 3, _BGR),
    "rgba8": Layout("u1", 4, _RGB),
    "bgra8": Layout("u1", 4, _BGR),
    "rgb16": Layout("u2", 3, _RGB),
    "bgr16": Layout("u2", 3, _BGR),
    "rgba16": Layout("u2", 4, _RGB),
    "bgra16": Layout("u2", 4, _BGR),
    "mono8": Layout("u1", 1, _grey),
    "mono16": Layout("u2", 1, _grey),
    "8uc1": Layout("u1", 1, _grey),
    "8uc3": Layout("u1", 3, _BGR),  # OpenCV's matrices, and so its order
    "8uc4": Layout("u1", 4, _BGR),
    "16uc1": Layout("u2", 1, _depth),
    "16uc3": Layout("u2", 3, _BGR),
    "32fc1": Layout("f4", 1, _depth),
    **_bayer(),
    "yuv422": Layout("u1", 2, partial(_packed_yuv, 1)),
    "uyvy": Layout("u1", 2, partial(_packed_yuv, 1)),
    "yuv422_yuy2": Layout("u1", 2, partial(_packed_yuv, 0)),
    "yuyv": Layout("u1", 2, partial(_packed_yuv, 0)),
    "nv12": Layout("u1", 1, partial(_planar_yuv, True), planes=1.5),
    "nv21": Layout("u1", 1, partial(_planar_yuv, False), planes=1.5),
    "nv24": Layout("u1", 1, _full_yuv, planes=3.0),
}
"""Every encoding that is read, by its name in lower case."""


def decode_message(message: Any, *, compressed: bool) -> UInt8Array:
    """RGB [H, W, 3] uint8 of a `sensor_msgs/CompressedImage` or `sensor_msgs/Image` of any client library."""
    data = octets(message.data)
    if compressed:
        return decode_compressed(data, message.format)
    bigendian = bool(message.is_bigendian)
    return decode_raw(RawImage(message.width, message.height, message.encoding, message.step, data, bigendian))


def octets(data: Any) -> UInt8Array:
    """The bytes of a message field as uint8 [N], whatever the client library gave: an array, bytes or a list."""
    if isinstance(data, np.ndarray):
        return data.reshape(-1).view(np.uint8)
    if isinstance(data, list | tuple):
        return np.asarray(data, dtype=np.uint8)
    return np.frombuffer(data, dtype=np.uint8)
