"""The measurement script from end to end, on the CPU with a small model: it must say so, and must write nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from florence_bench.machine import this_machine
from support.kernels import ROOT, native_library

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SOURCES = ("kernels", "sdk", "training", "benchmarks")


@pytest.fixture(autouse=True)
def library() -> None:
    native_library()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in SOURCES)}
    command = [sys.executable, "-m", "measure", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def results() -> set[Path]:
    """Only what the script might write: other programs may be writing results of their own."""
    return set((ROOT / "benchmarks" / "results" / this_machine().name).glob("kernels-*"))


def test_a_dry_run_walks_through_everything_and_writes_nothing() -> None:
    before = results()
    done = run("--dry", "--tokens", "4", "--dtype", "bf16")
    assert done.returncode == 0, done.stderr
    for line in ("DRY RUN, not a measurement", "window attention 16x16x32", "beam step over 700", "decoder step"):
        assert line in done.stdout
    assert done.stdout.rstrip().endswith("nothing above is a measurement, nothing was written")
    assert "failed" not in done.stdout
    assert results() == before


def test_without_a_gpu_it_refuses_to_measure() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = run()
    assert done.returncode != 0
    assert "finds no CUDA GPU here; --dry" in done.stderr
