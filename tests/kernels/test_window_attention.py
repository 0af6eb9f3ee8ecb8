"""Window attention against float64 NumPy and against the module of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Florence2VisionConfig
from transformers.models.florence2.modeling_florence2 import Florence2VisionWindowAttention

from support.kernel_cases import random_windows
from support.kernel_cases import window_attention as attend
from support.kernel_references import window_attention as reference
from support.kernels import DTYPES, Kernels

PATHS = {"auto": 0, "portable": 1}
TOLERANCE = {"fp32": 2e-6, "fp16": 2e-3, "bf16": 1.6e-2}
# height, width, window: whole windows, padding on one side, on both, a map smaller than a window, small windows
MAPS = [(12, 12, 12), (24, 12, 12), (12, 13, 12), (17, 30, 12), (5, 3, 12), (8, 7, 4), (3, 3, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("height", "width", "window"), MAPS)
@pytest.mark.parametrize("path", PATHS)
def test_matches_float64(kernels: Kernels, height: int, width: int, window: int, dtype: str, path: str) -> None:
    qkv, bias = random_windows((height, width), heads=2, dtype=dtype, batch=2 if height == 12 else 1)
    out = attend(kernels, qkv, bias, (height, width), window=window, path=PATHS[path])
    expected = reference(qkv, bias, (height, width), window)
    np.testing.assert_allclose(out.astype(np.float64), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_far_beyond_the_range_of_exp(kernels: Kernels, dtype: str) -> None:
    """Scores of some thousands: a difference of two has an absolute error of 1e-4 in fp32, and the weights with it."""
    qkv, bias = random_windows((12, 12), heads=1, dtype=dtype, spread=30.0)
    out = attend(kernels, qkv, bias, (12, 12))
    expected = reference(qkv, bias, (12, 12), 12)
    np.testing.assert_allclose(out.astype(np.float64), expected, atol=30 * max(TOLERANCE[dtype], 5e-4))


def test_whole_windows_need_no_bias(kernels: Kernels) -> None:
    qkv, bias = random_windows((12, 12), heads=1, dtype="fp32")
    np.testing.assert_array_equal(attend(kernels, qkv, None, (12, 12)), attend(kernels, qkv, bias, (12, 12)))


@pytest.mark.parametrize("size", [(24, 24), (12, 20), (7, 26)])
def test_twin_equals_the_module_of_transformers(twin: Kernels, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    config = Florence2VisionConfig(embed_dim=[64] * 4, num_heads=[2] * 4, num_groups=[2] * 4, window_size=12)
    config._attn_implementation = "eager"
    module = Florence2VisionWindowAttention(config, 0).double().eval()
    torch.nn.init.normal_(module.qkv.bias)
    hidden = torch.randn(2, *size, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = module(hidden)
        qkv = module.qkv(hidden).reshape(2, -1, 192).numpy().astype(np.float32)
        attended = attend(twin, qkv, module.qkv.bias.numpy().astype(np.float32), size)
        actual = module.proj(torch.from_numpy(attended).double())
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=1e-5)
