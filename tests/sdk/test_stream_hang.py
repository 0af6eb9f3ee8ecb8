"""What never comes back: a driver that hangs, a receiver that is dead, a run that is ended from elsewhere."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from florence_edge.bundle import Bundle
from florence_edge.errors import InputError
from florence_edge.stream import Event, Frame, Reconnect, Run, SinkError, SourceError, StreamOptions, watch
from florence_edge.stream.http import Receiver
from florence_edge.stream.pump import MOST_HUNG
from support.streams import Memory, Recording, ScriptedCamera, model_of


@dataclass
class Hanging(ScriptedCamera):
    """A camera whose driver, in the openings `stuck`, does not come back after the script's frames."""

    stuck: range = range(1)
    lets_go: threading.Event = field(default_factory=threading.Event)
    left: list[int] = field(default_factory=list)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        number = len(self.opened)
        yield from super().frames(start)
        if number in self.stuck:
            assert self.lets_go.wait(60)
            self.left.append(number)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("florence_edge.stream.pump.LEAVE_S", 0.1)


def reading(tag: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"florence-read-{tag}"]


def test_a_camera_that_hangs_in_its_driver_is_opened_again(bundle: Bundle) -> None:
    camera = Hanging("stuck", [["frame", 0.05] * 3])
    notes: list[str] = []
    options = StreamOptions(reconnect=Reconnect(first_s=0.02, silence_s=0.3), note=notes.append)
    with watch(model_of(bundle), camera, ["detect"], options=options) as events:
        indexes = [event.frame.index for event in events]
    assert camera.opened == [0, 3]
    assert indexes[-1] == 5
    assert events.counts["stuck"].captured == 6
    assert "stuck: lost (stuck: no frame for 0.3 s" in notes[0]
    assert "is back" in notes[1]
    (thread,) = reading("stuck")  # of the opening that hangs
    camera.lets_go.set()
    thread.join(10)
    assert camera.left == [0]


def test_a_camera_that_never_answers_is_an_error_and_not_a_wait_for_ever(bundle: Bundle) -> None:
    camera = Hanging("cam", [[]])
    begun = time.monotonic()
    options = StreamOptions(reconnect=Reconnect(silence_s=0.2))
    with pytest.raises(SourceError, match=r"cam: no frame for 0\.2 s: it hangs in its driver"):
        list(watch(model_of(bundle), camera, ["detect"], options=options))
    assert time.monotonic() - begun < 20
    camera.lets_go.set()


def test_a_camera_that_hangs_again_and_again_costs_a_bounded_number_of_threads(bundle: Bundle) -> None:
    camera = Hanging("cam", [["frame"]], stuck=range(100))
    options = StreamOptions(reconnect=Reconnect(first_s=0.01, limit_s=0.02, silence_s=0.05, patience_s=4.0))
    with pytest.raises(SourceError, match="given up: cam: 4 threads hang in its driver"):
        list(watch(model_of(bundle), camera, ["detect"], options=options))
    assert len(camera.opened) == MOST_HUNG
    camera.lets_go.set()


def test_a_slow_pace_that_the_source_knows_of_is_no_silence(bundle: Bundle) -> None:
    camera = ScriptedCamera("cam", [["frame", 0.4] * 3], rate_hz=2.5)
    options = StreamOptions(reconnect=Reconnect(first_s=0.01, silence_s=0.1))
    assert len(list(watch(model_of(bundle), camera, ["detect"], options=options))) == 3
    assert camera.opened == [0]


def test_what_is_lost_is_told_once(bundle: Bundle) -> None:
    notes: list[str] = []
    options = StreamOptions(reconnect=Reconnect(first_s=0.01, patience_s=0.02), note=notes.append)
    with pytest.raises(SourceError, match=r"cam: no frame for .*, given up"):
        list(watch(model_of(bundle), ScriptedCamera("cam", [["frame", "lost"], ["lost"]]), ["detect"], options=options))
    assert not [note for note in notes if "given up" in note]


def test_the_loss_of_one_camera_of_two_is_told_when_it_happens(bundle: Bundle) -> None:
    notes: list[str] = []
    cameras = [ScriptedCamera("good", [["frame", 0.02] * 50]), ScriptedCamera("bad", [["lost"]])]
    events = watch(model_of(bundle), cameras, ["detect"], options=StreamOptions(note=notes.append))
    with pytest.raises(SourceError, match="bad: unplugged"):
        list(events)
    assert notes == ["bad: unplugged"]


