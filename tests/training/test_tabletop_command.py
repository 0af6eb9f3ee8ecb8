"""`python -m florence_train.tabletop` writes what it promises and measures what it reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_train.tabletop import TabletopConfig, render
from florence_train.tabletop.__main__ import main


def test_pictures_truth_and_sheet_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--count", "3", "--seed", "11", "--size", "96x128"]) == 0
    assert "3 pictures" in capsys.readouterr().out
    facts = json.loads((tmp_path / "truth.json").read_text())
    assert len(facts) == 3
    for index, entry in enumerate(facts):
        scene = render(11, index, TabletopConfig(height=96, width=128))
        assert (np.asarray(Image.open(tmp_path / entry["image"])) == scene.image).all()
        assert [thing["kind"] for thing in entry["objects"]] == [thing.kind for thing in scene.objects]
        assert (entry["width"], entry["height"]) == (128, 96)
    assert Image.open(tmp_path / "sheet.png").width == 3 * 384


def test_speed_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--speed", "--count", "5", "--size", "64x64"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images_per_core_second"] > 0
    assert report["size"] == "64x64"


@pytest.mark.parametrize("arguments", [["--size", "64"], ["--size", "8x8"], ["--degrade", "3"], ["--seed", "-1"]])
def test_bad_options_are_told_and_fail(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "out"), "--count", "1", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")
