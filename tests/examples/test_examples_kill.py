"""The bag captioner is killed again and again; what it leaves in the end is what an unbroken run writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("rosbags")
pytest.importorskip("cv2")

ROOT = Path(__file__).parents[2]


def start(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "sdk")}
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_captions_end_up_equal_to_the_byte(tmp_path: Path) -> None:
    assert start(tmp_path, "make_samples").wait() == 0
    assert start(tmp_path, "caption_bag", "samples/table", "whole.mcap").wait() == 0
    whole, out = tmp_path / "whole.mcap", tmp_path / "broken.mcap"
    killed = 0
    for share in (0.05, 0.25, 0.45):
        child = start(tmp_path, "caption_bag", "samples/table", "broken.mcap")
        while child.poll() is None and (not out.exists() or out.stat().st_size < share * whole.stat().st_size):
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
    assert killed >= 1
    assert start(tmp_path, "caption_bag", "samples/table", "broken.mcap").wait() == 0
    assert out.read_bytes() == whole.read_bytes()
