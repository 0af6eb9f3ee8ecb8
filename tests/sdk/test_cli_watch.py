"""`florence-edge watch`: its command line, its output, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from florence_edge.bundle import Bundle
from florence_edge.cli import INTERRUPTED, TERMINATED
from florence_edge.cli.main import main
from support.fake_backend import FakeBackend
from support.streams import SlowBackend, picture

ROOT = Path(__file__).parents[2]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeBackend]:
    opened: list[FakeBackend] = []

    def open_backend(name: str, bundle: Bundle, **_: object) -> FakeBackend:
        opened.append(SlowBackend(bundle, vision_s=0.02))
        return opened[-1]

    monkeypatch.setattr("florence_edge.model.open_backend", open_backend)
    return opened


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(6):
        Image.fromarray(picture(index)).save(folder / f"{index}.png")
    return folder


def documents(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_options_belong_to_the_task_before_them(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--task", "detect", "--input", "red cube", "--input", "cup", "--task", "caption", "--every", "3"]
    assert main(["watch", str(photos), *arguments, "--model", str(bundle.folder), "--json"]) == 0
    seen = documents(capsys)
    assert [sorted(event["results"]) for event in seen] == [["caption", "detect"], ["detect"], ["detect"]] * 2
    assert seen[0]["results"]["detect"]["classes"] == ["red cube", "cup"]
    assert all(event["age_ms"] > 0 for event in seen)
    assert engines[0].closed


def test_lines_for_people_and_an_account_at_the_end(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", f"{photos}#shelf", "--task", "detect", "--model", str(bundle.folder)]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 6
    assert shown.out.startswith("shelf 0  ")
    assert "detect: " in shown.out
    assert shown.err == "florence-edge: shelf: 6 frames, 6 done\n"


def test_frames_that_cannot_be_read_are_an_error_where_there_is_nothing_else(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["watch", str(photos), "--task", "detect", "--model", str(bundle.folder)]
    for index in range(5):
        (photos / f"{index}.png").write_bytes(b"no picture")
    assert main(command) == 0
    assert "photos: 6 frames, 6 done, 5 failed" in capsys.readouterr().err
    (photos / "5.png").write_bytes(b"no picture")
    assert main(command) == 1
    shown = capsys.readouterr()
    assert shown.out.count("not read: ") == 6
    assert "photos: 6 frames, 6 done, 6 failed" in shown.err
    assert "error: none of 6 frames could be answered" in shown.err


def test_a_dead_receiver_is_told_instead_of_calling_the_output_complete(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = "http://127.0.0.1:9/"
    command = ["watch", str(photos), "--task", "detect", "--model", str(bundle.folder), "--sink", dead]
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    assert main(command) == 1
    assert time.monotonic() - begun < 6
    said = capsys.readouterr().err
    assert "did not take frame 0 in" in said
    assert "what follows was not sent" in said
    assert "complete" not in said


def test_sinks_and_resume(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers.jsonl"
    command = ["watch", str(photos), "--task", "detect", "--model", str(bundle.folder), "--sink", str(out)]
    assert main(command) == 0
    whole = out.read_bytes()
    assert main(command) == 1
    assert "go on with --resume" in capsys.readouterr().err
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    assert main([*command, "--resume"]) == 0
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "no --task is given"),
        (["--input", "x"], 2, "--input belongs to the --task before it"),
        (["--task", "detect", "--hz", "1", "--hz", "2"], 2, "--hz is given twice for the task detect"),
        (["--task", "detect", "--resume"], 2, "--resume needs --sink"),
        (["--task", "ground"], 1, "takes a phrase"),
        (["--task", "detect", "--fps", "0"], 2, "argument --fps: '0' is no number above 0"),
        (["--task", "detect", "--sink", "x.mp4"], 1, "can be read even when the power fails"),
    ],
)
def test_what_does_not_fit_is_said(
    bundle: Bundle,
    engines: list[FakeBackend],
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    try:
        ended = main(["watch", str(photos), "--model", str(bundle.folder), *arguments])
    except SystemExit as stop:
        ended = int(str(stop.code))
    assert ended == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, INTERRUPTED, "interrupted"), (signal.SIGTERM, TERMINATED, "terminated")],
)
def test_a_signal_ends_the_run_with_complete_output(
    bundle: Bundle,
    engines: list[FakeBackend],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
    word: str,
) -> None:
    out, listed = tmp_path / "answers.jsonl", tmp_path / "many.txt"
    for index in range(400):
        os.link(photos / "0.png", photos / f"copy-{index}.png")
    listed.write_text("\n".join(str(path) for path in sorted(photos.iterdir())))

    def stop() -> None:
        while not out.exists() or out.read_bytes().count(b"\n") < 3:
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=stop)
    thread.start()
    ended = main(["watch", str(listed), "--task", "detect", "--model", str(bundle.folder), "--sink", str(out)])
    thread.join()
    shown = capsys.readouterr()
    done = [json.loads(line)["frame"] for line in out.read_text().splitlines()]
    assert ended == code
    assert f"{word}; what was answered is complete, --resume goes on from here" in shown.err
    assert 3 <= len(done) < 400
    assert done == list(range(len(done)))
    assert f"{len(done)} done" in shown.err
    assert signal.getsignal(signal.SIGTERM) is before
    assert engines[0].closed


def test_a_budget_says_what_it_cut(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["watch", str(photos), "--task", "caption", "--model", str(bundle.folder), "--budget-ms", "1"]
    assert main(command) == 0
    rows = capsys.readouterr().out.splitlines()
    assert "cut" not in rows[0]
    assert "cut caption tokens 64 -> 16  cut caption beams 3 -> 1" in rows[-1]


def test_help_names_sources_and_sinks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "florence_edge.cli.main", "watch", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "sdk")},
    )
    for word in ("v4l2://0", "csi://0", "rtsp://", "bag://", "foxglove://", "http://", "--every", "--budget-ms"):
        assert word in done.stdout
