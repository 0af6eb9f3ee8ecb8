"""Ten thousand frames: memory stays flat and every frame is accounted for."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from florence_edge.model import Florence
from florence_edge.stream import Ask, Frame, StreamOptions, watch
from support.fake_backend import FakeBackend, make_bundle
from support.streams import picture

PAGE = resource.getpagesize()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Endless:
    """Frames of 640 x 480: of a camera at `rate_hz`, or of a recording as fast as they are read."""

    identity = "synthetic"

    def __init__(self, count: int, *, live: bool, rate_hz: float) -> None:
        self.tag, self.live, self.rate_hz, self._count = "cam", live, rate_hz, count

    def frames(self, start: int = 0) -> Iterator[Frame]:
        begun = time.monotonic()
        for index in range(start, self._count):
            if self.live:
                time.sleep(max(0.0, begun + index / self.rate_hz - time.monotonic()))
            yield Frame(picture(index, size=(640, 480)), time.time_ns(), index, self.tag)


def soak(tmp_path: Path, source: Endless, *, warm_up: int) -> tuple[int, list[int]]:
    """Runs a stream with a sink; returns how many events came, and the resident bytes from the warm-up on."""
    bundle = make_bundle(tmp_path / "bundle")
    tasks = [Ask("detect"), Ask("caption", every=10)]
    memory: list[int] = []
    with watch(Florence(bundle, _Forgetful(bundle)), source, tasks, sinks=[str(tmp_path / "a.jsonl")]) as events:
        done = 0
        for event in events:
            done += 1
            assert event.age_ms < 60_000
            if event.frame.index >= warm_up and done % 50 == 0:
                memory.append(resident_bytes())
    counts = events.counts["cam"]
    assert counts.captured == counts.done + counts.dropped + counts.skipped
    assert counts.done == done
    return done, memory


class _Forgetful(FakeBackend):
    """Keeps no notes of what it was asked, which would grow."""

    def encode_image(self, pixels):  # type: ignore[no-untyped-def]  # as the class above
        features = super().encode_image(pixels)
        self.encoded.clear()
        self.searches.clear()
        return features


def flat(memory: list[int]) -> bool:
    tenth = max(1, len(memory) // 10)
    return float(np.median(memory[-tenth:])) <= 1.05 * float(np.median(memory[:tenth]))


def test_memory_stays_flat_over_a_thousand_frames(tmp_path: Path) -> None:
    done, memory = soak(tmp_path, Endless(1000, live=False, rate_hz=30.0), warm_up=200)
    assert done == 1000
    assert flat(memory)


@pytest.mark.slow
@pytest.mark.parametrize("live", [False, True])
def test_memory_stays_flat_over_ten_thousand_frames(tmp_path: Path, live: bool) -> None:
    done, memory = soak(tmp_path, Endless(10_000, live=live, rate_hz=100.0), warm_up=1000)
    assert done == 10_000 or live
    assert len(memory) > 20
    assert flat(memory), f"{memory[0] >> 20} MiB became {memory[-1] >> 20} MiB"


def test_a_run_leaves_no_file_open(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(5):
        sinks = [str(tmp_path / f"{number}.jsonl"), str(tmp_path / f"{number}.avi")]
        source = Endless(5, live=False, rate_hz=30.0)
        with watch(
            Florence(bundle, FakeBackend(bundle)), source, ["detect"], sinks=sinks, options=StreamOptions()
        ) as events:
            next(events)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
