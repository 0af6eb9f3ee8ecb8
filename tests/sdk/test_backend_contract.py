"""What every backend owes its callers, whichever engine it is: one test file over all of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from florence_edge.backends import Backend, Hypothesis, StreamingBackend
from florence_edge.codec import Codec
from florence_edge.errors import BackendError, InputError
from florence_edge.geometry import AnyArray, Int64Array
from florence_edge.options import FormedOptions, SearchConfig, SearchOptions
from florence_edge.prompts import TaskInput
from florence_edge.tasks import find
from support.engines import BACKENDS, SIZE, Engines, kernel_engines, random_pixels, random_prompts
from support.fake_engines import kernel_library, open_fake, write_engines
from support.fake_gpu import FakeGpu

NAMES = (*BACKENDS, "tensorrt")
"""The last runs over doubles of a GPU and of TensorRT: engines in ONNX Runtime, kernels as CPU twins."""

Opener = Callable[[str], StreamingBackend]
SHORT = SearchOptions(max_new_tokens=12)
LENGTHS = (3, 17, 6, 11)


@pytest.fixture(scope="module")
def engines() -> Engines:
    """A model that the kernels take."""
    return kernel_engines()


@pytest.fixture(scope="module")
def opener(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Opens the model in a backend."""
    lowered = None

    def opened(name: str) -> StreamingBackend:
        nonlocal lowered
        if name in BACKENDS:
            return BACKENDS[name](engines.bundle)
        gpu = FakeGpu(kernel_library())
        lowered = lowered or write_engines(engines.bundle, tmp_path_factory.mktemp("engines"))
        return open_fake(lowered, gpu)

    return opened


@pytest.fixture(scope="module", params=NAMES)
def backend(request: pytest.FixtureRequest, opener: Opener) -> Iterator[StreamingBackend]:
    opened = opener(request.param)
    yield opened
    opened.close()


def prompts(engines: Engines, lengths: tuple[int, ...] = LENGTHS) -> list[Int64Array]:
    return random_prompts(1, lengths, vocabulary=engines.config.text.vocab_size)


def same(one: Hypothesis, other: Hypothesis) -> bool:
    """Equal but for rounding: another batch size adds the same numbers in another order."""
    return (
        one.ids.tolist() == other.ids.tolist()
        and one.finish == other.finish
        and abs(one.score - other.score) < 1e-4
        and bool(np.allclose(one.token_logprobs, other.token_logprobs, atol=1e-4))
    )


def drain(steps: Generator[Int64Array, None, Hypothesis]) -> tuple[list[Int64Array], Hypothesis]:
    told: list[Int64Array] = []
    while True:
        try:
            told.append(next(steps))
        except StopIteration as stop:
            return told, stop.value


def test_it_offers_the_three_verbs_and_streams(backend: StreamingBackend) -> None:
    assert isinstance(backend, Backend)
    assert isinstance(backend, StreamingBackend)


def test_features_of_a_batch_are_those_of_its_images(backend: StreamingBackend, engines: Engines) -> None:
    pixels = random_pixels(0, 3)
    together = backend.encode_image(pixels)
    assert len(together) == 3
    values = together.numpy()
    tokens = engines.config.image_tokens(SIZE.height, SIZE.width)
    assert values.shape == (3, tokens, engines.config.text.dim)
    assert values.dtype == np.float32
    for row in range(3):
        np.testing.assert_allclose(backend.encode_image(pixels[row : row + 1]).numpy()[0], values[row], atol=1e-5)
    values[:] = 0
    assert together.numpy().any(), "numpy() must be a copy"


@pytest.mark.parametrize("beams", [1, 3])
def test_a_mixed_batch_equals_its_single_runs(backend: StreamingBackend, engines: Engines, beams: int) -> None:
    options = SearchOptions(beams=beams, max_new_tokens=20)
    features = backend.encode_image(random_pixels(0, 3))
    asked = prompts(engines)
    image_of = [2, 0, 1, 2]
    batch = backend.generate(features, asked, options, image_of)
    assert len({tuple(answer.ids.tolist()) for answer in batch}) > 1
    for answer, ids, image in zip(batch, asked, image_of, strict=True):
        assert answer.ids.dtype == np.int64
        assert answer.token_logprobs.dtype == np.float32
        (alone,) = backend.generate(features, [ids], options, [image])
        assert same(answer, alone)


