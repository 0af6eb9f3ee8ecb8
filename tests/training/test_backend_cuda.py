"""The torch backend's way over the device: what chooses it, what it records, how the host follows. All on the CPU.

The recordings are replayed as lists of operators (`support.replay`), which is what a CUDA graph does.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from florence_edge.errors import BackendError, DependencyError, InputError
from florence_edge.options import SearchConfig, SearchOptions
from florence_train.backend import TorchBackend
from florence_train.kernels import operators
from florence_train.kernels.device import KEPT, DeviceEngine, choose, make_engine
from florence_train.kernels.operations import KERNELS, TORCH, Operations
from florence_train.kernels.recording import LAG, Lookout, Now, Recorder
from florence_train.model import BASE, LARGE, FlorenceModel
from florence_train.tiny import tiny_config
from support import replay
from support.engines import random_pixels
from support.kernel_model import CONFIG, VOCABULARY, random_config, random_request, small_model
from support.kernels import native_library

SETTINGS = SearchConfig(max_new_tokens=14)
both = pytest.mark.parametrize("operations", [KERNELS, TORCH], ids=lambda operations: operations.name)


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    native_library()


def prompts(seed: int, count: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray([0, *rng.integers(3, VOCABULARY, size=rng.integers(1, 20)), 2]) for _ in range(count)]


def backend(mode: str, monkeypatch: pytest.MonkeyPatch) -> TorchBackend:
    monkeypatch.setenv("FLORENCE_KERNELS", mode)
    opened = TorchBackend(small_model(), SETTINGS)
    opened.encode_image(random_pixels(0, 1))  # the choice is made at the first call
    return opened


def test_the_backend_answers_alike_with_and_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, options = random_pixels(1, 2), SearchOptions(beams=4)
    answers = {}
    for mode in ("on", "off"):
        opened = backend(mode, monkeypatch)
        found = opened.generate(opened.encode_image(pixels), prompts(5), options, [0, 1, 1, 0])
        answers[mode] = [answer.ids.tolist() for answer in found]
    assert answers["on"] == answers["off"]
    assert len(set(map(len, answers["on"]))) > 1


def test_a_stream_joins_to_what_the_device_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = backend("on", monkeypatch)
    features, (prompt,) = opened.encode_image(random_pixels(2, 1)), prompts(1, 1)
    pieces = list(opened.stream(features, prompt))
    (answer,) = opened.generate(features, [prompt])
    assert np.concatenate(pieces).tolist() == answer.ids.tolist()


def test_threads_that_share_an_engine_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, asked = backend("on", monkeypatch), prompts(3, 8)
    features = opened.encode_image(random_pixels(3, 1))
    expected = [opened.generate(features, [prompt])[0].ids.tolist() for prompt in asked]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda prompt: opened.generate(features, [prompt])[0].ids.tolist(), asked)
    assert list(found) == expected


def test_a_closed_backend_lets_go_and_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = backend("on", monkeypatch)
    opened.close()
    with pytest.raises(BackendError, match="was closed"):
        opened.encode_image(random_pixels(0, 1))


@pytest.mark.parametrize(
    ("mode", "cuda", "found", "expected"),
    [
        ("auto", True, True, KERNELS),
        ("auto", True, False, TORCH),
        ("off", True, True, TORCH),
        ("on", True, True, KERNELS),
        ("auto", False, True, None),
        ("off", False, True, None),
        ("on", False, True, KERNELS),
    ],
)
def test_the_choice(
    mode: str, cuda: bool, found: bool, expected: Operations | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def library(*, cuda: bool) -> None:
        if not found:
            raise DependencyError("none")

    monkeypatch.setattr(operators, "library", library)
    assert choose(CONFIG, mode, cuda=cuda) is expected


def test_kernels_that_are_wanted_and_missing_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("florence_edge.backends.kernel_library._folders", lambda: [tmp_path])
    operators.library.cache_clear()
    with pytest.raises(DependencyError, match="cmake"):
        choose(CONFIG, "on", cuda=True)
    operators.library.cache_clear()


def test_a_model_the_kernels_do_not_hold_is_listed_or_run_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(700)
    with pytest.raises(BackendError, match=r"(?s)stage 0 has 16 channels for 2 heads.*groups.*heads have 16 channels"):
        choose(config, "on", cuda=False)
    monkeypatch.setattr(operators, "library", lambda *, cuda: None)
    assert choose(config, "auto", cuda=True) is TORCH
    assert [choose(size, "auto", cuda=True) for size in (BASE, LARGE)] == [KERNELS, KERNELS]


def test_an_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORENCE_KERNELS", "fast")
    with pytest.raises(InputError, match=r"'fast'; it must be one of auto, on, off"):
        make_engine(small_model())


def test_more_beams_than_the_kernels_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, config = DeviceEngine(small_model(), KERNELS), replace(SETTINGS, beams=9)
    features = engine.encode_image(torch.from_numpy(random_pixels(0, 1)))
    request = random_request(np.random.default_rng(0), 1, config)
    expected = DeviceEngine(small_model(), TORCH).generate(features, request)
    answers = engine.generate(features, request)
    assert [answer.ids.tolist() for answer in answers] == [answer.ids.tolist() for answer in expected]
    monkeypatch.setenv("FLORENCE_KERNELS", "on")
    with pytest.raises(InputError, match="beams is 9; the kernels hold up to 8"):
        engine.generate(features, request)


@both
def test_replayed_recordings_answer_as_the_work_itself(operations: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing a step needs may live in Python, wait for the device or lie where the next step does not find it."""
    direct = DeviceEngine(small_model(), operations)
    monkeypatch.setattr(Recorder, "record", replay.record)
    recorded = DeviceEngine(small_model(), operations)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        request = random_request(rng, 2, random_config(rng))
        pixels = torch.from_numpy(random_pixels(seed, 2))
        features = recorded.encode_image(pixels)
        torch.testing.assert_close(features, direct.encode_image(pixels), atol=0, rtol=0)
        try:
            expected = direct.generate(features, request)
        except BackendError:
            with pytest.raises(BackendError, match="no token may follow"):
                recorded.generate(features, request)
            continue
        for ours, theirs in zip(recorded.generate(features, request), expected, strict=True):
            assert ours.ids.tolist() == theirs.ids.tolist()
            assert ours.score == theirs.score


