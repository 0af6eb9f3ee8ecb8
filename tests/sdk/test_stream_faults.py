"""Faults seen through every sink: a camera that goes, a file that may not grow. No answer is lost or half there."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from pycocotools.coco import COCO

pytest.importorskip("rosbags")

from florence_edge.bundle import Bundle
from florence_edge.stream import Ask, Event, Frame, Reconnect, SinkError, SourceError, StreamOptions, watch
from support.streams import Recording, ScriptedCamera, Step, contents, model_of

SINKS = ("answers.jsonl", "each/", "seen.avi", "bag://out.mcap", "yolo://yolo", "coco://coco")


def frames_held(folder: Path) -> dict[str, list[int]]:
    """Which frames each sink holds, as other readers see it; of the video, as many numbers as it has pictures."""
    with (folder / "out.mcap").open("rb") as stream:
        bag = [message.sequence for *_, message in make_reader(stream).iter_messages(["/florence/status"])]
    video, count = cv2.VideoCapture(str(folder / "seen.avi")), 0
    while video.grab():
        count += 1
    return {
        "jsonl": [json.loads(line)["frame"] for line in (folder / "answers.jsonl").read_text().splitlines()],
        "folder": sorted(json.loads(path.read_text())["frame"] for path in (folder / "each").glob("*.json")),
        "bag": bag,
        "yolo": sorted(int(path.stem[-8:]) for path in (folder / "yolo/images").glob("*.jpg")),
        "coco": [int(row["file_name"][4:12]) for row in COCO(str(folder / "coco/annotations.json")).imgs.values()],
        "video": list(range(count)),
    }


@pytest.mark.parametrize("returns", [True, False])
def test_a_camera_that_goes_leaves_every_answer_in_every_sink(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returns: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    sight: list[Step] = ["frame", 0.05] * 4
    camera = ScriptedCamera("cam", [[*sight, "lost"], ["lost"], sight if returns else ["lost"]])
    options = StreamOptions(reconnect=Reconnect(first_s=0.01, patience_s=5 if returns else 0.1))
    seen: list[Event] = []
    events = watch(model_of(bundle), camera, ["detect"], sinks=SINKS, options=options)
    with nullcontext() if returns else pytest.raises(SourceError, match="cam: no frame for"):
        seen.extend(events)
    done = [event.frame.index for event in seen]
    held = frames_held(tmp_path)
    assert len(held.pop("video")) >= len(done) >= 2
    assert set(map(tuple, held.values())) == {tuple(done)}
    assert events.counts["cam"].captured == (8 if returns else 4)
    assert len(done) == events.counts["cam"].done


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """The system refuses to let any file of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("sink", ["jsonl://{}/a.jsonl", "bag://{}/a.mcap", "coco://{}/a"])
def test_a_write_that_the_system_refuses_ends_the_run_and_resuming_completes_it(
    bundle: Bundle, tmp_path: Path, sink: str
) -> None:
    def run(name: str, *, resume: bool = False) -> None:
        options = StreamOptions(resume=resume)
        uri = sink.format(tmp_path / name)
        list(watch(model_of(bundle), Recording("a", 90), ["detect", "caption"], sinks=[uri], options=options))

    run("whole")
    whole = contents(tmp_path / "whole")
    with files_at_most(max(map(len, whole.values())) // 2), pytest.raises(SinkError, match="File too large"):
        run("broken")
    assert contents(tmp_path / "broken") != whole
    run("broken", resume=True)
    assert contents(tmp_path / "broken") == whole


@pytest.mark.parametrize("sink", [*SINKS[:3], "bag://out.mcap?annotations=foxglove", *SINKS[4:]])
@pytest.mark.parametrize("offset_s", [-3600, -(10**10), 10**10], ids=["an hour back", "before 1970", "far ahead"])
def test_a_clock_that_is_set_ends_no_run_and_stops_no_task(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str, offset_s: int
) -> None:
    class Set(Recording):
        def frames(self, start: int = 0) -> Iterator[Frame]:
            for frame in super().frames(start):
                seconds = 1_700_000_000 + offset_s * (frame.index > 9)
                yield replace(frame, time_ns=seconds * 10**9 + frame.time_ns)

    if "foxglove" in sink:
        pytest.importorskip("foxglove")
    monkeypatch.chdir(tmp_path)
    events = list(watch(model_of(bundle), Set("a", 20), ["detect", Ask("caption", hz=5)], sinks=[sink]))
    captions = [event.frame.index for event in events if "caption" in event.results]
    assert len(events) == 20
    assert len([index for index in captions if index < 10]) == 5
    assert 4 <= len([index for index in captions if index > 9]) <= 6


CHANGED = {
    "size": np.full((20, 100, 3), 90, np.uint8),
    "grey": np.full((32, 48), 90, np.uint8),
    "one channel": np.full((32, 48, 1), 90, np.uint8),
    "alpha": np.full((32, 48, 4), 90, np.uint8),
    "turned": np.full((64, 96, 3), 90, np.uint8)[::2, ::-2],
}
UNUSABLE: dict[str, Any] = {
    "empty": np.zeros((0, 48, 3), np.uint8),
    "16 bits": np.full((32, 48, 3), 9000, np.uint16),
    "16-bit Bayer": np.full((32, 48), 9000, np.uint16),
    "two channels": np.full((32, 48, 2), 90, np.uint8),
    "nothing": None,
}


@pytest.mark.parametrize("sink", SINKS)
def test_frames_that_change_their_form_are_answered_or_told_and_end_no_run(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str
) -> None:
    forms: list[Any] = [*CHANGED.values(), *UNUSABLE.values()]

    class Changing(Recording):
        def frames(self, start: int = 0) -> Iterator[Frame]:
            for frame in super().frames(start):
                yield frame if frame.index in (0, 11) else replace(frame, image=forms[frame.index - 1])

    monkeypatch.chdir(tmp_path)
    events = list(watch(model_of(bundle), Changing("a", 12), ["detect"], sinks=[sink]))
    assert [event.frame.error is None for event in events] == [True] * 6 + [False] * 5 + [True]
    assert [event.frame.image.shape[:2] for event in events[:6]] == [(32, 48), (20, 100), *[(32, 48)] * 4]
    assert all(event.frame.image.shape[2] == 3 for event in events[:6])
