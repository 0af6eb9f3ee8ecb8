"""`florence-edge info` and `florence-edge doctor`: true reports, also of machines that are not this one."""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path

import pytest

from florence_edge.backends.registry import Availability
from florence_edge.bundle import Bundle
from florence_edge.cli import doctor
from florence_edge.cli.main import main
from florence_edge.errors import BackendError, missing
from florence_edge.health import checks
from support.fake_backend import FakeBackend, make_bundle


def test_info_shows_the_manifest(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(bundle.folder), "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert known["source"]["licence"] == "Apache-2.0"
    assert known["files"].keys() == {"vision.onnx", "encoder.onnx", "decoder.onnx", "tokenizer.json"}
    assert main(["info", str(bundle.folder)]) == 0
    shown = capsys.readouterr().out
    for part in ("scripted", "fp32", "32 x 32 pixels", "beams 3", "any machine", "not measured", "tokenizer.json"):
        assert part in shown


def test_info_finds_an_altered_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bundle(tmp_path / "bundle").folder
    (folder / "vision.onnx").write_bytes(b"!")
    assert main(["info", str(folder)]) == 1
    assert "vision.onnx has 1 bytes instead of 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "supported", "lies_within"),
    [
        ("1.20", ">=1.20", True),
        ("1.20.0", "==1.20", True),
        ("1.9", ">=1.20", False),
        ("2.0.0rc1", ">=1.26,<2", False),
        ("1.27.4.post1", ">=1.26,<2", True),
        ("10.3", "!=10.3", False),
        ("3.0+cpu", "<=3", True),
        ("3.1", ">3.1", False),
        ("anything", "", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, supported: str, lies_within: bool) -> None:
    assert checks.within(version, supported) is lies_within


def test_libraries_are_judged_by_the_package_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"florence-edge": "0.1.0", "numpy": "1.20", "onnxruntime-gpu": "1.23.2", "Pillow": "11.0"}
    required = [
        "numpy>=1.26",
        "Pillow>=10.3",
        "no-such-tokenizers>=0.20",
        'onnxruntime>=1.20; extra == "onnx"',
        "no-such-pycuda>=2024.1; extra == 'tensorrt'",
        'pytest>=8; extra == "dev"',
        'tomli>=2; python_version < "3.11" and extra == "train"',
        'florence-edge[train,onnx]; extra == "convert"',
    ]

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: required)
    report = {check.name: (check.state, check.fix) for check in checks.libraries()}
    assert report == {
        "florence-edge": ("ok", ""),
        "numpy": ("wrong", "pip install 'numpy>=1.26'"),
        "Pillow": ("ok", ""),
        "no-such-tokenizers": ("wrong", "pip install 'no-such-tokenizers>=0.20'"),
        "onnxruntime-gpu": ("ok", ""),
        "no-such-pycuda": ("absent", "pip install 'florence-edge[tensorrt]'"),
    }


def test_the_machine_is_read_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Cortex-A78AE\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:        8000000 kB\nMemAvailable:    4000000 kB\n")
    report = {check.name: check.found for check in checks.machine(tmp_path)}
    assert report["processor"].startswith("Cortex-A78AE, ")
    assert report["memory"] == "7.6 GiB, 3.8 GiB available"


def known(*names: str) -> tuple[Availability, ...]:
    lacking = str(missing("onnxruntime", extra="onnx", needed_for="the onnx backend"))
    return tuple(Availability(name, name != "lacking", lacking if name == "lacking" else "1.0") for name in names)


def test_backends_open_or_say_why_not(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def open_backend(name: str, bundle: Bundle) -> FakeBackend:
        failures = {"unfit": BackendError("it holds no engines"), "crashing": RuntimeError("undefined symbol")}
        if name in failures:
            raise failures[name]
        return FakeBackend(bundle)

    monkeypatch.setattr(doctor, "open_backend", open_backend)
    monkeypatch.setattr(doctor, "available", lambda: known("good", "lacking", "unfit", "crashing"))
    report = {check.name: check for check in doctor.backends(str(bundle.folder))}
    assert {name: check.state for name, check in report.items()} == {
        "good": "ok",
        "lacking": "absent",
        "unfit": "absent",
        "crashing": "wrong",
    }
    assert "pip install 'florence-edge[onnx]'" in report["lacking"].found
    assert main(["doctor", "--json", "--model", str(bundle.folder)]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["healthy"] is False
    assert {check["topic"] for check in shown["checks"]} >= {"python", "libraries", "machine", "backends"}
    monkeypatch.setattr(doctor, "available", lambda: known("lacking"))
    assert [check.state for check in doctor.backends(str(bundle.folder))] == ["absent", "wrong"]


def test_without_a_bundle_each_backend_is_asked_whether_it_could(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "bundled_names", lambda: ())
    monkeypatch.setattr(doctor, "available", lambda: known("good", "lacking"))
    assert [(check.name, check.state) for check in doctor.backends(None)] == [("good", "ok"), ("lacking", "absent")]


def test_the_text_report_ends_with_what_to_do(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> list[checks.Check]:
        return [checks.Check("libraries", "numpy", "wrong", "1.20 (needs >=1.26)", "pip install 'numpy>=1.26'")]

    monkeypatch.setattr(doctor, "libraries", broken)
    monkeypatch.setattr(doctor, "available", lambda: known("good"))
    monkeypatch.setattr(doctor, "open_backend", lambda name, bundle: FakeBackend(bundle))
    assert main(["doctor", "--model", str(bundle.folder)]) == 1
    shown = capsys.readouterr().out
    assert re.search(r"what to do\n  numpy +pip install 'numpy>=1.26'", shown)
    assert shown.rstrip().endswith("1 thing wrong")


def test_a_bundle_that_cannot_be_opened_is_wrong(tmp_path: Path) -> None:
    (check,) = doctor.backends(str(tmp_path))
    assert check.state == "wrong"
    assert "is no bundle" in check.found
