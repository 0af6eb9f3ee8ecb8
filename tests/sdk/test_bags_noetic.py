"""A bag that ROS 1 itself wrote, and images as its cv_bridge sees them; runs where the system's Python has both.

On Debian and Ubuntu: apt install python3-rosbag python3-cv-bridge.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags")

from florence_edge.stream.bags.source import BagSource

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "noetic_bag.py"


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    python = shutil.which("python3", path="/usr/bin")
    probe = [python or "", "-c", "import rosbag, cv_bridge"]
    if python is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("ROS 1's rosbag and cv_bridge are not installed for /usr/bin/python3")
    subprocess.run([python, str(SCRIPT), str(tmp_path / "in.bag"), str(tmp_path / "answers.npz")], check=True)
    return tmp_path / "in.bag"


def test_images_are_those_of_cv_bridge(bag: Path) -> None:
    answers = np.load(bag.with_name("answers.npz"))
    frames = list(BagSource(bag, topic="/camera").frames())
    encodings = [name for name in answers.files if name != "compressed"]
    assert len(frames) == len(encodings)
    for frame, encoding in zip(frames, encodings, strict=True):
        assert frame.error is None
        assert frame.time_ns == (100 + frame.index) * 10**9 + 7
        assert frame.header.frame_id == "optical"  # type: ignore[attr-defined]  # a ros.messages.Header
        # Of 16 bits cv_bridge rounds where we keep the high byte.
        allowed = 1 if encoding.endswith("16") else 0
        assert np.abs(frame.image.astype(int) - answers[encoding]).max() <= allowed, encoding
    (compressed,) = BagSource(bag, topic="/compressed").frames()
    assert np.abs(compressed.image.astype(int) - answers["compressed"]).max() <= 2  # two JPEG decoders
