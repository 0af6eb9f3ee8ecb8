"""Channel attention against float64 NumPy and against the module of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Florence2VisionConfig
from transformers.models.florence2.modeling_florence2 import Florence2VisionChannelAttention

from support.kernel_cases import channel_attention as attend
from support.kernel_cases import random_channels
from support.kernel_references import channel_attention as reference
from support.kernels import DTYPES, Kernels

PATHS = {"auto": 0, "portable": 1}
# one token, less than a tile, a tile, a window map, one chunk and a bit, three chunks
SHAPES = [(1, 1, 1), (2, 15, 1), (1, 16, 2), (1, 144, 2), (2, 577, 1), (1, 1100, 1)]
TOLERANCE = {"fp32": 3e-6, "fp16": 2e-3, "bf16": 1.6e-2}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "tokens", "groups"), SHAPES)
@pytest.mark.parametrize("path", PATHS)
def test_matches_float64(kernels: Kernels, batch: int, tokens: int, groups: int, dtype: str, path: str) -> None:
    qkv = random_channels(batch, tokens, groups, dtype)
    out = attend(kernels, qkv, PATHS[path])
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(out.astype(np.float64), reference(qkv), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_that_a_half_cannot_hold(kernels: Kernels, dtype: str) -> None:
    """2,304 equal products of 64 add up to 147,456, beyond the largest fp16; the scaled scores stay equal."""
    qkv = np.full((1, 2304, 96), 8.0, DTYPES[dtype][1])
    np.testing.assert_allclose(attend(kernels, qkv).astype(np.float64), 8.0, rtol=1e-2 if dtype == "bf16" else 1e-3)


def test_twin_equals_the_module_of_transformers(twin: Kernels) -> None:
    torch.manual_seed(0)
    config = Florence2VisionConfig(embed_dim=[96] * 4, num_heads=[3] * 4, num_groups=[3] * 4)
    config._attn_implementation = "eager"
    module = Florence2VisionChannelAttention(config, 0).double().eval()
    hidden = torch.randn(2, 150, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = module(hidden)
        attended = attend(twin, module.qkv(hidden).numpy().astype(np.float32))
        actual = module.proj(torch.from_numpy(attended).double())
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=1e-5)
