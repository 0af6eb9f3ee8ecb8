"""The 16-bit floats of the twins against NumPy and ml_dtypes: every value in, and rounding to nearest even out."""

from __future__ import annotations

import numpy as np
import pytest

from support.kernels import DTYPES, Kernels, dims


def average(kernels: Kernels, values: np.ndarray, dtype: str) -> np.ndarray:
    """Means of `values` [N, 32] over groups of `window`^2 tokens: window attention with equal keys."""
    kind = DTYPES[dtype][1]
    qkv = np.zeros((1, len(values), 96), kind)
    qkv[0, :, 64:] = values
    out = np.empty((1, len(values), 32), kind)
    window = 1 if len(values) == 2048 else 2
    height = 1 if window == 1 else 2
    given = dims(
        "window",
        batch=1,
        height=height,
        width=len(values) // height,
        channels=32,
        heads=1,
        window=window,
        dtype=DTYPES[dtype][0],
        path=0,
    )
    kernels.run("florence_window_attention", given, qkv, None, out)
    return np.asarray(out[0])


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_every_value_survives(twin: Kernels, dtype: str) -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(2048, 32)
    values = every.view(DTYPES[dtype][1])
    out = average(twin, values, dtype)
    nan = np.isnan(values.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(out.astype(np.float32)), nan)
    same = out.view(np.uint16) == every
    # A sum that starts at +0 turns -0 into +0.
    assert (same | nan | (every == 0x8000)).all()


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("scale", [1.0, 2.0**-13, 2.0**-23, 2.0**14])
def test_results_are_rounded_to_nearest_even(twin: Kernels, dtype: str, scale: float) -> None:
    kind = DTYPES[dtype][1]
    values = (np.random.default_rng(0).uniform(-1, 1, (512, 32)) * scale).astype(kind)
    out = average(twin, values, dtype)
    # Tokens t, t + 1 of both rows are one window of four.
    rows = values.astype(np.float64).reshape(2, 128, 2, 32)
    expected = rows.mean(axis=(0, 2)).astype(np.float32).astype(kind)
    for token in range(2):
        np.testing.assert_array_equal(out.reshape(2, 128, 2, 32)[0, :, token].view(np.uint16), expected.view(np.uint16))
