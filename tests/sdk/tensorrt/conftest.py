"""The tensorrt backend over doubles, and the onnx backend it is compared with, both on the bundled model.

Libraries that `make test-matrix` lacks are imported where they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from florence_edge.bundle import Bundle
from florence_edge.geometry import Float32Array, Int64Array
from florence_edge.tokens import Tokens
from support.engine_answers import CAPACITY

if TYPE_CHECKING:
    from florence_edge.backends.onnx import OnnxBackend
    from florence_edge.backends.tensorrt.backend import TensorRTBackend
    from support.fake_gpu import FakeGpu

SENTENCES = (
    "What does the image describe?",
    "Locate the objects with category name in the image.",
    "Locate the phrases in the caption: a red cube beside a blue ball and a green cylinder on the wooden table.",
    "What is the text in the image?",
    "What does the image describe?",
)


@pytest.fixture(scope="module")
def source() -> Bundle:
    return Bundle.open("tabletop")


@pytest.fixture(scope="module")
def bundle(source: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from florence_convert.lowering import Buckets
    from support.fake_engines import write_engines

    buckets = Buckets(batches=(1, 2), beams=(1, 3), prompts=(12, 64), capacity=CAPACITY)
    return write_engines(source, tmp_path_factory.mktemp("engines"), buckets=buckets)


@pytest.fixture
def gpu() -> FakeGpu:
    from support.fake_engines import kernel_library
    from support.fake_gpu import FakeGpu

    return FakeGpu(kernel_library())


@pytest.fixture
def backend(bundle: Bundle, gpu: FakeGpu) -> TensorRTBackend:
    from support.fake_engines import open_fake

    return open_fake(bundle, gpu)


@pytest.fixture(scope="module")
def reference(source: Bundle) -> OnnxBackend:
    from florence_edge.backends.onnx import OnnxBackend

    return OnnxBackend(source, threads=1)


@pytest.fixture(scope="module")
def prompts(source: Bundle) -> list[Int64Array]:
    tokens = Tokens.load(source.tokenizer)
    return [tokens.encode(sentence) for sentence in SENTENCES]


@pytest.fixture(scope="module")
def pixels(bundle: Bundle) -> Float32Array:
    rng = np.random.default_rng(0)
    times = bundle.manifest.image.height // 8
    tiles = rng.normal(size=(3, 3, 8, 8)).repeat(times, axis=2).repeat(times, axis=3)
    return (tiles + 0.2 * rng.normal(size=tiles.shape)).astype(np.float32)
