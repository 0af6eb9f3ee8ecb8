"""Cameras: the newest frame, fair turns, losses, and every frame accounted for."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, InputError
from florence_edge.geometry import Float32Array
from florence_edge.images import ImageSource
from florence_edge.model import Florence
from florence_edge.preprocess import ImageSpec
from florence_edge.stream import Ask, Counts, Frame, Reconnect, SourceError, StreamOptions, open_source, watch
from florence_edge.stream.pump import Pump
from florence_edge.view import Prepared, prepare
from support.fake_backend import FakeBackend, FakeFeatures
from support.streams import Memory, ScriptedCamera, SlowBackend, Step, model_of


def at(rate_hz: float, count: int) -> list[Step]:
    return ["frame", 1.0 / rate_hz] * count


def settled(counts: Counts) -> bool:
    return counts.captured == counts.done + counts.dropped + counts.skipped


def test_the_newest_frame_wins_and_its_age_is_one_inference_and_one_frame(bundle: Bundle) -> None:
    inference_s, frame_s = 0.1, 0.02
    camera = ScriptedCamera("cam", [at(1 / frame_s, 100)])
    model = Florence(bundle, SlowBackend(bundle, vision_s=inference_s))
    with watch(model, camera, ["detect"]) as events:
        seen = list(events)
    indexes = [event.frame.index for event in seen]
    counts = events.counts["cam"]
    assert indexes == sorted(set(indexes))
    assert (counts.captured, counts.done) == (100, len(seen))
    assert settled(counts)
    assert counts.dropped > 50
    assert [event.dropped for event in seen] == sorted(event.dropped for event in seen)
    ages = sorted(event.age_ms for event in seen)
    assert ages[0] >= inference_s * 1e3
    # The median, because a loaded machine may stop any thread for a while.
    assert ages[len(ages) // 2] < (inference_s + frame_s) * 1e3 + 40


def test_a_frame_does_not_wait_though_the_model_takes_now_longer_now_less(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame_s, resize_s = 0.02, 0.02
    takes_s = itertools.cycle([0.2, 0.05, 0.3, 0.1])

    class Uneven(FakeBackend):
        def encode_image(self, pixels: Float32Array) -> FakeFeatures:
            time.sleep(next(takes_s))
            return super().encode_image(pixels)

    def slow(image: ImageSource, spec: ImageSpec) -> Prepared:
        time.sleep(resize_s)
        return prepare(image, spec)

    monkeypatch.setattr("florence_edge.stream.feeds.prepare", slow)
    camera = ScriptedCamera("cam", [at(1 / frame_s, 200)])
    with watch(Florence(bundle, Uneven(bundle)), camera, ["detect"]) as events:
        waits = [event.age_ms - event.timings_ms["vision"] for event in events]
    assert events.counts["cam"].dropped > 50
    assert len(waits) > 15
    # The upper quartile, because a loaded machine may stop any thread for a while.
    assert np.percentile(waits, 75) < (frame_s + 2 * resize_s) * 1e3 + 20


def test_resizing_waits_until_the_model_is_nearly_ready(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = Mock(wraps=prepare)
    monkeypatch.setattr("florence_edge.stream.feeds.prepare", prepared)
    camera = ScriptedCamera("cam", [at(200, 300)])
    model = Florence(bundle, SlowBackend(bundle, vision_s=0.1))
    with watch(model, camera, ["detect"]) as events:
        done = len(list(events))
    assert done <= prepared.call_count < 100  # of 300 captured


def test_two_cameras_take_turns_though_one_is_much_faster(bundle: Bundle) -> None:
    cameras = [ScriptedCamera("fast", [at(200, 200)]), ScriptedCamera("slow", [at(20, 20)])]
    model = Florence(bundle, SlowBackend(bundle, vision_s=0.1))
    with watch(model, cameras, ["detect"], options=StreamOptions(duration_s=1.2)) as events:
        order = [event.frame.tag for event in events]
    assert abs(order.count("fast") - order.count("slow")) <= 1
    assert all(settled(counts) for counts in events.counts.values())
    assert order[:4] in (["fast", "slow"] * 2, ["slow", "fast"] * 2)


def test_a_lost_camera_comes_back_with_its_numbers_going_on(bundle: Bundle) -> None:
    camera = ScriptedCamera("cam", [[*at(100, 5), "lost"], ["lost"], at(100, 5)])
    notes: list[str] = []
    options = StreamOptions(reconnect=Reconnect(first_s=0.02), note=notes.append)
    with watch(model_of(bundle), camera, ["detect"], options=options) as events:
        indexes = [event.frame.index for event in events]
    assert camera.opened == [0, 5, 5]
    assert indexes[-1] == 9
    assert settled(events.counts["cam"])
    assert events.counts["cam"].captured == 10
    assert "lost (cam: unplugged)" in notes[0]
    assert "is back" in notes[1]


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, list[float]()

    def pause(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return False


def pumped(camera: ScriptedCamera, reconnect: Reconnect) -> tuple[str | None, Clock, list[Frame]]:
    clock, frames = Clock(), list[Frame]()

    def deliver(frame: Frame) -> bool:
        frames.append(frame)
        return True

    pump = Pump(
        camera,
        deliver,
        reconnect,
        note=lambda text: None,
        pause=clock.pause,
        clock=lambda: clock.now,
    )
    return pump.run(0), clock, frames


def test_waits_grow_exponentially_to_their_limit_and_begin_anew_after_a_frame() -> None:
    lost: list[Step] = ["lost"]
    scripts: list[list[Step]] = [["frame", "lost"], *[lost] * 5, ["frame", "lost"], lost, []]
    fault, clock, frames = pumped(ScriptedCamera("cam", scripts), Reconnect(first_s=1, factor=2, limit_s=8))
    assert fault is None
    assert clock.waits == [1, 2, 4, 8, 8, 8, 1, 2]
    assert [frame.index for frame in frames] == [0, 1]


def test_a_camera_is_given_up_when_patience_ends() -> None:
    fault, clock, frames = pumped(ScriptedCamera("cam", [["frame", "lost"], ["lost"]]), Reconnect(patience_s=20))
    assert clock.now <= 20
    assert sum(clock.waits) == pytest.approx(15.5)
    assert fault == "cam: no frame for 16 s, given up: cam: unplugged"
    assert len(frames) == 1


def test_a_camera_that_never_gave_a_frame_is_an_error_at_once(bundle: Bundle) -> None:
    sink = Memory()
    with (
        pytest.raises(SourceError, match=r"these sources were lost:\n  - cam: unplugged"),
        watch(model_of(bundle), ScriptedCamera("cam", [["lost"]]), ["detect"], sinks=[sink]) as events,
    ):
        list(events)
    assert (sink.run, sink.closed) == (None, 0)


def test_the_other_camera_goes_on_and_the_loss_is_told_at_the_end(bundle: Bundle) -> None:
    cameras = [ScriptedCamera("good", [at(50, 20)]), ScriptedCamera("bad", [[*at(50, 3), "lost"], ["lost"]])]
    options = StreamOptions(reconnect=Reconnect(first_s=0.01, patience_s=0.05))
    events = watch(model_of(bundle), cameras, ["detect"], options=options)
    with pytest.raises(SourceError, match="bad: no frame for"):
        list(events)
    assert events.counts["good"].captured == 20


def test_real_cameras_that_are_not_there_say_so(bundle: Bundle) -> None:
    with pytest.raises(SourceError, match="/dev/video97 cannot be opened as a video with V4L2"):
        list(watch(model_of(bundle), "v4l2:///dev/video97", ["detect"]))
    with pytest.raises(SourceError, match=r"rtsp://127\.0\.0\.1:9/s cannot be opened") as error:
        list(watch(model_of(bundle), "rtsp://me:sec@ret@127.0.0.1:9/s?user=me&password=secret", ["detect"]))
    assert "ret" not in str(error.value)
    assert open_source("rtsp://me:secret@host/s?password=secret").tag == "host-s"


def test_fps_skips_frames_without_resizing_them(bundle: Bundle) -> None:
    camera = ScriptedCamera("cam", [at(100, 100)])
    with watch(model_of(bundle), camera, ["detect"], options=StreamOptions(fps=5)) as events:
        seen = list(events)
    counts = events.counts["cam"]
    elapsed = (seen[-1].frame.time_ns - seen[0].frame.time_ns) / 1e9
    assert len(seen) <= elapsed * 5 + 2
    assert counts.skipped >= 50
    assert settled(counts)


def test_a_slow_task_beside_a_fast_one(bundle: Bundle) -> None:
    backend = FakeBackend(bundle)
    camera = ScriptedCamera("cam", [at(50, 50)])
    with watch(Florence(bundle, backend), camera, ["detect", Ask("caption", hz=4)]) as events:
        seen = list(events)
    captions = sum("caption" in event.results for event in seen)
    assert all("detect" in event.results for event in seen)
    assert 2 <= captions < len(seen) / 2
    assert sum(backend.encoded) == len(seen)


def test_stopping_in_the_middle_ends_threads_and_settles_the_account(bundle: Bundle) -> None:
    sink, others = Memory(), threading.enumerate()
    with watch(model_of(bundle), ScriptedCamera("cam", [at(200, 100_000)]), ["detect"], sinks=[sink]) as events:
        first = [next(events) for _ in range(3)]
    counts = events.counts["cam"]
    assert settled(counts)
    assert counts.done == len(sink.events) == len(first) == 3
    assert sink.closed == 1
    threads = set(threading.enumerate()) - set(others)
    for thread in threads:
        thread.join(10)
    assert not [thread.name for thread in threads if thread.is_alive()]
    with pytest.raises(StopIteration):
        next(events)


def test_a_break_in_a_loop_without_with_is_cleaned_up_too(bundle: Bundle) -> None:
    sink = Memory()
    events = watch(model_of(bundle), ScriptedCamera("cam", [at(200, 100_000)]), ["detect"], sinks=[sink])
    for _ in events:
        break
    events.close()
    events.close()
    assert sink.closed == 1


def test_a_silent_camera_does_not_keep_a_run_past_its_time(bundle: Bundle) -> None:
    begun = time.monotonic()
    camera = ScriptedCamera("cam", [["frame", *[0.1] * 100]])
    with watch(model_of(bundle), camera, ["detect"], options=StreamOptions(duration_s=0.5)) as events:
        assert len(list(events)) == 1
    assert time.monotonic() - begun < 5


def test_a_frame_on_which_the_engine_fails_is_an_event_and_a_dead_engine_ends_the_run(bundle: Bundle) -> None:
    bad = BackendError("the logits are not finite")
    fails: list[bool] = [False, True, False, *[True] * 10]
    rounds = iter(fails)

    def script(task: object, given: str, brightness: float) -> str:
        if next(rounds):
            raise bad
        return "a cube"

    events = watch(model_of(bundle, script), ScriptedCamera("cam", [at(50, 1000)]), ["caption"])
    seen = list(itertools.islice(events, 3))
    with pytest.raises(BackendError, match="failed on 10 frames in a row: the logits are not finite"):
        list(events)
    assert [event.errors.get("caption") for event in seen] == [None, bad, None]
    assert settled(events.counts["cam"])
    assert events.counts["cam"].failed == 10


def test_what_does_not_go_together_is_refused_before_anything_runs(bundle: Bundle, tmp_path: Path) -> None:
    model = model_of(bundle)
    camera, other = ScriptedCamera("a", [[]]), ScriptedCamera("a", [[]])
    with pytest.raises(InputError, match="two sources have the tag 'a'"):
        watch(model, [camera, other], ["detect"])
    with pytest.raises(InputError, match="do not go together"):
        watch(model, [camera, ScriptedCamera("b", [[]], live=False)], ["detect"])
    with pytest.raises(InputError, match="there is no sink"):
        watch(model, camera, ["detect"], options=StreamOptions(resume=True))
    with pytest.raises(InputError, match="none was given"):
        watch(model, [], ["detect"])
    with pytest.raises(InputError, match="fps is 0"):
        StreamOptions(fps=0)


def test_an_error_in_a_driver_reaches_the_caller(bundle: Bundle) -> None:
    class Broken(ScriptedCamera):
        def frames(self, start: int = 0) -> Iterator[Frame]:
            raise RuntimeError("driver bug")

    with pytest.raises(RuntimeError, match="driver bug"):
        list(watch(model_of(bundle), Broken("cam", [[]]), ["detect"]))


def test_an_error_in_one_driver_is_told_though_the_other_camera_goes_on(bundle: Bundle) -> None:
    class Broken(ScriptedCamera):
        def frames(self, start: int = 0) -> Iterator[Frame]:
            yield from super().frames(start)
            raise RuntimeError("driver bug")

    cameras = [ScriptedCamera("good", [at(100, 1000)]), Broken("bad", [at(100, 3)])]
    model = Florence(bundle, SlowBackend(bundle, vision_s=0.03))
    with watch(model, cameras, ["detect"]) as events, pytest.raises(RuntimeError, match="driver bug"):
        list(itertools.islice(events, 50))
    assert all(settled(counts) for counts in events.counts.values())


def test_a_model_that_is_early_does_not_wait_for_its_expected_end(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes_s = itertools.chain([0.8], itertools.repeat(0.0))

    class Fast(FakeBackend):
        def encode_image(self, pixels: Float32Array) -> FakeFeatures:
            time.sleep(next(takes_s))
            return super().encode_image(pixels)

    def slow(image: ImageSource, spec: ImageSpec) -> Prepared:
        time.sleep(0.03)  # more than a frame's time, so that every picture is overtaken while it is resized
        return prepare(image, spec)

    monkeypatch.setattr("florence_edge.stream.feeds.prepare", slow)
    model = Florence(bundle, Fast(bundle))
    with watch(model, ScriptedCamera("cam", [at(200, 100_000)]), ["detect"]) as events:
        next(events), next(events)
        begun = time.monotonic()
        next(events)
        assert time.monotonic() - begun < 0.4  # of the 0.8 s that were expected
