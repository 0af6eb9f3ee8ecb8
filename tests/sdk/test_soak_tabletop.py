"""The bundled model behind a camera that never waits: memory, accounting and age (see support/soak.py)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_edge.model import Florence
from florence_edge.stream import Ask, watch
from support.soak import HEIGHT, RATE_HZ, WIDTH, Panning, main, memory, resident_bytes

pytest.importorskip("onnxruntime")

QUIET_MS = 10.0
"""How late a sleeping thread may be woken on a machine on which ages can be judged."""


def soak(tmp_path: Path, frames: int) -> dict[str, object]:
    """Runs the command; checks what must hold for any number of frames, on any machine."""
    main(["--frames", str(frames), "--out", str(tmp_path / "soak.json")])
    measured: dict[str, object] = json.loads((tmp_path / "soak.json").read_text())
    counts = measured["counts"]
    assert isinstance(counts, dict)
    assert counts["captured"] == frames == counts["done"] + counts["dropped"]
    assert counts["failed"] == counts["skipped"] == 0
    assert measured["lines_written"] == counts["done"] > 0
    return measured


def test_every_frame_is_done_or_dropped(tmp_path: Path) -> None:
    measured = soak(tmp_path, 60)
    assert measured["seconds"] >= 59 / RATE_HZ  # type: ignore[operator]  # a number of a JSON document


@pytest.mark.slow
def test_memory_stays_flat_whatever_the_length_of_the_answers(tmp_path: Path) -> None:
    tasks = [Ask("detect"), Ask("describe_regions", every=3), Ask("<MORE_DETAILED_CAPTION>", every=7)]
    held: list[int] = []
    with Florence.load("tabletop", threads=1) as model:
        demo = Image.open(model.bundle.folder / "demo.png").convert("RGB").resize((WIDTH * 5 // 4, HEIGHT * 5 // 4))
        frames = Panning(np.asarray(demo), 400, rate_hz=1e6, live=False)
        with watch(model, frames, tasks, sinks=[str(tmp_path / "a.jsonl")]) as events:
            held += [resident_bytes() for _ in events]
    settled = held[100:]
    assert len(settled) == 300
    assert np.median(settled[-100:]) - np.median(settled[:100]) < 4 << 20
    assert max(settled) - min(settled) < 12 << 20, "working memory is freed and taken at every frame"


@pytest.mark.slow
def test_memory_stays_flat_and_answers_fresh(tmp_path: Path) -> None:
    measured = soak(tmp_path, 1500)
    resident, late = measured["anonymous_mib"], measured["system_woke_late_ms"]
    over = measured["over_one_inference_one_frame_one_resizing_ms"]
    assert isinstance(resident, dict)
    assert isinstance(over, dict)
    assert isinstance(late, dict)
    if resident["growth"] is None:
        pytest.skip(f"every frame is accounted for, but the machine is too busy for more: {measured['counts']}")
    assert resident["growth"] <= 1.05
    if late["p99"] > QUIET_MS:
        pytest.skip(f"memory is flat, but this machine wakes sleepers {late['p99']:.0f} ms late: ages say nothing")
    for part in ("p50", "p99"):
        # Capturing, resizing and the model's own thread: each is woken once.
        assert over[part] <= max(QUIET_MS, 3 * late[part])


def test_the_camera_pans_within_its_picture_at_its_rate() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (HEIGHT + 13, WIDTH + 7, 3), np.uint8)
    begun = time.time_ns()
    frames = list(Panning(picture, 60, rate_hz=1000.0).frames())
    assert {frame.image.shape for frame in frames} == {(HEIGHT, WIDTH, 3)}
    assert len({frame.image.tobytes() for frame in frames}) > 13
    assert [frame.index for frame in frames] == list(range(60))
    assert frames[-1].time_ns - begun >= 0.058e9


def test_growth_is_that_of_medians_after_the_warm_up() -> None:
    assert memory([50] * 100 + [100] * 50 + [104] * 50)["growth"] == pytest.approx(1.04)
    assert memory([100] * 195 + [900] * 2 + [100] * 3)["growth"] == 1.0  # a peak is no leak
    assert memory([100] * 199)["growth"] is None
