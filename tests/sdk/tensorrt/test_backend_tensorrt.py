"""The tensorrt backend over doubles that run its engines in ONNX Runtime and its kernels as CPU twins.

What it answers is compared with the onnx backend on the bundled model, how it gets there with the rules of CUDA and
TensorRT, which the doubles enforce. No GPU takes part.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_convert.lowering import Precision
from florence_edge.backends import Backend, Hypothesis, StreamingBackend
from florence_edge.backends.onnx import OnnxBackend
from florence_edge.backends.tensorrt.backend import TensorRTBackend
from florence_edge.backends.tensorrt.device import Memory
from florence_edge.backends.tensorrt.engines import chunks
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, InputError
from florence_edge.geometry import AnyArray, Float32Array, Int64Array
from florence_edge.options import SearchOptions
from support.engine_answers import CAPACITY, GREEDY, assert_same
from support.fake_engines import fake_platform, kernel_library, open_fake, write_engines
from support.fake_gpu import FakeGpu

IMAGE_OF = (0, 1, 2, 0, 1)


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        SearchOptions(max_new_tokens=12),
        SearchOptions(beams=3, max_new_tokens=16, early_stopping="never", length_penalty=2.0, no_repeat_ngram=2),
        SearchOptions(beams=3, max_new_tokens=10, early_stopping=False, length_penalty=0.0, min_new_tokens=6),
        SearchOptions(beams=1, max_new_tokens=1),
    ],
)
def test_it_answers_as_the_onnx_backend_does(
    backend: TensorRTBackend,
    reference: OnnxBackend,
    prompts: list[Int64Array],
    pixels: Float32Array,
    options: SearchOptions,
) -> None:
    """Five prompts of two padded lengths in batches of 2, 2 and 1, three images in batches of 2 and 1."""
    assert isinstance(backend, Backend)
    assert isinstance(backend, StreamingBackend)
    features, wanted_features = backend.encode_image(pixels), reference.encode_image(pixels)
    np.testing.assert_allclose(features.numpy(), wanted_features.numpy(), atol=1e-4)
    wanted = reference.generate(wanted_features, prompts, options, IMAGE_OF)
    for _ in range(2):
        for found, answer in zip(backend.generate(features, prompts, options, IMAGE_OF), wanted, strict=True):
            assert_same(found, answer)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_whole_answers_are_the_same(
    source: Bundle,
    reference: OnnxBackend,
    prompts: list[Int64Array],
    pixels: Float32Array,
    precision: Precision,
    gpu: FakeGpu,
    tmp_path: Path,
) -> None:
    """With the bundle's own settings, where an answer may fill the whole cache; fp16 as ONNX Runtime computes it."""
    opened = open_fake(write_engines(source, tmp_path, precision=precision), gpu)
    found = opened.generate(opened.encode_image(pixels), prompts, None, IMAGE_OF)
    wanted = reference.generate(reference.encode_image(pixels), prompts, None, IMAGE_OF)
    same = [one.ids.tolist() == other.ids.tolist() for one, other in zip(found, wanted, strict=True)]
    assert sum(same) >= (5 if precision == "fp32" else 3)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_stream_tells_the_answer_piece_by_piece(
    backend: TensorRTBackend, prompts: list[Int64Array], pixels: Float32Array, beams: int
) -> None:
    features, options = backend.encode_image(pixels[:1]), SearchOptions(beams=beams, max_new_tokens=12)
    (whole,) = backend.generate(features, prompts[:1], options)
    told: list[Int64Array] = []
    steps = backend.stream(features, prompts[0], options)
    while True:
        try:
            told.append(next(steps))
        except StopIteration as stop:
            answer: Hypothesis = stop.value
            break
    assert_same(answer, whole)
    assert np.concatenate(told).tolist() == whole.ids.tolist()
    assert len(told) == len(whole.ids) if beams == 1 else len(told) > 1


def test_calls_go_on_beside_a_stream(
    backend: TensorRTBackend, gpu: FakeGpu, prompts: list[Int64Array], pixels: Float32Array
) -> None:
    features = backend.encode_image(pixels[:1])
    (before,) = backend.generate(features, prompts[:1], GREEDY)
    with closing(backend.stream(features, prompts[0], GREEDY)) as steps:
        next(steps)
        assert gpu.depth == 0, "the reader must not find our context current"
        (between,) = backend.generate(features, prompts[:1], GREEDY)
    (after,) = backend.generate(features, prompts[:1], GREEDY)
    assert before.ids.tolist() == between.ids.tolist() == after.ids.tolist()


def test_closing_ends_a_stream(backend: TensorRTBackend, prompts: list[Int64Array], pixels: Float32Array) -> None:
    steps = backend.stream(backend.encode_image(pixels[:1]), prompts[0], GREEDY)
    next(steps)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="was closed"):
        next(steps)
    with pytest.raises(BackendError, match="was closed"):
        backend.encode_image(pixels[:1])


