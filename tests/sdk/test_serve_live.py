"""The live view: the newest frame with its own answer, for all who look, and nothing at all when nobody does."""

from __future__ import annotations

import base64
import itertools
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from florence_edge.bundle import Bundle
from florence_edge.model import Florence
from florence_edge.serve.playback import as_camera
from florence_edge.stream import Ask, Frame, Source, SourceError
from florence_edge.view import prepare
from support.fake_backend import FakeStreamingBackend
from support.serving import GatedBackend, served, until
from support.streams import Recording, ScriptedCamera, Step, picture

Told = tuple[str, dict[str, Any]]


def camera(rate_hz: float = 100.0) -> ScriptedCamera:
    steps: Iterator[Step] = itertools.cycle(["frame", 1.0 / rate_hz])
    return ScriptedCamera("cam", [steps])


def model_of(bundle: Bundle, **how: Any) -> Florence:
    return Florence(bundle, GatedBackend(bundle, open=True, **how))


def taken(events: Iterator[Told], answers: int) -> list[Told]:
    """The events up to so many answers."""
    told: list[Told] = []
    for name, data in events:
        told.append((name, data))
        answers -= name == "answer"
        if not answers:
            break
    return told


def test_every_answer_follows_its_own_frame(bundle: Bundle) -> None:
    with served(model_of(bundle), source=camera()) as server:
        with server.events("GET", "/v1/live") as events:
            told = taken(events, 4)
        counts = server.metric('frames_total{outcome="done"}')
    assert told[0] == ("question", {"task": "<OD>", "input": None, "search": None})
    assert [name for name, _ in told[1:]] == ["frame", "answer"] * 4
    for (_, frame), (_, answer) in zip(told[1::2], told[2::2], strict=True):
        assert frame["frame"] == answer["frame"]
        assert frame["image"] == answer["results"]["detect"]["size"] == {"width": 48, "height": 32}
        shown = Image.open(BytesIO(base64.b64decode(frame["jpeg"])))
        expected = picture(frame["frame"])[0, 0].astype(int)
        assert np.abs(np.asarray(shown)[16, 24].astype(int) - expected).max() < 12
        assert answer["age_ms"] > 0
        assert {"preprocess", "vision"} <= answer["timings_ms"].keys()
    assert counts >= 4


def test_a_caption_is_told_as_it_is_written(bundle: Bundle) -> None:
    with (
        served(model_of(bundle), source=camera(), ask=Ask("caption")) as server,
        server.events("GET", "/v1/live") as events,
    ):
        told = taken(events, 1)
    names = [name for name, _ in told]
    assert names == ["question", "frame", *["piece"] * (len(names) - 3), "answer"]
    pieces = "".join(data["text"] for name, data in told if name == "piece")
    assert pieces == told[-1][1]["results"]["caption"]["text"]


def test_the_question_can_change_and_everybody_hears_of_it(bundle: Bundle) -> None:
    with (
        served(model_of(bundle), source=camera()) as server,
        server.events("GET", "/v1/live") as first,
        server.events("GET", "/v1/live") as second,
    ):
        taken(first, 1), taken(second, 1)
        asked = {"task": "segment", "input": "a red cube", "search": {"beams": 1}}
        changed = server.client.put("/v1/live/question", json=asked)
        assert changed.status_code == 200
        assert changed.json()["task"] == "<REFERRING_EXPRESSION_SEGMENTATION>"
        for events in (first, second):
            heard = next(data for name, data in events if name == "question")
            assert heard == changed.json()
            told = taken(events, 3)
            assert told[-1][1]["results"]["segment"]["labels"] == ["a red cube"]
        assert server.client.get("/v1/info").json()["live"] == {"source": "cam", "question": changed.json()}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"task": "no"}, "unknown task"),
        ({"task": "segment"}, "takes a phrase"),
        ({"tusk": 1}, "unknown key the question.tusk"),
        ([], "it must be an object"),
    ],
)
def test_a_question_that_cannot_be_asked_changes_nothing(bundle: Bundle, body: Any, says: str) -> None:
    with served(model_of(bundle), source=camera()) as server:
        response = server.client.put("/v1/live/question", json=body)
        assert (response.status_code, says in response.text) == (422, True), response.text
        assert server.client.put("/v1/live/question", content=b"{").status_code == 422
        assert server.client.put("/v1/live/question", content=bytes(100_000)).status_code == 413
        assert server.client.get("/v1/info").json()["live"]["question"]["task"] == "<OD>"


def test_a_question_that_fits_no_frame_is_an_error_of_the_frame(bundle: Bundle) -> None:
    ask = Ask("describe_region", [0, 0, 5000, 5000])
    with served(model_of(bundle), source=camera(), ask=ask) as server, server.events("GET", "/v1/live") as events:
        answer = taken(events, 2)[-1][1]
    assert answer["results"] == {}
    assert "x leaves the image" in answer["errors"]["describe_region"]


def test_the_camera_is_open_only_while_somebody_looks(bundle: Bundle) -> None:
    cam = camera()
    with served(model_of(bundle), source=cam) as server:
        assert cam.opened == []
        with server.events("GET", "/v1/live") as events:
            last = taken(events, 3)[-1][1]["frame"]
        until(lambda: not [thread for thread in threading.enumerate() if thread.name == "florence-cam"])
        assert cam.opened == [0]
        with server.events("GET", "/v1/live") as events:
            told = taken(events, 1)
        assert told[-1][1]["frame"] > last
        assert len(cam.opened) == 2


