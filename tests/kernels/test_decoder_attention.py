"""Decoder self- and cross-attention against float64 NumPy: beams, positions, indirection, masks, finished images."""

from __future__ import annotations

import numpy as np
import pytest

from support.kernel_cases import LENGTH, SelfCase, cross_attention
from support.kernels import DTYPES, Kernels

TOLERANCE = {"fp32": 2e-6, "fp16": 2e-3, "bf16": 1.6e-2}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize("position", [0, 1, 31, 32, LENGTH - 1])
@pytest.mark.parametrize("beams", [1, 3, 8])
def test_self_attention_matches_float64(kernels: Kernels, beams: int, position: int, head_dim: int, dtype: str) -> None:
    case = SelfCase(dtype, beams=beams, position=position, head_dim=head_dim)
    case.run(kernels)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(case.out.astype(np.float64), case.expected(), atol=tolerance, rtol=tolerance)


def test_fused_projection_is_read_in_place(kernels: Kernels) -> None:
    fused, apart = SelfCase("fp32", fused=True), SelfCase("fp32")
    fused.run(kernels)
    apart.run(kernels)
    np.testing.assert_array_equal(fused.out, apart.out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("separate", [False, True])
def test_append_writes_one_position_and_nothing_else(kernels: Kernels, dtype: str, separate: bool) -> None:
    case = SelfCase(dtype, position=7)
    before = [case.k_cache.copy(), case.v_cache.copy()]
    if separate:
        arrays = (*case.inputs()[1:], case.k_cache, case.v_cache, case.position, None)
        kernels.run("florence_kv_append", case.dims(0), *arrays)
    else:
        case.run(kernels, append=1)
    for cache, old, new in zip((case.k_cache, case.v_cache), before, (case.k, case.v), strict=True):
        assert cache[:, :, :, 7].tobytes() == new.tobytes()
        assert np.delete(cache, 7, axis=3).tobytes() == np.delete(old, 7, axis=3).tobytes()


def test_reading_alone_leaves_the_cache_as_it_was(kernels: Kernels) -> None:
    case = SelfCase("fp32")
    before = case.k_cache.copy()
    case.run(kernels, append=0)
    np.testing.assert_array_equal(case.k_cache, before)


def test_rows_of_finished_images_are_left_alone(kernels: Kernels) -> None:
    case = SelfCase("fp32", beams=2)
    cache = case.k_cache.copy()
    case.run(kernels, append=1, done=np.array([0, 1], np.int32))
    assert np.isfinite(case.out[:2]).all()
    assert np.isnan(case.out[2:]).all()
    np.testing.assert_array_equal(case.k_cache[1], cache[1])


@pytest.mark.parametrize("position", [-1, LENGTH])
def test_a_position_outside_the_cache_does_nothing(kernels: Kernels, position: int) -> None:
    case = SelfCase("fp32")
    case.position[0] = position
    cache = case.k_cache.copy()
    case.run(kernels, append=1)
    assert np.isnan(case.out).all()
    np.testing.assert_array_equal(case.k_cache, cache)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize("beams", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("source", [1, 37, 300])
def test_cross_attention_matches_float64(kernels: Kernels, source: int, beams: int, head_dim: int, dtype: str) -> None:
    out, expected = cross_attention(kernels, (2, beams, 2, source, head_dim), dtype)
    np.testing.assert_allclose(out.astype(np.float64), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("lengths", [[5, 200], [129, 128], [0, 1]])
def test_masked_source_positions_are_never_read(kernels: Kernels, lengths: list[int]) -> None:
    out, expected = cross_attention(kernels, (2, 3, 2, 200, 64), "fp16", lengths=np.array(lengths, np.int32))
    np.testing.assert_allclose(out.astype(np.float64), expected, atol=2e-3, rtol=2e-3)


def test_cross_attention_leaves_finished_images_alone(kernels: Kernels) -> None:
    out, expected = cross_attention(kernels, (2, 3, 2, 40, 64), "fp32", done=np.array([1, 0], np.int32))
    assert np.isnan(out[:3]).all()
    np.testing.assert_allclose(out[3:], expected[3:], atol=2e-6, rtol=2e-6)
