"""What commands print: tables, sizes, and a progress bar that keeps out of the way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from florence_edge.cli.output import print_json, table
from florence_edge.units import size

SDK = Path(__file__).parents[2] / "sdk"

LONG_WORK = """
from florence_edge.cli.output import print_json, progress

with progress(3, "long work") as bar:
    for number in range(3):
        print_json({"number": number}, indent=None)
        bar.advance(1, f"step {number}")
"""


def long_work(stderr: int, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", LONG_WORK],
        check=True,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "PYTHONPATH": str(SDK), "TERM": "xterm-256color", "COLUMNS": "120", **variables},
    )


def test_a_terminal_gets_a_bar_and_a_pipe_only_the_output() -> None:
    openpty = pytest.importorskip("pty").openpty
    ours, theirs = openpty()
    done = long_work(theirs)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"number": number} for number in range(3)]
    assert "long work" in shown
    assert "3/3" in shown
    assert "number" not in shown


def test_the_bar_has_no_colours_where_none_are_wanted() -> None:
    openpty = pytest.importorskip("pty").openpty
    shown = []
    for variables in ({}, {"NO_COLOR": "1"}):
        ours, theirs = openpty()
        long_work(theirs, **variables)
        os.close(theirs)
        shown.append(re.findall(r"\x1b\[[\d;]*\b[349]\d\b[\d;]*m", os.read(ours, 1 << 16).decode()))
        os.close(ours)
    assert shown[0]
    assert not shown[1]


def test_without_a_terminal_there_is_no_bar() -> None:
    assert long_work(subprocess.PIPE).stderr == b""


def test_columns_are_aligned_by_what_is_seen() -> None:
    shown = table([("杯子", 1.5), ("cup", 22.25)], header=("label", "x"), right=[1]).splitlines()
    assert shown == ["label      x", "-----  -----", "杯子     1.5", "cup    22.25"]
    assert table([]) == ""


@pytest.mark.parametrize(("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5120.0 GiB")])
def test_sizes_are_for_people(count: int, shown: str) -> None:
    assert size(count) == shown


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "杯"}, indent=None)
    assert capsys.readouterr().out == '{"text": "杯"}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json(float("nan"))
