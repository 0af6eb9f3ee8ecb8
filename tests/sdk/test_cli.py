"""The command itself: subcommands, those of other packages, messages and exit codes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from florence_edge import __version__
from florence_edge.cli import UsageError
from florence_edge.cli.main import OWN, build_parser, main
from florence_edge.errors import BundleError

SDK = Path(__file__).parents[2] / "sdk"


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "florence_edge.cli.main", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SDK), **environment},
    )


def leaves(arguments: list[str]) -> int | str | None:
    """The exit code of a command line that argparse ends."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packages with commands, one of them broken, beside the SDK."""
    entries = [
        EntryPoint("broken", "no_such_package.cli:register", "florence_edge.commands"),
        EntryPoint("fail", f"{__name__}:register_fail", "florence_edge.commands"),
    ]
    monkeypatch.setattr("florence_edge.cli.main.entry_points", lambda group: entries)


def register_fail(subparsers: Any) -> None:
    parser = subparsers.add_parser("fail", help="raise")
    parser.add_argument("kind")
    parser.set_defaults(run=_fail)


def _fail(arguments: argparse.Namespace) -> int:
    raise {
        "usage": UsageError("these do not go together"),
        "bundle": BundleError("a bad bundle"),
        "interrupt": KeyboardInterrupt(),
        "bug": TypeError("a bug"),
        "disk": OSError(28, "No space left"),
        "place": PermissionError(13, "Permission denied", "out"),
    }[arguments.kind]


def test_the_version_is_printed_by_the_real_command() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, f"florence-edge {__version__}", "")


def test_help_lists_the_commands_of_all_packages(plugins: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert leaves(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"    {name}" in shown for name in ("demo", "run", "info", "doctor", "fail"))
    assert "the commands of 'broken'" in shown


@pytest.mark.parametrize(("word", "meant"), [("ruin", "'run'"), ("docter", "'doctor'"), ("fial", "'fail'")])
def test_a_misspelled_command_gets_a_suggestion(
    plugins: None, capsys: pytest.CaptureFixture[str], word: str, meant: str
) -> None:
    assert leaves([word]) == 2
    shown = capsys.readouterr().err
    assert f"did you mean {meant}?" in shown
    assert "the commands of 'broken' (no_such_package.cli:register) are absent: No module named" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["run"],
        ["run", "od"],
        ["info", "--nonsense"],
        ["zzzz"],
        ["run", "od", "a.png", "--batch", "0"],
        ["run", "od", "a.png", "--beams", "x"],
    ],
)
def test_a_wrong_command_line_ends_with_2_and_one_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert leaves(arguments) == 2
    assert capsys.readouterr().err.count("error:") == 1


def test_what_is_left_over_is_said_by_the_command_it_was_given_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert leaves(["run", "od", "a.png", "--inptu", "cup"]) == 2
    assert capsys.readouterr().err == (
        "florence-edge run: error: unrecognized arguments: --inptu cup; did you mean --input?\n"
        "try: florence-edge run --help\n"
    )


@pytest.mark.parametrize(
    "given",
    [
        ["run", "od", "a.png", "--beams", "1", "b.png"],
        ["run", "--beams", "1", "od", "a.png", "b.png"],
        ["run", "od", "--beams", "1", "--", "a.png", "b.png"],
    ],
)
def test_options_may_stand_between_file_names(given: list[str]) -> None:
    options = build_parser(given).parse_args(given)
    assert (options.task, options.images, options.beams) == ("od", ["a.png", "b.png"], 1)


@pytest.mark.parametrize("name", OWN)
def test_help_fits_a_terminal_of_80_columns(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert leaves([name, "--help"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    assert not [line for line in shown if line != line.rstrip()]


def test_names_and_terminals_of_any_encoding_cost_a_character_and_not_the_command(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    script = (
        "import sys; from florence_edge.cli import main, doctor, output; word = sys.argv[1]; "
        "doctor.run = lambda given: output.print_json({'name': word}, indent=None) or print(word) or 0; "
        "sys.exit(main.main(['doctor']))"
    )
    for encoding, word in (("utf-8", name), ("ascii", "杯"), ("latin-1", "é"), ("latin-1", "杯")):
        done = subprocess.run(
            [sys.executable, "-c", script, word],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(SDK), "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"},
        )
        document, line = done.stdout.decode(encoding).splitlines()
        assert json.loads(document) == {"name": word}
        assert line == word.encode(encoding, "backslashreplace").decode(encoding)


def test_a_broken_package_costs_only_its_own_commands(plugins: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fail", "bundle"]) == 1
    assert main(["info", "nowhere"]) == 1
    assert "no_such_package" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "code", "shown"),
    [
        ("bundle", 1, "florence-edge: error: a bad bundle"),
        ("disk", 1, "florence-edge: error: No space left"),
        ("place", 1, "florence-edge: error: out: Permission denied"),
        ("usage", 2, "florence-edge: error: these do not go together"),
        ("interrupt", 130, "florence-edge: interrupted"),
        ("bug", 1, "florence-edge: internal error: TypeError: a bug; FLORENCE_DEBUG=1 shows where"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    plugins: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    code: int,
    shown: str,
) -> None:
    monkeypatch.delenv("FLORENCE_DEBUG", raising=False)
    assert main(["fail", kind]) == code
    assert capsys.readouterr().err == f"{shown}\n"
    monkeypatch.setenv("FLORENCE_DEBUG", "1")
    assert main(["fail", kind]) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_bundle_is_one_line_of_the_real_command() -> None:
    done = command("info", "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("florence-edge: error: 'nowhere' is no bundle")
    assert done.stderr.count("\n") == 1
    assert "Traceback" in command("info", "nowhere", FLORENCE_DEBUG="1").stderr


def test_a_reader_that_goes_away_is_no_error_worth_a_trace() -> None:
    script = (
        "import os, sys; from florence_edge.cli import doctor, main; "
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1); "
        "doctor.run = lambda arguments: print('x') or 0; sys.exit(main.main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SDK)},
    )
    assert (done.returncode, done.stderr) == (1, "")
