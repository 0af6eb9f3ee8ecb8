"""The experiment of docs/data-engine.md runs through; what it finds is in benchmarks/results, not here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from florence_train.annotate.proof import METRICS, Setting, compare
from florence_train.data import load
from florence_train.tiny import write_tiny_checkpoint

SMALL = Setting(pictures=10, held_out=2, steps=1, images_per_step=2)


@pytest.mark.slow
def test_every_arm_is_trained_on_its_own_labels_and_measured_on_the_same_scenes(tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    said: list[str] = []
    found = compare(checkpoint, tmp_path / "out", seed=3, setting=SMALL, tell=said.append)
    assert list(found["metrics"]) == ["start", "noisy", "round", "clean"]
    for values in found["metrics"].values():
        assert set(values) == {f"{task} {name}" for task, name in METRICS}
    folder = tmp_path / "out" / "seed-3"
    clean, noisy, merged = (load(folder / name) for name in ("clean.jsonl", "noisy.jsonl", "round-1/train.jsonl"))
    assert (len(clean), found["labels"]["clean"]) == (1, sum(len(record.examples) for record in clean.records))
    assert 1 < len(noisy) <= 10
    assert {line["origin"] for line in map(json.loads, (folder / "round-1" / "train.jsonl").open())} >= {"clean"}
    assert merged.faults == ()
    assert compare(checkpoint, tmp_path / "out", seed=3, setting=SMALL) == found
    assert len(said) == 4
