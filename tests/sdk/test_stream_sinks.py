"""Where answers go, and what a full disk, a kill or a deaf receiver leaves."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.bundle import Bundle
from florence_edge.stream import Event, Run, SinkError, StreamOptions, open_source, watch
from florence_edge.stream import http as http_sink
from florence_edge.stream.http import Receiver
from florence_edge.stream.opencv import Recorder
from support.streams import Memory, Recording, ScriptedCamera, full_after, model_of, picture


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_line_holds_source_frame_time_and_results(bundle: Bundle, tmp_path: Path) -> None:
    with watch(model_of(bundle), Recording("a", 2), ["detect"], sinks=[str(tmp_path / "a.jsonl")]) as events:
        seen = list(events)
    first = lines(tmp_path / "a.jsonl")[1]
    assert (first["run"], first["source"], first["frame"], first["time_ns"]) == (events.run.key, "a", 1, 100_000_000)
    result = seen[1].results["detect"].to_dict()
    del result["timings_ms"]
    assert first["results"]["detect"] == result
    assert "age_ms" not in first  # no second run would write it again


def test_lines_about_a_camera_hold_age_drops_and_timings(bundle: Bundle, tmp_path: Path) -> None:
    camera = ScriptedCamera("cam", [["frame", 0.02] * 5])
    list(watch(model_of(bundle), camera, ["detect"], sinks=[str(tmp_path / "a.jsonl")]))
    first = lines(tmp_path / "a.jsonl")[0]
    assert first["age_ms"] > 0
    assert first["dropped"] == 0
    assert "search" in first["results"]["detect"]["timings_ms"]


def test_a_camera_that_is_watched_again_goes_on_counting(bundle: Bundle, tmp_path: Path) -> None:
    out = str(tmp_path / "a.jsonl")
    for resume in (False, True):
        camera = ScriptedCamera("cam", [["frame", 0.02] * 4])
        list(watch(model_of(bundle), camera, ["detect"], sinks=[out], options=StreamOptions(resume=resume)))
    indexes = [line["frame"] for line in lines(Path(out))]
    assert indexes == sorted(set(indexes))
    assert max(indexes) > 3


@pytest.mark.parametrize("tail", [b'{"run": "', b"\0\0\0\0", b'{"run": 1}'])
def test_a_half_written_line_is_cut_off(bundle: Bundle, tmp_path: Path, tail: bytes) -> None:
    out = tmp_path / "a.jsonl"
    list(watch(model_of(bundle), Recording("a", 8), ["detect"], sinks=[str(out)]))
    whole = out.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]) + tail)
    list(watch(model_of(bundle), Recording("a", 8), ["detect"], sinks=[str(out)], options=StreamOptions(resume=True)))
    assert out.read_bytes() == whole


def test_a_file_of_something_else_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "notes.jsonl"
    out.write_text('{"mine": 1}\n')
    with pytest.raises(SinkError, match="line 1 is no answer of a stream"):
        list(
            watch(model_of(bundle), Recording("a", 2), ["detect"], sinks=[str(out)], options=StreamOptions(resume=True))
        )
    assert out.read_text() == '{"mine": 1}\n'


def test_a_folder_holds_a_document_and_a_picture_per_frame(bundle: Bundle, tmp_path: Path) -> None:
    list(watch(model_of(bundle), Recording("a", 3), ["detect"], sinks=[f"{tmp_path}/out/"]))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"a-0000000{index}.{kind}" for index in range(3) for kind in ("jpg", "json")]
    drawn = np.asarray(Image.open(tmp_path / "out" / "a-00000001.jpg"), np.int16)
    assert np.abs(drawn - picture(1).astype(np.int16)).max() > 60  # something was drawn


class FullDisk:
    """Lets `room` bytes through, then has no space; the first write past the limit is cut short."""

    def __init__(self, room: int) -> None:
        self.room, self.write = room, os.write

    def __call__(self, file: int, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = data[: self.room]
        self.room -= len(part)
        return self.write(file, part)


def test_a_full_disk_ends_the_run_with_complete_lines_and_resuming_completes_them(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "a.jsonl"
    list(watch(model_of(bundle), Recording("a", 30), ["detect"], sinks=[str(whole)]))
    with monkeypatch.context() as patched:
        patched.setattr("florence_edge.stream.jsonl.os.write", FullDisk(4000))
        with pytest.raises(SinkError, match=r"No space left on device; the \d+ answers written so far are complete"):
            list(watch(model_of(bundle), Recording("a", 30), ["detect"], sinks=[str(out)]))
    assert 0 < len(lines(out)) < 30
    list(watch(model_of(bundle), Recording("a", 30), ["detect"], sinks=[str(out)], options=StreamOptions(resume=True)))
    assert out.read_bytes() == whole.read_bytes()


def test_a_full_disk_leaves_complete_files_in_a_folder(bundle: Bundle, tmp_path: Path) -> None:
    with full_after(9), pytest.raises(SinkError, match="No space left on device; what was written before is complete"):
        list(watch(model_of(bundle), Recording("a", 30), ["detect"], sinks=[f"{tmp_path}/"]))
    documents = sorted(tmp_path.glob("*.json"))
    assert [json.loads(path.read_text())["frame"] for path in documents] == [0, 1, 2, 3]
    assert not list(tmp_path.glob(".*"))
    list(
        watch(
            model_of(bundle), Recording("a", 30), ["detect"], sinks=[f"{tmp_path}/"], options=StreamOptions(resume=True)
        )
    )
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.glob("*.jpg"))) == 30


def test_an_annotated_video_keeps_the_clock_of_its_source(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    list(watch(model_of(bundle), Recording("a", 20), ["detect"], sinks=[str(out)], options=StreamOptions(fps=5)))
    copy = list(open_source(str(out)).frames())
    assert len(copy) == 19  # 1.9 s at 10 Hz: ten frames were worked on, each shown until the next
    difference = np.abs(copy[0].image.astype(np.int16) - copy[1].image).mean()
    assert difference < 3  # held
    assert np.abs(copy[0].image.astype(np.int16) - picture(0)).max() > 60  # drawn on


def test_videos_of_several_sources_are_told_apart_and_not_overwritten(bundle: Bundle, tmp_path: Path) -> None:
    out = str(tmp_path / "out.avi")
    list(watch(model_of(bundle), [Recording("a", 3), Recording("b", 4)], ["detect"], sinks=[out]))
    assert [len(list(open_source(str(tmp_path / f"out-{tag}.avi")).frames())) for tag in "ab"] == [3, 4]
    with pytest.raises(SinkError, match=r"out-a.avi exists"):
        list(watch(model_of(bundle), [Recording("a", 3), Recording("b", 4)], ["detect"], sinks=[out]))


def test_a_video_stops_before_the_disk_is_full(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([1 << 40] * 5)
    usage = shutil.disk_usage

    def disk_usage(path: Path) -> object:
        return SimpleNamespace(free=next(free, 0)) if path == tmp_path else usage(path)

    monkeypatch.setattr("florence_edge.stream.videos.shutil.disk_usage", disk_usage)
    with pytest.raises(SinkError, match="less than 32 MiB are left"):
        list(watch(model_of(bundle), Recording("a", 30), ["detect"], sinks=[str(tmp_path / "out.avi")]))
    assert len(list(open_source(str(tmp_path / "out.avi")).frames())) == 5


def test_frames_of_another_size_are_fitted_with_black_around(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.avi", (64, 48), 10.0)
    for size in ((64, 48), (128, 24)):
        recorder.write(np.full((size[1], size[0], 3), 200, np.uint8))
    recorder.close()
    second = list(open_source(str(tmp_path / "a.avi")).frames())[1].image
    assert second[24].mean() > 180
    assert second[0].mean() < 20


class Server:
    """A receiver that answers with the next status of a list, then 200."""

    def __init__(self, statuses: list[int]) -> None:
        self.received: list[tuple[str, dict[str, Any]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.received.append((self.headers["Idempotency-Key"], body))
                answer = statuses.pop(0) if statuses else 200
                self.send_response(answer)
                self.send_header("Retry-After", "3")
                if 300 <= answer < 400:
                    self.send_header("Location", f"{server.address}/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}/events"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def receivers() -> Iterator[list[Server]]:
    opened: list[Server] = []
    yield opened
    for server in opened:
        server.http.shutdown()
        server.http.server_close()


def test_events_are_posted_and_repeated_until_they_are_taken(bundle: Bundle, receivers: list[Server]) -> None:
    receivers.append(server := Server([200, 503, 429, 200]))
    waits: list[float] = []
    sink = Receiver(server.address, pause=waits.append)
    list(watch(model_of(bundle), Recording("a", 3), ["detect"], sinks=[sink]))
    assert [body["frame"] for _, body in server.received] == [0, 1, 1, 1, 2]
    assert waits == [3.0, 3.0]  # what the receiver asked for
    assert len({key for key, _ in server.received}) == 3


def test_a_receiver_that_refuses_ends_the_run_at_once(bundle: Bundle, receivers: list[Server]) -> None:
    receivers.append(server := Server([200, 400]))
    with pytest.raises(SinkError, match="refused frame 1: 400"):
        list(watch(model_of(bundle), Recording("a", 5), ["detect"], sinks=[server.address]))
    assert len(server.received) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_receiver_that_moved_is_refused_since_following_it_would_lose_the_event(
    bundle: Bundle, receivers: list[Server], status: int
) -> None:
    receivers.append(server := Server([200, status, 200]))
    with pytest.raises(SinkError, match=f"refused frame 1: {status} .*/events/elsewhere"):
        list(watch(model_of(bundle), Recording("a", 5), ["detect"], sinks=[server.address]))
    assert [body["frame"] for _, body in server.received] == [0, 1]


def test_a_receiver_that_speaks_no_http_is_an_error_of_the_sink(bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble() -> None:
            for _ in range(http_sink.ATTEMPTS):
                client, _ = listener.accept()
                with client:
                    client.recv(65536)
                    client.sendall(b"not a status line\r\n\r\n")

        thread = threading.Thread(target=babble, daemon=True)
        thread.start()
        sink = Receiver(f"http://127.0.0.1:{listener.getsockname()[1]}/", pause=lambda seconds: None)
        with pytest.raises(SinkError, match="did not take frame 0 in 6 attempts"):
            list(watch(model_of(bundle), Recording("a", 1), ["detect"], sinks=[sink]))
        thread.join(10)


def test_a_receiver_that_is_not_there_is_tried_a_bounded_number_of_times(bundle: Bundle) -> None:
    waits: list[float] = []
    sink = Receiver("http://127.0.0.1:9/events", pause=waits.append)
    with pytest.raises(SinkError, match="did not take frame 0 in 6 attempts"):
        list(watch(model_of(bundle), Recording("a", 5), ["detect"], sinks=[sink]))
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert max(waits) <= http_sink.LONGEST_WAIT_S


class Failing(Memory):
    """A sink that fails when it is opened, at its second event, or when it is closed."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when

    def open(self, run: Run) -> None:
        super().open(run)
        self._fail("open")

    def write(self, event: Event) -> None:
        super().write(event)
        if len(self.events) == 2:
            self._fail("write")

    def close(self) -> None:
        super().close()
        self._fail("close")

    def _fail(self, when: str) -> None:
        if when == self.when:
            raise OSError(errno.EIO, f"cannot {when}")


@pytest.mark.parametrize(("when", "closed"), [("open", 0), ("write", 1), ("close", 1)])
def test_whatever_a_sink_does_every_opened_sink_is_closed_and_the_error_told(
    bundle: Bundle, when: str, closed: int
) -> None:
    good, bad = Memory(), Failing(when)
    with pytest.raises(SinkError, match=f"cannot {when}"):
        list(watch(model_of(bundle), Recording("a", 20), ["detect"], sinks=[good, bad]))
    assert (good.closed, bad.closed) == (1, closed)