def test_prompt_i_asks_about_image_i_unless_told_otherwise(backend: StreamingBackend, engines: Engines) -> None:
    features = backend.encode_image(random_pixels(0, 2))
    asked = prompts(engines, (5, 5))
    plain, told = backend.generate(features, asked, SHORT), backend.generate(features, asked, SHORT, [0, 1])
    assert [answer.ids.tolist() for answer in plain] == [answer.ids.tolist() for answer in told]
    assert backend.generate(features, [], SHORT) == []


def test_options_change_one_call_and_the_rest_is_the_bundles(backend: StreamingBackend, engines: Engines) -> None:
    features = backend.encode_image(random_pixels(0, 1))
    (asked,) = prompts(engines, (5,))
    settings: SearchConfig = engines.bundle.manifest.search
    (plain,) = backend.generate(features, [asked])
    spelt_out = SearchOptions(
        beams=settings.beams, max_new_tokens=settings.max_new_tokens, no_repeat_ngram=settings.no_repeat_ngram
    )
    assert same(plain, backend.generate(features, [asked], spelt_out)[0])
    (forced,) = backend.generate(features, [asked], SearchOptions(max_new_tokens=9, min_new_tokens=9))
    assert (len(forced.ids), forced.finish, forced.ids[-1]) == (9, "length", 2)


def test_long_answers_outgrow_the_first_cache(backend: StreamingBackend, opener: Opener, engines: Engines) -> None:
    """150 tokens make a cache of 64 positions grow twice; greedy and beams must come through unharmed."""
    features = backend.encode_image(random_pixels(0, 1))
    (asked,) = prompts(engines, (5,))
    reference = opener("torch")
    for beams in (1, 3):
        options = SearchOptions(beams=beams, max_new_tokens=150, min_new_tokens=150)
        (answer,) = backend.generate(features, [asked], options)
        (other,) = reference.generate(reference.encode_image(random_pixels(0, 1)), [asked], options)
        assert same(answer, other)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_stream_tells_the_answer(backend: StreamingBackend, engines: Engines, beams: int) -> None:
    options = SearchOptions(beams=beams, max_new_tokens=20)
    features = backend.encode_image(random_pixels(0, 1))
    (asked,) = prompts(engines, (7,))
    (whole,) = backend.generate(features, [asked], options)
    told, answer = drain(backend.stream(features, asked, options))
    assert same(answer, whole)
    assert np.concatenate(told).tolist() == whole.ids.tolist()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    ("task", "given"),
    [
        ("<CAPTION>", None),
        ("<OD>", None),
        ("<OCR_WITH_REGION>", None),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", "a cube"),
        ("<OPEN_VOCABULARY_DETECTION>", ["cup", "red cube"]),
    ],
)
def test_a_constrained_answer_is_that_of_the_search_on_the_host(
    backend: StreamingBackend, opener: Opener, engines: Engines, task: str, given: TaskInput, beams: int
) -> None:
    """The model is random, so nothing it says is well formed by itself; two images, one of them asked in a stream."""
    options = SearchOptions(constrained=True, beams=beams, max_new_tokens=24, min_new_tokens=5, no_repeat_ngram=2)
    codec, pixels = Codec.open(engines.bundle), random_pixels(3, 2)
    question = codec.question(find(task), given, SIZE, options)
    assert isinstance(question.options, FormedOptions)
    asked = [question.ids] * 2
    with closing(opener("onnx")) as reference:
        expected = reference.generate(reference.encode_image(pixels), asked, question.options)
    features = backend.encode_image(pixels)
    for answer, wanted in zip(backend.generate(features, asked, question.options), expected, strict=True):
        assert same(answer, wanted)
        assert codec.result(question, answer, {}).dropped == 0
    told, streamed = drain(backend.stream(backend.encode_image(pixels[1:]), question.ids, question.options))
    assert same(streamed, expected[1])
    assert np.concatenate(told).tolist() == streamed.ids.tolist()


