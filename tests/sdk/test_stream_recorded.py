"""Videos and images: every frame, in order, one encoding each, resumable without loss or repeat."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from florence_edge.bundle import Bundle
from florence_edge.errors import InputError
from florence_edge.model import Florence
from florence_edge.stream import Ask, Counts, Frame, Sink, SinkError, SourceError, StreamOptions, open_source, watch
from florence_edge.stream.folders import Folder
from florence_edge.stream.jsonl import JsonLines
from florence_edge.tasks import Task
from support.fake_backend import FakeBackend
from support.streams import Memory, Recording, contents, model_of, picture, write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("cv2")
    return write_video(tmp_path_factory.mktemp("clip") / "clip.avi", 40)


def by_brightness(task: Task, given: str, brightness: float) -> str:
    """An answer that differs from frame to frame."""
    return f"brightness {brightness:.6f}"


def test_a_video_gives_every_frame_in_order_with_its_time(bundle: Bundle, clip: Path) -> None:
    backend = FakeBackend(bundle)
    with watch(Florence(bundle, backend), str(clip), ["detect", "caption"]) as events:
        seen = list(events)
    assert [event.frame.index for event in seen] == list(range(40))
    assert [round(event.frame.time_ns / 1e6) for event in seen[:4]] == [0, 33, 67, 100]
    assert all(set(event.results) == {"detect", "caption"} for event in seen)
    assert backend.encoded == [1] * 40  # two tasks, one encoding
    assert events.counts == {"clip": Counts(captured=40, done=40)}
    assert all(event.age_ms > 0 for event in seen)


def test_pixels_are_rgb(clip: Path) -> None:
    for index, frame in enumerate(open_source(str(clip)).frames()):
        expected = picture(index)[0, 0].astype(int)
        assert np.abs(frame.image.mean(axis=(0, 1)) - expected).max() < 12  # what Motion JPEG leaves
        assert frame.image.dtype == np.uint8
        assert frame.image.shape == (48, 64, 3)


def test_reading_from_the_middle_gives_the_same_frames(clip: Path) -> None:
    whole = list(open_source(str(clip)).frames())
    rest = list(open_source(str(clip)).frames(25))
    assert [(frame.index, frame.time_ns) for frame in rest] == [(frame.index, frame.time_ns) for frame in whole[25:]]
    assert all((a.image == b.image).all() for a, b in zip(rest, whole[25:], strict=True))


def test_a_video_cut_in_the_middle_is_used_as_far_as_it_goes_and_then_told(
    bundle: Bundle, clip: Path, tmp_path: Path
) -> None:
    cut, sink = tmp_path / "cut.avi", Memory()
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    with pytest.raises(SourceError, match=r"is cut short: \d+ of 40 frames"):
        list(watch(model_of(bundle), [str(cut), Recording("other", 5)], ["detect"], sinks=[sink]))
    tags = [event.frame.tag for event in sink.events]
    assert 15 < tags.count("cut") < 40
    assert tags.count("other") == 5
    assert sink.closed == 1


def test_something_that_is_no_video(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "fake.mp4").write_bytes(b"no video at all")
    with pytest.raises(SourceError, match=r"fake.mp4 cannot be opened as a video"):
        list(watch(model_of(bundle), str(tmp_path / "fake.mp4"), ["detect"]))


def test_a_damaged_image_in_a_folder_is_an_event_of_its_own(bundle: Bundle, tmp_path: Path) -> None:
    for index in range(4):
        Image.fromarray(picture(index)).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    sink = Memory()
    with watch(model_of(bundle), str(tmp_path), ["detect"], sinks=[sink]) as events:
        seen = list(events)
    assert [event.frame.error is None for event in seen] == [True, False, True, True]
    assert "1.png" in str(seen[1].frame.error)
    assert seen[1].results == {}
    assert events.counts[tmp_path.name] == Counts(captured=4, done=4, failed=1)
    assert len(sink.events) == 4


def test_a_box_outside_of_one_picture_is_that_frames_error_and_outside_of_the_first_the_callers(
    bundle: Bundle, tmp_path: Path
) -> None:
    for name, size in (("a", (48, 32)), ("b", (20, 10)), ("c", (48, 32))):
        Image.fromarray(picture(0, size=size)).save(tmp_path / f"{name}.png")
    seen = list(watch(model_of(bundle), str(tmp_path), [("classify_region", (1, 2, 40, 30))]))
    assert [list(event.errors) for event in seen] == [[], ["classify_region"], []]
    assert "leaves the image" in str(seen[1].errors["classify_region"])
    with pytest.raises(InputError, match="leaves the image"):
        list(watch(model_of(bundle), str(tmp_path / "b.png"), [("classify_region", (1, 2, 40, 30))]))


def test_several_recordings_come_one_after_the_other(bundle: Bundle) -> None:
    with watch(model_of(bundle), [Recording("a", 3), Recording("b", 2)], ["detect"]) as events:
        order = [(event.frame.tag, event.frame.index) for event in events]
    assert order == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]


def test_a_file_that_is_no_video_does_not_keep_others_from_being_read(
    bundle: Bundle, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "fake.mp4").write_bytes(b"no video at all")
    sink = Memory()
    with pytest.raises(SourceError, match=r"these sources were lost:\n  - .*fake.mp4 cannot be opened"):
        list(watch(model_of(bundle), [str(tmp_path / "fake.mp4"), str(clip)], ["detect"], sinks=[sink]))
    assert len(sink.events) == 40


def test_a_bug_in_a_reader_reaches_the_caller(bundle: Bundle) -> None:
    class Broken(Recording):
        def frames(self, start: int = 0) -> Iterator[Frame]:
            yield from itertools.islice(super().frames(start), 3)
            raise RuntimeError("reader bug")

    sink = Memory()
    with pytest.raises(RuntimeError, match="reader bug"):
        list(watch(model_of(bundle), Broken("a", 9), ["detect"], sinks=[sink]))
    assert len(sink.events) == 3


def test_reading_does_not_run_away_from_a_slow_reader(bundle: Bundle) -> None:
    recording = Recording("a", 1000)
    with watch(model_of(bundle), recording, ["detect"]) as events:
        for _ in range(3):
            next(events)
        assert len(recording.read) <= 3 + 8
    assert events.counts["a"].captured == 3


ASKS = [Ask("caption", every=2), Ask("detect", hz=3.0)]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(0, 9), min_size=1, max_size=4), fps=st.sampled_from([None, 4.0]))
def test_stopped_and_resumed_runs_write_what_an_unbroken_one_writes(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, stops: list[int], fps: float | None
) -> None:
    folder = tmp_path_factory.mktemp("resume")

    def sources() -> list[Recording]:
        return [Recording("a", 17), Recording("b", 9)]

    def run(out: Path, *, most: int | None, resume: bool) -> None:
        sinks: list[Sink] = [JsonLines(out / "answers.jsonl"), Folder(out / "each", pictures=False)]
        options = StreamOptions(fps=fps, resume=resume)
        with watch(model_of(bundle, by_brightness), sources(), ASKS, sinks=sinks, options=options) as events:
            for number, _ in enumerate(events):
                if number == most:
                    break

    run(folder / "whole", most=None, resume=False)
    for stop in stops:
        run(folder / "broken", most=stop, resume=True)
    run(folder / "broken", most=None, resume=True)
    assert contents(folder / "broken") == contents(folder / "whole")


def test_a_finished_run_is_resumed_in_no_time(bundle: Bundle, tmp_path: Path) -> None:
    out = str(tmp_path / "answers.jsonl")
    list(watch(model_of(bundle), Recording("a", 6), ["detect"], sinks=[out]))
    before = Path(out).read_bytes()
    again = Recording("a", 6)
    assert list(watch(model_of(bundle), again, ["detect"], sinks=[out], options=StreamOptions(resume=True))) == []
    assert again.read == [5]
    assert Path(out).read_bytes() == before


def test_a_sink_that_is_ahead_gets_nothing_twice(bundle: Bundle, tmp_path: Path) -> None:
    ahead, behind = str(tmp_path / "ahead.jsonl"), str(tmp_path / "behind.jsonl")
    with watch(model_of(bundle), Recording("a", 10), ["detect"], sinks=[ahead]) as events:
        for _ in range(6):
            next(events)
    list(
        watch(
            model_of(bundle), Recording("a", 10), ["detect"], sinks=[ahead, behind], options=StreamOptions(resume=True)
        )
    )
    assert Path(ahead).read_bytes() == Path(behind).read_bytes()
    assert [json.loads(line)["frame"] for line in Path(ahead).read_text().splitlines()] == list(range(10))


def test_another_question_is_no_continuation(bundle: Bundle, tmp_path: Path) -> None:
    out = str(tmp_path / "answers.jsonl")
    list(watch(model_of(bundle), Recording("a", 3), ["detect"], sinks=[out]))
    with pytest.raises(SinkError, match="already holds answers; go on with --resume"):
        list(watch(model_of(bundle), Recording("a", 3), ["detect"], sinks=[out]))
    for source, task in ((Recording("a", 3), "caption"), (Recording("a", 4), "detect")):
        with pytest.raises(SinkError, match="holds the answers of another run"):
            list(watch(model_of(bundle), source, [task], sinks=[out], options=StreamOptions(resume=True)))


def test_a_reader_that_hangs_does_not_keep_a_run_from_ending(bundle: Bundle) -> None:
    hanging = threading.Event()

    class Seeking(Recording):
        def frames(self, start: int = 0) -> Iterator[Frame]:
            yield from super().frames(start)
            hanging.wait(60)

    events = watch(model_of(bundle), Seeking("a", 1), ["detect"])
    next(events)
    begun = time.monotonic()
    events.close()
    taken = time.monotonic() - begun
    hanging.set()
    assert taken < 20