@pytest.mark.parametrize("sink", ["a.jsonl", "a/", "bag://a.mcap", "yolo://a", "coco://a", "a.mkv"])
def test_a_source_that_cannot_be_opened_leaves_no_output(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str
) -> None:
    if sink.startswith("bag"):
        pytest.importorskip("mcap")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="unplugged"):
        list(watch(model_of(bundle), ScriptedCamera("cam", [["lost"]]), ["detect"], sinks=[sink]))
    assert list(tmp_path.iterdir()) == []
    list(watch(model_of(bundle), Recording("a", 0), ["detect"], sinks=[sink]))
    assert sink == "a.mkv" or list(tmp_path.iterdir())  # that there was nothing to ask about is an answer


def test_a_question_that_fits_no_picture_leaves_no_output(bundle: Bundle, tmp_path: Path) -> None:
    box = ("describe_region", [0.0, 0.0, 500.0, 500.0])
    with pytest.raises(InputError, match="leaves the image"):
        list(watch(model_of(bundle), Recording("a", 2), [box], sinks=[f"yolo://{tmp_path}/a"]))
    assert list(tmp_path.iterdir()) == []


class Dead:
    """A receiver that takes connections and never answers."""

    def __enter__(self) -> Dead:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


@pytest.mark.parametrize("live", [True, False])
def test_a_dead_receiver_does_not_keep_a_run_from_ending_and_costs_no_answer(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    monkeypatch.setattr("florence_edge.stream.http.TIMEOUT_S", 0.5)
    out = tmp_path / "a.jsonl"
    source = ScriptedCamera("a", [["frame", 0.02] * 500]) if live else Recording("a", 30)
    with Dead() as receiver:
        events = watch(model_of(bundle), source, ["detect"], sinks=[str(out), receiver.address])
        seen = [event.frame.index for event in itertools.islice(events, 4)]
        begun = time.monotonic()
        with pytest.raises(SinkError, match=r"did not take frame \d+ .*the run was ended; what follows was not sent"):
            events.close()
    assert time.monotonic() - begun < 5
    held = [json.loads(line)["frame"] for line in out.read_text().splitlines()]
    assert held == (seen if live else [])  # a recording's frames are there to be asked about again


def test_a_receiver_has_every_event_before_any_other_sink_counts_it_as_done(bundle: Bundle, tmp_path: Path) -> None:
    order: list[str] = []

    class Sent(Memory):
        def write(self, event: Event) -> None:
            order.append("sent")

    class Kept(Memory):
        def open(self, run: Run) -> dict[str, int]:  # type: ignore[override]  # this one knows what it holds
            return {}

        def write(self, event: Event) -> None:
            order.append("kept")

    list(watch(model_of(bundle), Recording("a", 2), ["detect"], sinks=[Kept(), Sent()]))
    assert order == ["sent", "kept"] * 2


def test_a_receiver_that_recovers_while_the_run_ends_gets_everything(bundle: Bundle) -> None:
    waiting, ended = threading.Event(), threading.Event()

    class Busy(Memory):
        def write(self, event: Event) -> None:
            waiting.set()
            assert ended.wait(30)
            super().write(event)

    sink = Busy()
    events = watch(model_of(bundle), Recording("a", 30), ["detect"], sinks=[sink])
    seen = list(itertools.islice(events, 3))
    assert waiting.wait(30)
    threading.Timer(0.2, ended.set).start()
    events.close()
    assert [event.frame.index for event in sink.events] == [event.frame.index for event in seen]


def test_a_receiver_is_not_waited_for_once_the_run_is_ended(bundle: Bundle) -> None:
    sink = Receiver("http://127.0.0.1:9/events")
    events = watch(model_of(bundle), Recording("a", 30), ["detect"], sinks=[sink])
    next(events)
    time.sleep(0.1)
    begun = time.monotonic()
    with pytest.raises(SinkError, match="the run was ended"):
        events.close()
    assert time.monotonic() - begun < 3  # of the 7.75 s that its waits are


def test_another_thread_may_end_a_run(bundle: Bundle) -> None:
    sink = Memory()
    events = watch(model_of(bundle), ScriptedCamera("silent", [["frame", 30.0]]), ["detect"], sinks=[sink])
    next(events)
    waits = threading.Thread(target=lambda: seen.extend(events))
    seen: list[Event] = []
    waits.start()
    time.sleep(0.3)
    events.close()
    waits.join(10)
    assert not waits.is_alive()
    assert seen == []
    assert sink.closed == 1
    with pytest.raises(StopIteration):
        next(events)


def test_a_run_that_is_ended_within_itself_ends_with_the_frame_at_hand(bundle: Bundle) -> None:
    def script(task: object, given: str, brightness: float) -> str:
        events.close()
        return "a cube"

    sink = Memory()
    events = watch(model_of(bundle, script), Recording("a", 30), ["caption"], sinks=[sink])
    assert len(list(events)) == len(sink.events) == sink.closed == 1