def test_an_abandoned_stream_leaves_the_backend_usable(backend: StreamingBackend, engines: Engines) -> None:
    features = backend.encode_image(random_pixels(0, 1))
    (asked,) = prompts(engines, (7,))
    (before,) = backend.generate(features, [asked], SHORT)
    with closing(backend.stream(features, asked, SHORT)) as steps:
        next(steps)
        (between,) = backend.generate(features, [asked], SHORT)
    (after,) = backend.generate(features, [asked], SHORT)
    assert before.ids.tolist() == between.ids.tolist() == after.ids.tolist()


def test_threads_do_not_disturb_each_other(backend: StreamingBackend, engines: Engines) -> None:
    features = backend.encode_image(random_pixels(0, 4))
    asked = prompts(engines)
    expected = [backend.generate(features, [ids], SHORT, [row])[0] for row, ids in enumerate(asked)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = pool.map(lambda row: backend.generate(features, [asked[row]], SHORT, [row])[0], range(4))
            assert all(same(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("pixels", "shown"),
    [
        (np.zeros((1, 3, SIZE.height, SIZE.width), np.float64), "float64"),
        (np.zeros((3, SIZE.height, SIZE.width), np.float32), r"\[3, 64, 96\]"),
        (np.zeros((1, 4, SIZE.height, SIZE.width), np.float32), r"\[1, 4, 64, 96\]"),
        (np.zeros((0, 3, SIZE.height, SIZE.width), np.float32), r"\[0, 3, 64, 96\]"),
    ],
)
def test_unfit_pixels_are_refused(backend: StreamingBackend, pixels: AnyArray, shown: str) -> None:
    with pytest.raises(InputError, match=shown):
        backend.encode_image(pixels)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_pixels_are_noticed(backend: StreamingBackend, value: float) -> None:
    pixels = random_pixels(0, 1)
    pixels[0, 1, 5, 5] = value
    with pytest.raises(BackendError, match="non-finite"):
        backend.encode_image(pixels)


def test_unfit_questions_are_refused_with_every_fault(backend: StreamingBackend, engines: Engines) -> None:
    features = backend.encode_image(random_pixels(0, 1))
    limits = engines.bundle.manifest.limits
    good = np.asarray([0, 5, 2])
    bad = {
        "prompt 1 has the shape": np.full(limits.prompt_tokens + 1, 5),
        "prompt 2 has the shape": np.empty(0, np.int64),
        "prompt 3 has the shape": good[None],
        "prompt 4 holds values": np.asarray([0, engines.config.text.vocab_size, 2]),
        "prompt 5 holds values": np.asarray([0.0, 5.0, 2.0]),
        "prompt 6 holds values": np.asarray([0, -1, 2]),
    }
    with pytest.raises(InputError) as caught:
        backend.generate(features, [good, *bad.values()], SearchOptions(max_new_tokens=limits.new_tokens + 1), [0] * 7)
    for fault in (*bad, f"max_new_tokens is {limits.new_tokens + 1}"):
        assert fault in str(caught.value)
    longest = np.full(limits.prompt_tokens, 5)
    assert len(backend.generate(features, [longest], SHORT)) == 1


@pytest.mark.parametrize("rows", [[0], [0, 1], [0, -1]])
def test_rows_must_name_images_that_exist(backend: StreamingBackend, engines: Engines, rows: list[int]) -> None:
    features = backend.encode_image(random_pixels(0, 1))
    with pytest.raises(InputError, match="image_of"):
        backend.generate(features, prompts(engines, (3, 3)), SHORT, rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_closed_backend_says_so(opener: Opener, engines: Engines, name: str) -> None:
    backend = opener(name)
    features = backend.encode_image(random_pixels(0, 1))
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.encode_image(random_pixels(0, 1))
    with pytest.raises(BackendError, match="closed"):
        backend.generate(features, prompts(engines, (3,)), SHORT)


def test_features_belong_to_their_backend(opener: Opener, engines: Engines) -> None:
    opened = {name: opener(name) for name in NAMES}
    foreign = {name: backend.encode_image(random_pixels(0, 1)) for name, backend in opened.items()}
    for name, backend in opened.items():
        for other, features in foreign.items():
            if other != name:
                with pytest.raises(InputError, match="Features; encode the image with the backend that is asked"):
                    backend.generate(features, prompts(engines, (3,)), SHORT)