def test_closing_lets_go_of_engines_and_pinned_memory(
    backend: TensorRTBackend, prompts: list[Int64Array], pixels: Float32Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once and not when garbage is collected: that may be on a thread where the device is not current."""
    held: list[weakref.ref[object]] = []
    take = Memory.pinned

    def pinned(self: Memory, shape: Sequence[int], dtype: Any) -> AnyArray:
        array = take(self, shape, dtype)
        held.append(weakref.ref(array))
        return array

    monkeypatch.setattr(Memory, "pinned", pinned)
    for _ in range(2):
        backend.generate(backend.encode_image(pixels[:1]), prompts[:1], GREEDY)
    held.append(weakref.ref(backend._engines.decoder.engine))
    assert len(held) > 5
    gc.disable()
    try:
        backend.close()
        assert not [one for one in held if one() is not None]
    finally:
        gc.enable()


def test_threads_take_turns(
    backend: TensorRTBackend, gpu: FakeGpu, prompts: list[Int64Array], pixels: Float32Array
) -> None:
    features = backend.encode_image(pixels)
    expected = backend.generate(features, prompts[:3], GREEDY)

    def ask(row: int) -> Hypothesis:
        again = backend.encode_image(pixels[row : row + 1])
        answer = backend.generate(again, prompts[row : row + 1], GREEDY)[0]
        assert gpu.depth == 0
        return answer

    with ThreadPoolExecutor(4) as pool:
        for row, answer in enumerate(pool.map(ask, (0, 1, 2, 0, 1, 2))):
            assert answer.ids.tolist() == expected[row % 3].ids.tolist()
    assert len(gpu.streams) == 1


def test_two_models_share_a_process(
    bundle: Bundle, gpu: FakeGpu, prompts: list[Int64Array], pixels: Float32Array
) -> None:
    platform = fake_platform(gpu)
    first, second = open_fake(bundle, gpu, platform), open_fake(bundle, gpu, platform)
    assert platform.tensorrt.get_plugin_registry().loads == 1  # type: ignore[attr-defined]  # the double's own count
    features = first.encode_image(pixels[:1])
    (answer,) = first.generate(features, prompts[:1], GREEDY)
    with pytest.raises(InputError, match="encode the image with the backend that is asked"):
        second.generate(features, prompts[:1], GREEDY)
    (other,) = second.generate(second.encode_image(pixels[:1]), prompts[:1], GREEDY)
    first.close()
    (after,) = second.generate(second.encode_image(pixels[:1]), prompts[:1], GREEDY)
    assert answer.ids.tolist() == other.ids.tolist() == after.ids.tolist()


def test_a_fault_on_the_device_is_reported(
    backend: TensorRTBackend, gpu: FakeGpu, prompts: list[Int64Array], pixels: Float32Array
) -> None:
    features = backend.encode_image(pixels[:1])
    backend.generate(features, prompts[:1], GREEDY)
    gpu.fail_next = RuntimeError("an illegal memory access was encountered")
    with pytest.raises(BackendError, match="CUDA failed: an illegal memory access"):
        backend.generate(features, prompts[:1], GREEDY)
    assert gpu.depth == 0


def test_what_the_engines_were_not_built_for_is_refused(
    backend: TensorRTBackend, source: Bundle, tmp_path: Path, prompts: list[Int64Array], pixels: Float32Array
) -> None:
    features = backend.encode_image(pixels[:1])
    with pytest.raises(InputError, match=r"beams is 2, the engines were built for 1, 3; .*florence-edge build"):
        backend.generate(features, prompts[:1], SearchOptions(beams=2))
    with pytest.raises(InputError, match="image_of"):
        backend.generate(features, prompts[:1], GREEDY, [1])
    with pytest.raises(BackendError, match="holds ONNX graphs and no engines; build them here: florence-edge build"):
        open_fake(source, FakeGpu(kernel_library()))


def test_features_that_are_not_finite_are_noticed(backend: TensorRTBackend, pixels: Float32Array) -> None:
    broken = pixels[:1].copy()
    broken[0, 1, 5, 5] = np.nan
    with pytest.raises(BackendError, match="non-finite"):
        backend.encode_image(broken)
    with pytest.raises(InputError, match="float64"):
        backend.encode_image(pixels.astype(np.float64))


def test_an_answer_may_fill_the_cache(
    backend: TensorRTBackend, gpu: FakeGpu, prompts: list[Int64Array], pixels: Float32Array, reference: OnnxBackend
) -> None:
    longest = CAPACITY - 1
    options = SearchOptions(beams=3, no_repeat_ngram=1, max_new_tokens=longest, min_new_tokens=longest)
    (answer,) = backend.generate(backend.encode_image(pixels[:1]), prompts[:1], options)
    (wanted,) = reference.generate(reference.encode_image(pixels[:1]), prompts[:1], options)
    assert_same(answer, wanted)
    assert len(set(answer.ids.tolist()[1:-1])) == longest - 2
    with pytest.raises(InputError, match=r"positions .* are asked for, the engines take at most 64; build others"):
        backend.generate(backend.encode_image(pixels[:1]), prompts[:1], SearchOptions(max_new_tokens=64))


@given(
    choices=st.lists(st.integers(1, 16), min_size=1, unique=True).map(sorted),
    total=st.integers(0, 100),
)
def test_every_item_runs_once_in_a_built_batch(choices: list[int], total: int) -> None:
    parts = chunks(choices, total)
    assert sum(count for count, _ in parts) == total
    assert all(batch in choices and 1 <= count <= batch for count, batch in parts)
    assert all(count == batch for count, batch in parts[:-1])
    assert all(count == batch or batch == choices[0] for count, batch in parts)


def test_the_loop_leaves_the_processor_to_others(
    backend: TensorRTBackend, prompts: list[Int64Array], pixels: Float32Array
) -> None:
    """While one thread waits for tokens another makes progress: the wait does not hold the interpreter."""
    features = backend.encode_image(pixels[:1])
    ticks, stop = [0], threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks[0] += 1
            time.sleep(1e-3)

    other = threading.Thread(target=tick)
    other.start()
    backend.generate(features, prompts[:1], SearchOptions(max_new_tokens=20))
    stop.set()
    other.join()
    assert ticks[0] > 5
