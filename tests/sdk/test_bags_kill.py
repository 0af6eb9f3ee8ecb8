"""A bag is asked about by a process that is killed again and again; the output is that of an unbroken run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap_ros2")

from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from florence_edge.stream.bags.source import BagSource
from florence_edge.stream.protocols import SourceError
from support.bags import compressed_fields, jpeg, picture, raw_fields, recorded, write_bag
from support.caption_bag import main
from support.fake_backend import make_bundle

COUNT = 60
TESTS = Path(__file__).resolve().parents[1]


def process(*arguments: Path) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([str(TESTS.parent / "sdk"), str(TESTS)])
    command = [sys.executable, "-m", "support.caption_bag", *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE)


def statuses(path: Path) -> list[tuple[int, bytes | int]]:
    """Frame and level of every status in a file, by readers of other people."""
    with path.open("rb") as stream:
        found = make_reader(stream, decoder_factories=[DecoderFactory()]).iter_decoded_messages(["/florence/status"])
        rows = [message.status[0] for *_, message in found]
    return [(int(next(pair.value for pair in row.values if pair.key == "frame")), row.level) for row in rows]


@pytest.mark.parametrize("kind", ["mcap", "ros1"])
def test_a_run_that_is_killed_at_random_points_ends_bit_equal(tmp_path: Path, kind: str) -> None:
    rows = [compressed_fields(jpeg(picture(index))) for index in range(COUNT)]
    rows[17] = compressed_fields(jpeg(picture(17))[:99])
    bag = write_bag(tmp_path / "in.bag" if kind == "ros1" else tmp_path / "in", {"/camera": rows}, kind=kind)
    bundle = make_bundle(tmp_path / "bundle").folder
    whole, broken = tmp_path / "whole.mcap", tmp_path / "broken.mcap"
    main(str(bundle), str(bag), str(whole))
    size, chance, kills = whole.stat().st_size, random.Random(7), 0
    for share in (0.02, 0.15, 0.3):
        child = process(bundle, bag, broken)
        while child.poll() is None and (not broken.exists() or broken.stat().st_size < size * share):
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        child.send_signal(signal.SIGKILL)
        _, said = child.communicate()
        kills += child.returncode == -signal.SIGKILL
        assert child.returncode in (0, -signal.SIGKILL), said.decode()
    assert kills == 3
    assert broken.read_bytes() != whole.read_bytes()
    main(str(bundle), str(bag), str(broken))
    assert broken.read_bytes() == whole.read_bytes()
    levels = statuses(broken)
    assert [index for index, _ in levels] == list(range(COUNT))
    assert [index for index, level in levels if level in (2, b"\2")] == [17]


def test_a_bag_cut_in_the_middle_loses_no_answer_that_was_there(tmp_path: Path) -> None:
    rows = [raw_fields(picture(index)) for index in range(COUNT)]
    bag = write_bag(tmp_path / "in", {"/camera": rows}, kind="mcap")
    part = recorded(bag, tmp_path / "cut.mcap")
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    bundle = make_bundle(tmp_path / "bundle").folder
    with pytest.raises(OSError, match="was cut short after"):
        main(str(bundle), str(part), str(tmp_path / "out.mcap"))
    frames = BagSource(part).frames()
    readable = 0
    with suppress(SourceError):
        while next(frames):
            readable += 1
    assert COUNT / 3 < readable < COUNT
    assert [index for index, _ in statuses(tmp_path / "out.mcap")] == list(range(readable))
