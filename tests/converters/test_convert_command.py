"""`florence-edge convert` and `verify`: exit codes, text and JSON, and that listing them loads no framework."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from florence_convert import cli
from florence_edge.bundle import Bundle
from florence_edge.errors import InputError
from support.engines import SIZE, Engines, tiny_engines
from support.published import published_config, to_microsoft, write_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def engines() -> Engines:
    return tiny_engines()


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    cli.register(parser.add_subparsers(required=True))
    arguments = parser.parse_args([str(word) for word in words])
    code: int = arguments.run(arguments)
    return code


def test_the_microsoft_layout_converts_to_the_same_files_as_the_native_one(
    engines: Engines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also proves conversion reproducible: the native bundle was made in another call, or another process."""
    config = published_config("tiny")
    write_folder(tmp_path / "checkpoint", "microsoft", config, to_microsoft(engines.reference.state_dict()))
    size = f"{SIZE.height}x{SIZE.width}"
    assert run("convert", tmp_path / "checkpoint", tmp_path / "out", "--image-size", size, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    bundle = Bundle.open(tmp_path / "out")
    assert printed["bundle"] == str(bundle.folder)
    assert printed["manifest"]["files"]["weights.bin"]["bytes"] == bundle.manifest.files["weights.bin"].bytes
    assert bundle.manifest.files == engines.bundle.manifest.files
    ours, theirs = (manifest.to_dict() for manifest in (bundle.manifest, engines.bundle.manifest))
    assert ours.pop("source")["layout"] == "microsoft"
    assert theirs.pop("source")["layout"] == "native"
    ours.pop("parity"), theirs.pop("parity")
    assert ours == theirs


def test_verify_prints_a_table_and_is_content(engines: Engines, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", engines.bundle.folder, "--against", engines.checkpoint, "--pairs", "2") == 0
    text = capsys.readouterr().out
    assert re.search(r"identical ids, beams_3 +2 of 2 +all", text)
    assert "largest error, decoder" in text
    assert "WRONG" not in text


def test_verify_as_json(engines: Engines, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", engines.bundle.folder, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert {check["name"] for check in report["checks"]} >= {"files", "onnx", "sessions", "interface"}


def test_verify_over_tolerance_exits_with_1(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("florence_convert.verify.parity_faults", lambda parity: ["decoder: the largest error is 1"])
    assert run("verify", engines.bundle.folder) == 1
    text = capsys.readouterr().out
    assert "WRONG" in text
    assert "stored parity: decoder: the largest error is 1" in text


@pytest.mark.parametrize("text", ["768", "768x", "axb", "-1x2", "768 x 768", "768X768"])
def test_a_size_that_is_none_is_a_wrong_command_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("convert", "in", "out", f"--image-size={text}")
    assert caught.value.code == 2
    assert "is no size; write height x width" in capsys.readouterr().err


def test_a_size_the_model_cannot_take_is_refused(engines: Engines, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an image of 2000x64"):
        run("convert", engines.checkpoint, tmp_path / "out", "--image-size", "2000x64")
    assert list(tmp_path.iterdir()) == []


def test_listing_the_commands_loads_no_framework() -> None:
    code = (
        "import argparse, sys; from florence_convert import cli;"
        "cli.register(argparse.ArgumentParser().add_subparsers());"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy', 'tokenizers') if m in sys.modules])"
    )
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("sdk", "training", "converters"))
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert result.stdout.strip() in ("[]", "['numpy']")
