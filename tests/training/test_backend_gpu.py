"""The torch backend on a real GPU, against itself on the CPU. Has not run on a GPU yet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from florence_edge import search
from florence_edge.backends import Hypothesis
from florence_edge.backends.request import Bounds, Request, make_request
from florence_edge.errors import BackendError
from florence_edge.geometry import ImageSize
from florence_edge.options import SearchConfig
from florence_train.backend import TorchBackend, _TorchDecoder
from florence_train.kernels import operators
from florence_train.kernels.device import DeviceEngine
from florence_train.kernels.operations import KERNELS, TORCH, Operations
from florence_train.model import BASE, FlorenceModel
from florence_train.names import NATIVE, rename
from support.engines import random_pixels, random_prompts
from support.kernel_model import CONFIG, random_config, random_request, small_model
from support.kernels import load
from support.oracle import reference_model

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(3600)]
both = pytest.mark.parametrize("operations", [KERNELS, TORCH], ids=lambda operations: operations.name)


@pytest.fixture(scope="module", autouse=True)
def exact() -> None:
    """The CUDA library, and fp32 that is fp32: torch's convolutions use TF32 by default."""
    load("cuda")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture(scope="module")
def model() -> FlorenceModel:
    return on_the_gpu(small_model())


def on_the_gpu(model: FlorenceModel, dtype: torch.dtype = torch.float32) -> FlorenceModel:
    """A copy: the CPU keeps its own."""
    copy = FlorenceModel(model.config).eval()
    copy.load_state_dict(model.state_dict())
    return copy.to("cuda", dtype)


def on_the_host(model: FlorenceModel, features: Tensor, request: Request) -> list[Hypothesis]:
    return search.generate(_TorchDecoder(model, features, request), len(request.prompt_ids), request.config)


def same(ours: list[Hypothesis], theirs: list[Hypothesis]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.score == pytest.approx(other.score, abs=1e-3, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(24, 36, 12), (13, 20, 12), (9, 10, 5)], ids=str)
def test_vision_operators_equal_their_twins(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    height, width, window = shape
    qkv, bias = (torch.randn(size).to(dtype) for size in ((2, height * width, 192), (192,)))
    close(
        operators.window_attention(qkv.cuda(), bias.cuda(), height, width, window, 2),
        operators.window_attention(qkv, bias, height, width, window, 2),
    )
    close(operators.channel_attention(qkv.cuda(), 2), operators.channel_attention(qkv, 2))


def close(actual: Tensor, expected: Tensor) -> None:
    tolerance = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[expected.dtype]
    torch.testing.assert_close(actual.cpu(), expected, atol=tolerance, rtol=tolerance)


@both
def test_random_settings_give_the_answers_of_the_cpu(operations: Operations, model: FlorenceModel) -> None:
    engine = DeviceEngine(model, operations)
    pixels = torch.from_numpy(random_pixels(0, 3))
    features = engine.encode_image(pixels)
    with torch.inference_mode():
        expected_features = small_model().encode_image(pixels)
    torch.testing.assert_close(features.cpu(), expected_features, atol=1e-4, rtol=1e-4)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        request = random_request(rng, 3, random_config(rng))
        try:
            expected = on_the_host(small_model(), expected_features, request)
        except BackendError:
            with pytest.raises(BackendError, match="no token may follow"):
                engine.generate(features, request)
            continue
        same(engine.generate(features, request), expected)


@both
def test_two_runs_give_the_same_bits(operations: Operations, model: FlorenceModel) -> None:
    request = random_request(np.random.default_rng(1), 2, SearchConfig(max_new_tokens=20, min_new_tokens=20))
    pixels = torch.from_numpy(random_pixels(1, 2))
    runs = []
    for _ in range(2):
        engine = DeviceEngine(model, operations)
        features = engine.encode_image(pixels)
        answers = engine.generate(features, request)
        runs.append((features.cpu(), [(a.ids.tolist(), a.score, a.token_logprobs.tolist()) for a in answers]))
    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


@both
def test_the_host_never_waits_inside_the_token_loop(operations: Operations, model: FlorenceModel) -> None:
    """Torch raises at every call of its own that waits for the device; the lookout's events are older steps."""
    engine = DeviceEngine(model, operations)
    request = random_request(np.random.default_rng(2), 1, SearchConfig(max_new_tokens=24, min_new_tokens=24))
    features = engine.encode_image(torch.from_numpy(random_pixels(2, 1)))
    expected = engine.generate(features, request)
    with torch.inference_mode():
        _, decoding = engine.decoding(features, request)
        decoding.begin(features, request)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            decoding.run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    same(engine.generate(features, request), expected)


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_close(operations: Operations, dtype: torch.dtype) -> None:
    half = DeviceEngine(on_the_gpu(small_model(), dtype), operations)
    pixels = torch.from_numpy(random_pixels(4, 2))
    request = random_request(np.random.default_rng(1), 2, SearchConfig(max_new_tokens=14))
    with torch.inference_mode():
        features = small_model().encode_image(pixels)
    expected = on_the_host(small_model(), features, request)
    for ours, theirs in zip(half.generate(half.encode_image(pixels), request), expected, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=0.2)


@pytest.mark.parametrize("mode", ["on", "off"])
def test_64_pairs_at_base_size_equal_the_cpu(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """231 M random parameters, 768 x 768 pixels, three and five beams: 4 images x 16 prompts."""
    reference = reference_model(BASE)
    host = FlorenceModel(BASE).eval()
    host.load_state_dict(rename(reference.state_dict(), NATIVE, host.state_dict()))
    monkeypatch.setenv("FLORENCE_KERNELS", mode)
    pixels = random_pixels(0, 4, ImageSize(768, 768))
    prompts = random_prompts(3, (3, 5, 7, 8, 10, 12, 16, 24), vocabulary=BASE.text.vocab_size)
    with torch.inference_mode():
        expected_features = host.encode_image(torch.from_numpy(pixels))
    device = TorchBackend(on_the_gpu(host), SearchConfig())
    features = device.encode_image(pixels)
    np.testing.assert_allclose(features.numpy(), expected_features.numpy(), atol=2e-3)
    for beams in (3, 5):
        config = SearchConfig(beams=beams, max_new_tokens=16)
        for row in range(len(pixels)):
            bounds = Bounds(BASE.limits, config, BASE.text.vocab_size)
            request = make_request(bounds, len(pixels), prompts, None, [row] * len(prompts))
            engine = device._on_device(device._opened())
            assert engine is not None
            same(engine.generate(features.values, request), on_the_host(host, expected_features, request))


def test_a_large_search_runs_at_the_published_length() -> None:
    """1,023 tokens with no end in sight: every position of the tables, and the longest recording there is."""
    config = replace(CONFIG, text=replace(CONFIG.text, max_positions=1024))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FlorenceModel(config).eval().cuda()
    settings = SearchConfig(max_new_tokens=1023, min_new_tokens=1023, no_repeat_ngram=0)
    request = random_request(np.random.default_rng(0), 1, settings, positions=1024)
    answers = {}
    for operations in (KERNELS, TORCH):
        engine = DeviceEngine(model, operations)
        found = engine.generate(engine.encode_image(torch.zeros(1, 3, 64, 64)), request)
        answers[operations.name] = [len(answer.ids) for answer in found]
    assert set(answers["kernels"]) == set(answers["torch"]) == {1023}
