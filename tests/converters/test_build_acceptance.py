"""The acceptance run over doubles: a report that passes, and one that says where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from florence_convert.build.acceptance import accept, main
from florence_convert.build.pipeline import Tools
from florence_convert.build.settings import BuildOptions
from support.fake_engines import FakeBuilder, fake_platform, fake_plugins, kernel_library
from support.fake_gpu import FakeGpu


@pytest.mark.slow
def test_a_run_is_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORENCE_CACHE", str(tmp_path / "cache"))
    tools = Tools(fake_platform(FakeGpu(kernel_library())), FakeBuilder(), fake_plugins)
    report = accept("tabletop", BuildOptions(beams=(1,)), tmp_path, tools=lambda: tools, repeats=2)
    assert report.passed, report.steps
    assert [step["name"] for step in report.steps] == [
        "libraries",
        "build and gate",
        "answers",
        "two models in one process",
        "timing",
    ]
    assert [engine["part"] for engine in report.engines] == ["vision", "encoder", "decoder"]
    assert report.identical.keys() == {"greedy"}
    assert report.milliseconds["per token, 1 beams"]["median"] > 0
    json.dumps(asdict(report), allow_nan=False)


def test_a_machine_without_tensorrt_gets_a_report_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing() -> Tools:
        raise ImportError("no libnvinfer.so.10")

    monkeypatch.setattr(Tools, "here", nothing)
    report = accept("tabletop", BuildOptions(), tmp_path, tools=nothing)
    assert not report.passed
    assert report.steps[0]["reason"] == "ImportError: no libnvinfer.so.10"
    assert {check["topic"] for check in report.checks} >= {"machine", "tensorrt"}


def test_the_command_writes_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    assert main(["no-such-bundle", "--out", str(out)]) == 1
    assert json.loads(out.read_text())["passed"] is False
    assert "please send back" in capsys.readouterr().out
