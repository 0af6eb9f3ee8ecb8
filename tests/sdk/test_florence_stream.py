"""Streams: whole characters, the same text as an unbroken answer, and turns between threads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge import Florence, SearchOptions, Text, view
from florence_edge.backends import Backend, Hypothesis, ImageFeatures
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, InputError
from florence_edge.geometry import Int64Array
from support.fake_backend import FakeBackend, FakeStreamingBackend

IMAGE = np.zeros((20, 30, 3), np.uint8)


@pytest.mark.parametrize(("task", "given"), [("od", None), ("<OCR_WITH_REGION>", None), ("segment", "a red cube")])
@pytest.mark.parametrize("kind", [FakeBackend, FakeStreamingBackend])
def test_pieces_of_regions_are_the_answer_as_it_was_written(
    bundle: Bundle, kind: type[FakeBackend], task: str, given: str | None
) -> None:
    model = Florence(bundle, kind(bundle))
    stream = model.stream(task, IMAGE, given)
    assert "".join(stream) == stream.result.raw == model.run(task, IMAGE, given).raw
    np.testing.assert_array_equal(stream.result.scores, model.run(task, IMAGE, given).scores)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>"), max_size=40))
def test_pieces_of_any_text_are_whole_characters_and_add_up(bundle: Bundle, answer: str) -> None:
    model = Florence(bundle, FakeStreamingBackend(bundle, lambda task, given, brightness: answer))
    search = SearchOptions(max_new_tokens=200)
    stream = model.stream("caption", IMAGE, search=search)
    pieces = list(stream)
    assert isinstance(stream.result, Text)
    assert "".join(pieces) == stream.result.text == str(model.run("caption", IMAGE, search=search)) == answer.strip()
    assert "" not in pieces
    if "\ufffd" not in answer:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_piece_comes_as_soon_as_its_token_is_certain(bundle: Bundle) -> None:
    model = Florence(bundle, FakeStreamingBackend(bundle, lambda task, given, brightness: "ab ☕!"))
    assert list(model.stream("caption", IMAGE)) == ["a", "b", " ☕", "!"]


def test_a_stream_takes_as_long_as_all_its_steps(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "perf_counter", count().__next__)
    stream = Florence(bundle, FakeStreamingBackend(bundle, lambda task, given, brightness: "abc")).stream(
        "caption", IMAGE
    )
    pieces = list(stream)
    assert stream.result.timings_ms["search"] >= 1e3 * len(pieces) > 2e3


def test_an_answer_cut_inside_a_character_keeps_what_there_is(bundle: Bundle) -> None:
    model = Florence(bundle, FakeStreamingBackend(bundle, lambda task, given, brightness: "ab☕"))
    stream = model.stream("caption", IMAGE, search=SearchOptions(max_new_tokens=5))
    assert "".join(stream) == "ab\ufffd"
    assert stream.result.finish == "length"


def test_the_result_is_there_only_after_the_last_piece(bundle: Bundle) -> None:
    model = Florence(bundle, FakeStreamingBackend(bundle))
    stream = model.stream("caption", model.encode(IMAGE))
    with pytest.raises(InputError, match="not read to its end"):
        _ = stream.result
    next(stream)
    with pytest.raises(InputError, match="not read to its end"):
        _ = stream.result
    list(stream)
    assert stream.result.finish == "eos"
    assert list(stream.result.timings_ms) == ["search", "parse"]


def test_a_call_inside_an_unread_stream_is_refused_rather_than_stuck(bundle: Bundle) -> None:
    model = Florence(bundle, FakeStreamingBackend(bundle))
    view = model.encode(IMAGE)
    stream = model.stream("caption", view)
    model.caption(view)  # not begun yet
    next(stream)
    with pytest.raises(BackendError, match="still reading a stream"):
        model.caption(view)
    stream.close()
    assert list(stream) == []
    assert model.caption(view).finish == "eos"


def test_a_dropped_stream_frees_the_model(bundle: Bundle) -> None:
    model = Florence(bundle, FakeStreamingBackend(bundle))
    gc.disable()
    try:
        for _ in model.stream("caption", IMAGE):
            break
        assert model.caption(IMAGE).finish == "eos"
    finally:
        gc.enable()


def test_closing_the_model_gives_up_an_unread_stream(bundle: Bundle) -> None:
    backend = FakeStreamingBackend(bundle)
    with Florence(bundle, backend) as model:
        stream = model.stream("caption", IMAGE)
        next(stream)
    assert backend.closed
    assert list(stream) == []


def test_an_engine_that_fails_inside_a_stream_frees_the_model(bundle: Bundle) -> None:
    class Failing(FakeStreamingBackend):
        def stream(
            self, features: ImageFeatures, prompt_ids: Int64Array, options: SearchOptions | None = None
        ) -> Generator[Int64Array, None, Hypothesis]:
            yield np.array([0])
            raise BackendError("the logits are not finite")

    model = Florence(bundle, Failing(bundle))
    with pytest.raises(BackendError, match="not finite"):
        list(model.stream("caption", IMAGE))
    assert model.caption(IMAGE).finish == "eos"


def test_threads_share_a_model_but_never_run_the_engine_together(bundle: Bundle) -> None:
    class Watched(FakeStreamingBackend):
        inside = most = 0

        def generate(
            self,
            features: ImageFeatures,
            prompt_ids: Sequence[Int64Array],
            options: SearchOptions | None = None,
            image_of: Sequence[int] | None = None,
        ) -> list[Hypothesis]:
            self.inside += 1
            self.most = max(self.most, self.inside)
            pause.wait(0.002)
            answers = super().generate(features, prompt_ids, options, image_of)
            self.inside -= 1
            return answers

    pause = threading.Event()
    backend = Watched(bundle)
    model = Florence(bundle, backend)
    texts: list[str] = []

    def work(number: int) -> None:
        for _ in range(5):
            texts.append("".join(model.stream("caption", IMAGE)) if number % 2 else model.caption(IMAGE).text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert texts == ["a red cube left of a ball"] * 20
    assert backend.most == 1


def test_the_fakes_are_backends(tmp_path: Path, bundle: Bundle) -> None:
    assert isinstance(FakeBackend(bundle), Backend)
    assert isinstance(FakeStreamingBackend(bundle), Backend)
