"""How the tensorrt backend records its work in CUDA graphs and replays it, counted by the doubles. No GPU is used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from florence_edge.backends.tensorrt import decoding, searching
from florence_edge.backends.tensorrt.backend import TensorRTBackend
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError
from florence_edge.geometry import Float32Array, Int64Array
from florence_edge.options import SearchOptions
from support.engine_answers import GREEDY, assert_same
from support.fake_engines import fake_platform, open_fake
from support.fake_gpu import FakeGpu

COUNTED = ("execute", "florence_graph_begin", "florence_graph_launch", "synchronize")


def test_a_token_is_one_replay_and_waits_for_nothing(
    backend: TensorRTBackend, gpu: FakeGpu, prompts: list[Int64Array], pixels: Float32Array
) -> None:
    features = backend.encode_image(pixels[:1])
    backend.generate(features, prompts[:1], GREEDY)

    def counted(tokens: int) -> dict[str, int]:
        options = SearchOptions(max_new_tokens=tokens, min_new_tokens=tokens)
        backend.generate(features, prompts[:1], options)  # records the search, and the first of them the encoder
        before = dict(gpu.log)
        (answer,) = backend.generate(features, prompts[:1], options)
        assert len(answer.ids) == tokens
        return {name: count - before.get(name, 0) for name, count in gpu.log.items() if count != before.get(name, 0)}

    few, many = counted(6), counted(20)
    assert few.pop("florence_graph_launch") == 6 + 1, "the encoder's graph, and a token each"
    assert many.pop("florence_graph_launch") == 20 + 1
    assert few == many == {"htod": 2, "dtod": 1, "dtoh": 1, "florence_beam_begin": 1, "synchronize": 1}


def test_a_step_is_the_engine_the_caches_and_the_choice(
    backend: TensorRTBackend, bundle: Bundle, gpu: FakeGpu, prompts: list[Int64Array], pixels: Float32Array
) -> None:
    """Nothing is copied between them, however short the search is beside the cache."""
    backend.generate(backend.encode_image(pixels[:1]), prompts[:1], SearchOptions(max_new_tokens=5))
    (step,) = gpu.graphs.values()
    layers = sum(tensor.name.startswith("self_key") for tensor in bundle.manifest.graphs.decoder.inputs)
    assert len(step) == 1 + layers + 1


def test_the_host_stops_soon_after_the_end(
    backend: TensorRTBackend, gpu: FakeGpu, prompts: list[Int64Array], pixels: Float32Array
) -> None:
    features, options = backend.encode_image(pixels[:1]), SearchOptions(beams=1, max_new_tokens=60)
    (answer,) = backend.generate(features, prompts[3:4], options)
    assert len(answer.ids) < 40
    before = gpu.log["florence_graph_launch"]
    backend.generate(features, prompts[3:4], options)
    launched = gpu.log["florence_graph_launch"] - before - 1  # the encoder's
    assert len(answer.ids) <= launched <= len(answer.ids) + searching.IN_FLIGHT


def test_memory_is_taken_once_per_size(
    backend: TensorRTBackend, gpu: FakeGpu, prompts: list[Int64Array], pixels: Float32Array
) -> None:
    for _ in range(2):
        backend.generate(backend.encode_image(pixels[:1]), prompts[:1], GREEDY)
    held, recorded = set(gpu.blocks), gpu.log["florence_graph_begin"]
    for _ in range(5):
        backend.generate(backend.encode_image(pixels[:1]), prompts[:1], GREEDY)
    assert set(gpu.blocks) == held
    assert gpu.log["florence_graph_begin"] == recorded == 3, "vision, encoder and the decoder's step"
    backend.close()
    assert not gpu.blocks
    assert not gpu.graphs


def test_only_the_last_used_searches_stay_recorded(
    backend: TensorRTBackend, gpu: FakeGpu, prompts: list[Int64Array], pixels: Float32Array
) -> None:
    features = backend.encode_image(pixels[:1])
    for limit in range(3, 3 + decoding.KEPT + 3):
        backend.generate(features, prompts[:1], SearchOptions(beams=1, max_new_tokens=limit))
    assert len(gpu.graphs) == decoding.KEPT + 1, "the encoder's too"


def test_a_decoder_that_stands_still_is_noticed(
    backend: TensorRTBackend, gpu: FakeGpu, prompts: list[Int64Array], pixels: Float32Array
) -> None:
    features = backend.encode_image(pixels[:1])
    backend.generate(features, prompts[:1], GREEDY)
    for graph in gpu.graphs:
        gpu.graphs[graph] = []
    with pytest.raises(BackendError, match="stopped after 0 tokens"):
        backend.generate(features, prompts[:1], GREEDY)


@pytest.mark.parametrize("at", ["florence_graph_begin", "execute", "florence_graph_end", "florence_graph_upload"])
def test_where_recording_is_refused_the_work_is_enqueued(
    bundle: Bundle,
    gpu: FakeGpu,
    prompts: list[Int64Array],
    pixels: Float32Array,
    caplog: pytest.LogCaptureFixture,
    at: str,
) -> None:
    """Whatever it is that refuses: the answer is the same, every part says so once, and nothing is left behind."""
    recorded, unrecorded = open_fake(bundle, gpu), open_fake(bundle, gpu)
    (wanted,) = recorded.generate(recorded.encode_image(pixels[:1]), prompts[:1], GREEDY)
    graphs, before = dict(gpu.graphs), gpu.log["florence_graph_launch"]
    gpu.refused = at
    for _ in range(3):
        enqueued = gpu.log["execute"]
        (answer,) = unrecorded.generate(unrecorded.encode_image(pixels[:1]), prompts[:1], GREEDY)
        assert_same(answer, wanted)
        assert gpu.log["execute"] - enqueued >= len(answer.ids) + 2
    assert gpu.log["florence_graph_launch"] == before
    assert gpu.graphs == graphs
    said = sorted(record.getMessage().partition(" is not recorded")[0] for record in caplog.records)
    assert said == ["encoder.engine", "the decoder's step", "vision.engine"]


def test_an_image_is_one_replay_of_the_vision_engine(
    backend: TensorRTBackend, gpu: FakeGpu, pixels: Float32Array
) -> None:
    """Each batch size is set up by a run, recorded by the second and replayed from then on."""
    found, counts = [], []
    for _ in range(4):
        before = dict(gpu.log)
        found.append(backend.encode_image(pixels).numpy())
        counts.append({name: gpu.log.get(name, 0) - before.get(name, 0) for name in COUNTED})
    assert all(np.array_equal(found[0], again) for again in found)
    assert counts == [
        {"execute": 2, "florence_graph_begin": 0, "florence_graph_launch": 0, "synchronize": 2},
        {"execute": 2, "florence_graph_begin": 2, "florence_graph_launch": 2, "synchronize": 4},
        {"execute": 0, "florence_graph_begin": 0, "florence_graph_launch": 2, "synchronize": 2},
        {"execute": 0, "florence_graph_begin": 0, "florence_graph_launch": 2, "synchronize": 2},
    ]


def test_two_models_record_and_replay_side_by_side(
    bundle: Bundle, gpu: FakeGpu, prompts: list[Int64Array], pixels: Float32Array
) -> None:
    platform = fake_platform(gpu)
    models = [open_fake(bundle, gpu, platform) for _ in range(2)]

    def ask(model: TensorRTBackend) -> list[list[int]]:
        return [
            model.generate(model.encode_image(pixels[row : row + 1]), prompts[row : row + 1], GREEDY)[0].ids.tolist()
            for row in (0, 1, 2, 0, 1, 2)
        ]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, models)
    assert first == second
    assert first[:3] == first[3:]
    assert len(gpu.streams) == 2
