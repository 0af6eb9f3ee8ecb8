"""A process killed at random points, its output read as it lies there, and the run gone on with to the same end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from florence_edge.stream.opencv import Recorder
from support.fake_backend import make_bundle
from support.streams import contents, write_video

ROOT = Path(__file__).parents[2]
FRAMES = 60

WORKER = """
import sys
from pathlib import Path
from florence_edge.bundle import Bundle
from florence_edge.model import Florence
from florence_edge.stream import StreamOptions, watch
from support.streams import SlowBackend

bundle, clip, out, resume = Bundle.open(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4] == "resume"
box = "<loc_100><loc_200><loc_300><loc_400>"
script = lambda task, given, light: f"light {light:.6f}{box if task.name == 'od' else ''}"
model = Florence(bundle, SlowBackend(bundle, vision_s=0.01, script=script))
sinks = [str(out / "a.jsonl"), f"{out}/each/", f"yolo://{out}/yolo", f"coco://{out}/coco"]
sinks += ([] if resume or len(sys.argv) < 6 else [str(out / sys.argv[5])])
print("ready", flush=True)
for event in watch(model, clip, ["caption", "detect"], sinks=sinks, options=StreamOptions(resume=resume)):
    pass
"""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("kill")
    return make_bundle(folder / "bundle").folder, write_video(folder / "clip.avi", FRAMES)


def start(scene: tuple[Path, Path], out: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'sdk'}:{ROOT / 'tests'}"}
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, scene), str(out), *more],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> None:
    _, _ = process.communicate(timeout=120)
    assert process.returncode == 0


def kill_after(process: subprocess.Popen[str], out: Path, count: int) -> None:
    """Kills the process a random moment after it has written so many lines."""
    file, end = out / "a.jsonl", time.monotonic() + 60
    while process.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") < count):
        assert time.monotonic() < end
        time.sleep(0.001)
    time.sleep(random.uniform(0.0, 0.02))
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_killed_again_and_again_the_output_ends_up_equal_to_the_byte(scene: tuple[Path, Path], tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(scene, whole, "anew"))
    kinds = {len(json.loads(path.read_text())["results"]) for path in (whole / "each").glob("*.json")}
    assert (len(contents(whole)), kinds) == (4 + 5 * FRAMES, {2})  # and the names of YOLO, the two files of COCO
    for count in (0, random.randint(5, 25), random.randint(26, 50)):
        kill_after(start(scene, broken, "resume"), broken, count)
        held = (broken / "a.jsonl").read_bytes() if (broken / "a.jsonl").exists() else b""
        frames = [json.loads(line)["frame"] for line in held.splitlines(keepends=True) if line.endswith(b"\n")]
        assert frames == list(range(len(frames)))  # readable as it lies there, nothing lost or repeated
        assert all(json.loads(path.read_text()) for path in (broken / "each").glob("*.json"))
        pictures, labels = (
            {path.stem for path in (broken / "yolo").glob(f"{kind}/[!.]*")} for kind in ("images", "labels")
        )
        assert pictures <= labels  # none that would teach that nothing is there
    assert len(frames) < FRAMES
    finish(start(scene, broken, "resume"))
    assert contents(broken) == contents(whole)


@pytest.mark.parametrize("name", ["copy.avi", "copy.mkv"])
def test_a_video_whose_writer_was_killed_can_be_read(scene: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    grain = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    recorder = Recorder(tmp_path / "clip.avi", (320, 240), 30.0)
    for index in range(FRAMES):
        recorder.write(np.roll(grain, index))
    recorder.close()
    kill_after(start((scene[0], tmp_path / "clip.avi"), tmp_path, "anew", name), tmp_path, 50)
    capture = cv2.VideoCapture(str(tmp_path / name), cv2.CAP_FFMPEG)
    readable = 0
    while capture.grab():
        readable += 1
    assert readable >= 40  # the last 32 KiB lie in the writer's buffer, and a few frames in its codec
