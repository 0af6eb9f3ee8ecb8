"""The quantiser against the published processor's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from florence_edge.locations import dequantise, quantise
from florence_edge.vocabulary import LOCATION_BINS
from support.processor import reference_processor

REFERENCE = reference_processor().post_processor
SIZES = [(1, 1), (3, 7), (640, 480), (768, 768), (1000, 1000), (1920, 1080), (4032, 3024), (12000, 9000)]


@pytest.mark.parametrize("size", SIZES)
def test_bins_of_every_pixel_corner_and_of_random_points(size: tuple[int, int]) -> None:
    side = np.arange(max(size) + 1, dtype=np.float32)
    random = np.random.default_rng(0).uniform(-0.1, 1.1, (20_000, 2)) * size
    points = np.concatenate([np.stack([side, side], axis=1), random.astype(np.float32)])
    expected = REFERENCE.quantize(torch.from_numpy(points), size).numpy()
    np.testing.assert_array_equal(quantise(points, size), expected)
    boxes = points[: len(points) // 2 * 2].reshape(-1, 4)
    np.testing.assert_array_equal(quantise(boxes, size), REFERENCE.quantize(torch.from_numpy(boxes), size).numpy())


@pytest.mark.parametrize("size", SIZES)
def test_pixels_of_every_bin_before_truncation(size: tuple[int, int]) -> None:
    bins = np.stack([np.arange(LOCATION_BINS)] * 2, axis=1)
    expected = REFERENCE.dequantize(torch.from_numpy(bins), size).numpy()
    np.testing.assert_array_equal(np.trunc(dequantise(bins, size)), expected)
