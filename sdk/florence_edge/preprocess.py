"""From an upright RGB picture to the pixels a vision graph takes.

What the published processor does: a direct resize (the aspect ratio is not kept, nothing is cropped or padded), then
`(value / 255 - mean) / std` per channel. The resize is Pillow's own, in 8 bits and antialiased, so that the pixels are
those the model was trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .errors import ImageError, InputError, listing
from .geometry import Float32Array

_FILTERS = {"bicubic": Image.Resampling.BICUBIC}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageSpec:
    """What a vision graph takes: the size in pixels, and mean and std of the three channels on the scale 0..1.

    The defaults are those of the published checkpoints (preprocessor_config.json of microsoft/Florence-2-base).
    Raises `InputError` that lists every value which cannot be used.
    """

    height: int = 768
    width: int = 768
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resample: str = "bicubic"

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {side!r}; it must be a whole number of pixels, 1 or more"
            for name, side in (("height", self.height), ("width", self.width))
            if type(side) is not int or side < 1
        ]
        faults += [
            f"{name} is {values!r}; it must be three finite numbers{', each above 0' if name == 'std' else ''}"
            for name, values in (("mean", self.mean), ("std", self.std))
            if not _is_triple(values) or (name == "std" and min(values) <= 0.0)
        ]
        if self.resample not in _FILTERS:
            faults.append(f"resample is {self.resample!r}; it must be one of {', '.join(_FILTERS)}")
        if faults:
            raise InputError(listing("the image settings cannot be used:", faults))


def to_pixels(image: Image.Image, spec: ImageSpec) -> Float32Array:
    """The picture as [1, 3, spec.height, spec.width] float32, C-contiguous, normalised.

    `image` is what `load_image` returns. Raises `ImageError` for a picture of another mode than RGB.
    """
    if image.mode != "RGB":
        raise ImageError(
            f"got a PIL image of mode {image.mode}, but pixels are made of RGB; pass it through load_image first"
        )
    resized = image.resize((spec.width, spec.height), _FILTERS[spec.resample])
    std = np.asarray(spec.std)
    scales, offsets = (1.0 / (255.0 * std)).astype(np.float32), (-np.asarray(spec.mean) / std).astype(np.float32)
    pixels = np.empty((1, 3, spec.height, spec.width), dtype=np.float32)
    for plane, band, scale, offset in zip(pixels[0], resized.split(), scales, offsets, strict=True):
        np.multiply(np.asarray(band), scale, out=plane)
        np.add(plane, offset, out=plane)
    return pixels


def _is_triple(values: object) -> bool:
    """Whether `values` is a tuple of three finite numbers."""
    return (
        isinstance(values, tuple)
        and len(values) == 3
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    )
