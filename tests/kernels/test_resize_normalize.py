"""Resize and normalise against Pillow: the same 8-bit values, so the same floats up to their rounding."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from support.kernel_cases import IMAGENET_MEAN as MEAN
from support.kernel_cases import IMAGENET_STD as STD
from support.kernel_cases import noise_image, resize
from support.kernels import DTYPES, Kernels

ULP = {"fp32": 3e-7, "fp16": 1e-3, "bf16": 8e-3}
# (in_height, in_width) -> (out_height, out_width): down, up, both, unchanged, one pixel, odd, long and thin
SIZES = [
    ((97, 131), (48, 48)),
    ((20, 33), (64, 96)),
    ((90, 24), (32, 48)),
    ((48, 48), (48, 48)),
    ((1, 1), (16, 12)),
    ((7, 500), (31, 17)),
    ((300, 2), (5, 40)),
]


def pillow(image: np.ndarray, out_size: tuple[int, int]) -> np.ndarray:
    """The 8-bit pixels [3, H, W] that Pillow makes."""
    resized = Image.fromarray(image).resize(out_size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(np.moveaxis(np.asarray(resized), 2, 0))


def pixels(normalized: np.ndarray) -> np.ndarray:
    mean, std = (np.array(values)[:, None, None] for values in (MEAN, STD))
    return np.asarray((normalized.astype(np.float64) * std + mean) * 255)


@pytest.mark.parametrize(("in_size", "out_size"), SIZES)
def test_every_pixel_is_pillows(kernels: Kernels, in_size: tuple[int, int], out_size: tuple[int, int]) -> None:
    image = noise_image(*in_size)
    np.testing.assert_allclose(pixels(resize(kernels, image, out_size)), pillow(image, out_size), atol=1e-3)


def test_hard_edges_overshoot_and_are_clipped_as_pillow_clips(kernels: Kernels) -> None:
    image = np.where(np.indices((40, 40)).sum(0)[..., None] % 10 < 5, 255, 0).astype(np.uint8).repeat(3, axis=2)
    np.testing.assert_allclose(pixels(resize(kernels, image, (64, 64))), pillow(image, (64, 64)), atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_normalisation_in_each_dtype(kernels: Kernels, dtype: str) -> None:
    image = noise_image(30, 40)
    mean, std = (np.array(values)[:, None, None] for values in (MEAN, STD))
    expected = (pillow(image, (24, 24)) / 255.0 - mean) / std
    out = resize(kernels, image, (24, 24), dtype)
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=ULP[dtype], atol=ULP[dtype])


def test_bgr_is_rgb_reversed(kernels: Kernels) -> None:
    image = noise_image(30, 40)
    flipped = np.ascontiguousarray(image[..., ::-1])
    np.testing.assert_array_equal(resize(kernels, flipped, (20, 20), order=1), resize(kernels, image, (20, 20)))


def test_rows_may_be_padded(kernels: Kernels) -> None:
    frame = noise_image(30, 64)
    cropped = frame[:, :41]
    np.testing.assert_array_equal(
        resize(kernels, cropped, (20, 20)), resize(kernels, np.array(cropped, order="C"), (20, 20))
    )


@pytest.mark.slow
def test_camera_frame_to_network_size(twin: Kernels) -> None:
    image = noise_image(1080, 1920)
    np.testing.assert_allclose(pixels(resize(twin, image, (768, 768))), pillow(image, (768, 768)), atol=1e-3)
