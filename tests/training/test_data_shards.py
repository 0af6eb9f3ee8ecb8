"""WebDataset shards: written, read in any order, read by the webdataset library, faults listed."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.errors import InputError
from florence_train.data import load, tabletop, write_jsonl, write_shards
from florence_train.data.turns import write_turn
from florence_train.tabletop import TabletopConfig


def spelled(records: Any) -> list[list[tuple[str, str]]]:
    return [[write_turn(example, record.size) for example in record.examples] for record in records]


def without_empty(records: Any) -> list[list[tuple[str, str]]]:
    """Turns without those of empty answer, which scenes have where nothing is to be read, and files must not have."""
    return [[pair for pair in pairs if pair[1]] for pairs in spelled(records)]


def test_scenes_go_through_shards_and_webdataset_reads_those(tmp_path: Path) -> None:
    scenes = list(tabletop("val", 5, config=TabletopConfig(height=96, width=96, supersample=1)))
    assert len({example.task for record in scenes for example in record.examples}) == 15
    paths = write_shards(scenes, tmp_path / "shards", per_shard=2)
    assert [path.name for path in paths] == ["000000.tar", "000001.tar", "000002.tar"]
    data = load(tmp_path / "shards" / "*.tar", faults="skip")
    assert spelled(data.records) == without_empty(scenes)
    assert all(fault.message == "the suffix is empty" for fault in data.faults)
    for record, scene in zip(data.records, scenes, strict=True):
        np.testing.assert_array_equal(np.asarray(record.picture.load()), np.asarray(scene.picture.load()))
    reader = pytest.importorskip("webdataset")
    samples = list(reader.WebDataset([str(path) for path in paths], shardshuffle=False))
    assert [json.loads(sample["json"])[0]["prefix"] for sample in samples] == ["<CAPTION>"] * 5
    assert all(sample["png"].startswith(b"\x89PNG") for sample in samples)


def test_shards_list_their_faults(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (200, 100)).save(tmp_path / name)
    (tmp_path / "a.json").write_text(json.dumps([{"prefix": "<OD>"}, {"prefix": "<CAPTION>", "suffix": "a cup"}]))
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name in ("a.png", "a.json", "b.png"):
            archive.add(tmp_path / name, name)
    (tmp_path / "1.tar").write_bytes(b"no archive")
    data = load(tmp_path / "[01].tar", faults="skip")
    assert len(data) == 1
    assert [fault.place for fault in data.faults] == ["b", "a.json, turn 0", ""]


def test_scenes_are_no_files_for_jsonl_to_name(tmp_path: Path) -> None:
    scenes = tabletop("val", 1, config=TabletopConfig(height=96, width=96, supersample=1))
    with pytest.raises(InputError, match="shards"):
        write_jsonl(scenes, tmp_path / "no.jsonl")