def test_a_recording_that_asks_the_device_is_caught() -> None:
    value = torch.ones(1)
    with pytest.raises(AssertionError, match="makes the host wait"):
        replay.record(None, lambda: print(value.item()))
    with pytest.raises(AssertionError, match="with a mask"):
        replay.record(None, lambda: print(len(value[value > 0])))


class Witness(Now):
    """A moment that notes how many moments had been marked when it was waited for."""

    marked: list[Witness]
    waits: list[int]

    def record(self) -> None:
        Witness.marked.append(self)

    def synchronize(self) -> None:
        place = len(Witness.marked) - 1 - Witness.marked[::-1].index(self)
        Witness.waits.append(len(Witness.marked) - place)


def test_the_host_waits_for_old_steps_only_and_stops_soon_after_the_end() -> None:
    Witness.marked, Witness.waits = [], []
    lookout = Lookout(torch.device("cpu"), Witness)
    for end in (5, 1, 9):
        lookout.begin()
        steps = 0
        while not lookout.over(torch.tensor([int(steps + 1 < end), steps + 2], dtype=torch.int32)):
            steps += 1
        assert steps + 1 == end + LAG
    assert set(Witness.waits) == {LAG}, "the newest step is never waited for"


def test_few_recordings_are_kept_and_the_right_ones() -> None:
    engine = DeviceEngine(small_model(), TORCH)
    kept = torch.from_numpy(random_pixels(0, 1))
    first = engine.encode_image(kept)
    for side in range(32, 32 + 8 * KEPT, 8):
        engine.encode_image(torch.zeros(1, 3, side, 64))
        assert torch.equal(engine.encode_image(kept), first)
    assert len(engine._encoders) == KEPT
    assert tuple(kept.shape) in engine._encoders


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_close(
    operations: Operations, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tokens may be chosen, but as good ones: scores are means of log-probabilities."""
    exact, model = DeviceEngine(small_model(), TORCH), small_copy(dtype)
    half = DeviceEngine(model, operations)
    pixels, request = torch.from_numpy(random_pixels(4, 2)), random_request(np.random.default_rng(1), 2, SETTINGS)
    features = exact.encode_image(pixels)
    encoded = half.encode_image(pixels)
    assert encoded.dtype == dtype
    assert float((encoded.float() - features).abs().max()) < 0.05 * float(features.abs().max())
    for ours, theirs in zip(half.generate(encoded, request), exact.generate(features, request), strict=True):
        assert ours.token_logprobs.dtype == np.float32
        assert ours.score == pytest.approx(theirs.score, abs=0.2)


def small_copy(dtype: torch.dtype) -> FlorenceModel:
    model = FlorenceModel(CONFIG).eval()
    model.load_state_dict(small_model().state_dict())
    return model.to(dtype)


def test_a_model_that_moved_gets_a_new_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORENCE_KERNELS", "on")
    model = small_copy(torch.float32)
    opened = TorchBackend(model, SETTINGS)
    before = opened.encode_image(random_pixels(0, 1))
    model.to(torch.bfloat16)
    after = opened.encode_image(random_pixels(0, 1))
    assert (before.values.dtype, after.values.dtype) == (torch.float32, torch.bfloat16)
    assert opened.generate(after, prompts(0, 1))
