"""Every CUDA source compiles for the architectures of the project, without warnings and without spilled registers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support.kernels import ROOT

SOURCES = sorted((ROOT / "kernels" / "cuda").glob("*.cu"))
ARCHITECTURES = {
    12.0: ("75", "87", "90"),
    12.8: ("75", "87", "90", "101", "120"),
    13.0: ("75", "87", "90", "110", "120"),
}
"""By the first CUDA version that a row holds for."""


def nvcc_version(nvcc: str) -> float:
    text = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"release (\d+\.\d+)", text)
    assert found is not None
    return float(found.group(1))


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_warnings_and_no_spills(nvcc: str, source: Path, tmp_path: Path) -> None:
    row = ARCHITECTURES[max(version for version in ARCHITECTURES if version <= nvcc_version(nvcc))]
    kernels = source.parents[1]
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in row]
    includes = [f"-I{kernels / folder}" for folder in ("include", "src", "cuda")]
    options = ["-std=c++17", "-O3", "-Xcompiler=-Wall,-Wextra", "-Xptxas=-v", "-c", "-o", str(tmp_path / "object.o")]
    command = [nvcc, *options, *targets, *includes, str(source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert set(spills) <= {("0", "0")}, spills
    compiled = len(re.findall(r"Compiling entry function", done.stderr))
    assert compiled == 0 if source.stem == "graph" else compiled >= len(row)
