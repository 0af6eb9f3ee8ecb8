"""The commands of all packages are one house: one name and one meaning per option, readable help, the same manners."""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from florence_edge.cli import EXIT_CODES, FAILED, INTERRUPTED, SLOWER, TERMINATED, USAGE
from florence_edge.cli.main import Parser, build_parser
from florence_edge.cli.options import above_zero, positive

ROOT = Path(__file__).parents[2]
PACKAGES = ("sdk", "training", "converters", "benchmarks")
SHARED = ("--json", "--model", "--backend", "--threads", "--out", "--task", "--input", "--images", "--limit")
"""Options that, wherever they are, are of one type and take one kind of value."""
FORMER = {
    "run od a.png --bundle b --save d": "run od a.png --model b --out d",
    "watch clip.mkv --task od --bundle b": "watch clip.mkv --task od --model b",
    "demo d --bundle=b": "demo d --model b",
    "doctor --bundle b": "doctor --model b",
    "build b --output d": "build b --out d",
    "annotate photos --output d --tasks od caption": "annotate photos --out d --task od --task caption",
    "iterate r.toml photos --clean c --output d --tasks od": "iterate r.toml photos --clean c --out d --task od",
    "bench b --task od --input cup ball": "bench b --task od --input cup --input ball",
}


@pytest.fixture(scope="module")
def commands() -> dict[str, Parser]:
    """The parsers of every command by name."""
    parser = build_parser(["--help"])
    (action,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def options(commands: dict[str, Parser]) -> Iterator[tuple[str, argparse.Action]]:
    """Every option that help shows, with the command it is of."""
    for name, parser in commands.items():
        for action in parser._actions:
            if action.option_strings and action.help != argparse.SUPPRESS:
                yield name, action


def test_help_fits_80_columns_and_says_something_of_every_option(
    commands: dict[str, Parser], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert len(commands) >= 16
    for name, parser in commands.items():
        shown = parser.format_help().splitlines()
        assert not [line for line in shown if len(line) > 80 or line != line.rstrip()], name
        assert not [action.dest for action in parser._actions if not action.help], name
        assert parser.description, name


def test_an_option_is_the_same_in_every_command(commands: dict[str, Parser]) -> None:
    found: dict[str, set[object]] = {name: set() for name in SHARED}
    for name, action in options(commands):
        for option in set(action.option_strings) & set(SHARED):
            if (name, option) != ("annotate", "--input") and (name, option) != ("iterate", "--input"):  # TASK=TEXT
                found[option].add((action.type, action.metavar, isinstance(action, argparse._StoreTrueAction)))
    assert {option: len(kinds) for option, kinds in found.items()} == dict.fromkeys(SHARED, 1)


def test_every_command_can_print_json(commands: dict[str, Parser]) -> None:
    assert {name for name, action in options(commands) if "--json" in action.option_strings} == set(commands)


def test_numbers_have_a_unit_or_a_letter_for_it(commands: dict[str, Parser]) -> None:
    for name, action in options(commands):
        if action.type in (int, float, positive, above_zero):
            assert action.metavar, f"{name} {action.option_strings}"


@pytest.mark.parametrize("former", FORMER)
def test_former_names_still_work_and_are_not_shown(former: str, commands: dict[str, Parser]) -> None:
    parser = build_parser(["--help"])
    before, now = (vars(parser.parse_args(line.split())) for line in (former, FORMER[former]))
    assert before == now
    gone = {word.partition("=")[0] for word in former.split() if word.startswith("--")} - set(FORMER[former].split())
    shown = commands[former.split()[0]].format_help()
    assert not [name for name in gone if f"{name} " in shown]


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        build_parser(["run"]).parse_args(["run", "od", "a.png", "--thread", "3"])
    assert stop.value.code == USAGE
    assert "unrecognized arguments: --thread 3; did you mean --threads?" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "nan"])
def test_counts_are_whole_and_above_zero(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no whole number of 1 or more"):
        positive(text)


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "nan", "inf"])
def test_amounts_are_finite_and_above_zero(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no number above 0"):
        above_zero(text)


def test_the_help_explains_every_exit_code() -> None:
    explained = [int(line.split()[0]) for line in EXIT_CODES.splitlines()[1:]]
    assert explained == [0, FAILED, USAGE, SLOWER, INTERRUPTED, TERMINATED]
    assert EXIT_CODES in build_parser(["--help"]).format_help()


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_costs_only_what_would_be_printed_there(closed: str) -> None:
    number = {"stdout": 1, "stderr": 2}[closed]
    done = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -m florence_edge.cli.main info {number}>&-'],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "sdk")},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (closed == "stderr")


def test_only_command_lines_import_the_command_line() -> None:
    users = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("florence_edge.cli"):
                users.add(path.relative_to(ROOT).as_posix())
    assert {path for path in users if "/cli/" not in path} == {
        "benchmarks/florence_bench/cli.py",
        "converters/florence_convert/build/command.py",
        "converters/florence_convert/cli.py",
        "converters/florence_convert/demo.py",  # made for `florence-edge demo`, and shows its progress
        "converters/florence_convert/loss_options.py",
        "training/florence_train/annotate/cli.py",
        "training/florence_train/cli.py",
        "training/florence_train/data_options.py",
        "training/florence_train/train_command.py",
    }
