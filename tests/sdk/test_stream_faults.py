"""Faults seen through every sink: a camera that goes, a file that may not grow. No answer is lost or half there."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import cv2
import pytest
from mcap.reader import make_reader
from pycocotools.coco import COCO

pytest.importorskip("rosbags")

from florence_edge.bundle import Bundle
from florence_edge.stream import Event, Reconnect, SinkError, SourceError, StreamOptions, watch
from support.streams import Recording, ScriptedCamera, Step, model_of

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

    def contents(name: str) -> dict[str, bytes]:
        return {
            path.relative_to(tmp_path / name).as_posix(): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }

    run("whole")
    with (
        files_at_most(max(map(len, contents("whole").values())) // 2),
        pytest.raises(SinkError, match="File too large"),
    ):
        run("broken")
    assert contents("broken") != contents("whole")
    run("broken", resume=True)
    assert contents("broken") == contents("whole")
