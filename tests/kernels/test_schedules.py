"""The CUDA sources give the same bits whatever order the emulator runs the threads of a block in.

A barrier that is missing between a write and a read of shared memory shows as a difference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from support.beam_search import Options, Search
from support.kernel_cases import (
    SelfCase,
    channel_attention,
    cross_attention,
    noise_image,
    random_channels,
    random_windows,
    resize,
    toy_model,
    window_attention,
)
from support.kernels import Kernels


def windows(kernels: Kernels, dtype: str) -> bytes:
    qkv, bias = random_windows((13, 12), heads=1, dtype=dtype)
    return window_attention(kernels, qkv, bias, (13, 12)).tobytes()


def channels(kernels: Kernels, dtype: str) -> bytes:
    return channel_attention(kernels, random_channels(1, 600, 1, dtype)).tobytes()


def self_attention(kernels: Kernels) -> bytes:
    case = SelfCase("fp16", position=40)
    case.run(kernels, append=1)
    return case.out.tobytes() + case.k_cache.tobytes()


def beams(kernels: Kernels) -> bytes:
    options = Options(beams=3, vocab=9000, max_length=5)
    search = Search(kernels, options, batch=2)
    search.run([toy_model(seed, options) for seed in range(2)])
    return search.block.tobytes()


CASES: dict[str, Callable[[Kernels], bytes]] = {
    "resize": lambda kernels: resize(kernels, noise_image(40, 30), (20, 150)).tobytes(),
    "windows on tensor cores": lambda kernels: windows(kernels, "fp16"),
    "windows portably": lambda kernels: windows(kernels, "fp32"),
    "channels on tensor cores": lambda kernels: channels(kernels, "bf16"),
    "channels portably": lambda kernels: channels(kernels, "fp32"),
    "self-attention": self_attention,
    "cross-attention": lambda kernels: cross_attention(kernels, (1, 3, 1, 150, 32), "fp16")[0].tobytes(),
    "beam step": beams,
}


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_threads_does_not_matter(emulator: Kernels, name: str) -> None:
    results = []
    for schedule in (0, 1, 2, 3):
        emulator.library.florence_emulator_schedule(schedule)
        results.append(CASES[name](emulator))
    assert len(set(results)) == 1
    assert np.frombuffer(results[0], np.uint8).any()