def test_requests_and_the_camera_take_turns(bundle: Bundle) -> None:
    with (
        served(model_of(bundle, search_s=0.02), source=camera()) as server,
        server.events("GET", "/v1/live") as events,
        ThreadPoolExecutor(4) as pool,
    ):
        taken(events, 1)
        answers = pool.map(lambda _: server.ask().status_code, range(24))
        told = taken(events, 6)
        assert set(answers) == {200}
    frames = [data["frame"] for name, data in told if name == "answer"]
    assert frames == sorted(set(frames))


def test_a_viewer_that_takes_nothing_holds_up_no_other_and_costs_bounded_memory(bundle: Bundle) -> None:
    class Large(ScriptedCamera):
        def frames(self, start: int = 0) -> Iterator[Frame]:
            noise = np.random.default_rng(7).integers(0, 255, (480, 640, 3), dtype=np.uint8)
            for frame in super().frames(start):
                yield Frame(noise, frame.time_ns, frame.index, frame.tag)

    cam = Large("cam", [itertools.cycle(["frame", 0.02])])
    with served(model_of(bundle), source=cam) as server, socket.create_connection(("127.0.0.1", server.port)) as idle:
        idle.sendall(f"GET /v1/live HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        with server.events("GET", "/v1/live") as events:
            taken(events, 25)  # of about 300 kB each, more than sockets hold
        viewers = server.app._live._viewers._viewers  # type: ignore[union-attr]  # there is a live view
        waiting = [viewer._waiting.qsize() for viewer in viewers]
    assert max(waiting) <= 3 * 2 + 2


def test_a_camera_that_is_lost_is_told_and_opened_again(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("florence_edge.serve.live.RETRY_S", 0.05)

    class Broken(ScriptedCamera):
        def frames(self, start: int = 0) -> Iterator[Frame]:
            if len(self.opened) < 1:
                self.opened.append(start)
                raise SourceError("cam: there is no device")
            yield from super().frames(start)

    cam = Broken("cam", [itertools.cycle(["frame", 0.02])])
    with served(model_of(bundle), source=cam) as server, server.events("GET", "/v1/live") as events:
        told = taken(events, 1)
    assert "cam: there is no device" in dict(told)["trouble"]["detail"]
    assert told[-1][0] == "answer"


def test_stopping_sends_viewers_home(bundle: Bundle) -> None:
    with served(model_of(bundle), source=camera()) as server, server.events("GET", "/v1/live") as events:
        taken(events, 2)
        server.server.should_exit = True
        assert list(events)[-1][0] in ("answer", "frame")


def test_a_recording_is_played_at_its_own_pace_again_and_again() -> None:
    recording = Recording("clip", 3, rate_hz=50.0)
    source: Source = as_camera(recording)
    assert (source.live, source.tag, source.rate_hz) == (True, "clip", 50.0)
    frames = list(itertools.islice(source.frames(5), 8))
    assert [frame.index for frame in frames] == list(range(5, 13))
    assert [frame.time_ns for frame in frames] == [frames[i % 3].time_ns for i in range(8)]
    gaps = np.diff([frame.arrival_ns for frame in frames]) / 1e9
    assert np.median(gaps) >= 0.019
    cam = camera()
    assert as_camera(cam) is cam


def test_an_empty_recording_ends_in_an_error() -> None:
    with pytest.raises(SourceError, match="holds no frame"):
        next(iter(as_camera(Recording("clip", 0)).frames()))


def test_a_damaged_picture_of_a_folder_is_told(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from florence_edge.stream import open_source

    monkeypatch.setattr("florence_edge.serve.playback.STILL_S", 0.05)
    (tmp_path / "a.png").write_bytes(b"no picture")
    model = Florence(bundle, FakeStreamingBackend(bundle))
    with served(model, source=open_source(str(tmp_path))) as server, server.events("GET", "/v1/live") as events:
        answer = taken(events, 1)[-1][1]
    assert "is not an image" in answer["errors"][""]


def test_the_view_survives_a_driver_that_fails_in_a_way_nobody_expected(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(ScriptedCamera):
        def frames(self, start: int = 0) -> Iterator[Frame]:
            if not self.opened:
                self.opened.append(start)
                raise RuntimeError("driver bug")
            return super().frames(start)

    monkeypatch.setattr("florence_edge.serve.live.RETRY_S", 0.05)
    steps: Iterator[Step] = itertools.cycle(["frame", 0.01])
    with (
        served(model_of(bundle), source=Broken("cam", [steps])) as server,
        server.events("GET", "/v1/live") as events,
    ):
        told = taken(events, 1)
    assert [data["status"] for name, data in told if name == "trouble"] == [500]


def test_pictures_are_resized_when_the_model_is_nearly_ready_not_all_the_time(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = Mock(wraps=prepare)
    monkeypatch.setattr("florence_edge.stream.feeds.prepare", prepared)
    with (
        served(model_of(bundle, search_s=0.2), source=camera(200.0)) as server,
        server.events("GET", "/v1/live") as events,
    ):
        taken(events, 8)
    assert 8 <= prepared.call_count < 120  # of 320 captured
