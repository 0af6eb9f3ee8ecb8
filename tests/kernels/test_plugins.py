"""TensorRT plugins, built from headers alone: their life, and what the library exports, needs and is built with."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.kernels import ROOT, build, tool

PLUGINS = ROOT / "kernels" / "plugins"
CTESTS = (
    "plugin_life_emulated",
    "plugin_life",
    "plugin_registration_load",
    "plugin_registration_autoregister",
    "plugin_registration_absent",
    "plugin_registration_other",
)
SYSTEM_LIBRARIES = {"libstdc++", "libm", "libgcc_s", "libc", "libdl", "librt", "libpthread"}
LOADERS = {"ld-linux-x86-64", "ld-linux-aarch64"}


def architecture() -> str:
    """Of this machine's GPU; where there is none, Orin's."""
    if shutil.which("nvidia-smi") is None:
        return "87"
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    found = subprocess.run(query, check=False, capture_output=True, text=True)
    return found.stdout.split()[0].replace(".", "") if found.returncode == 0 else "87"


@pytest.fixture(scope="module")
def folder() -> Path:
    """The build folder of the plugins."""
    options = ("-DFLORENCE_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={architecture()}-real")
    return build("plugins", "all", *options, f"-DTENSORRT_ROOT={Path(os.environ['TENSORRT_ROOT']).resolve()}")


@pytest.fixture(scope="module")
def library(folder: Path) -> Path:
    """The newest, since TENSORRT_ROOT may have named another major version before."""
    found = (folder / "kernels" / "plugins").glob("libflorence_plugins_trt[0-9][0-9].so")
    return max(found, key=lambda path: path.stat().st_mtime)


def lines_of(*command: str) -> list[str]:
    return subprocess.run([tool(command[0]), *command[1:]], check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )


@pytest.mark.nvinfer_headers
@pytest.mark.parametrize("name", CTESTS)
def test_life_and_registration(folder: Path, name: str) -> None:
    command = [tool("ctest"), "--test-dir", str(folder), "--output-on-failure", "-R", f"^{name}$"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "100% tests passed, 0 tests failed out of 1" in done.stdout, done.stdout + done.stderr


@pytest.mark.nvinfer_headers
def test_exports_the_entry_points_and_the_probes_only(library: Path) -> None:
    exported = {line.split()[-1] for line in lines_of("nm", "-D", "--defined-only", str(library)) if line}
    probes = {"florence_plugins_abi_version", "florence_plugins_tensorrt_version"}
    assert exported == {"getCreators", "setLoggerFinder"} | probes


@pytest.mark.nvinfer_headers
def test_needs_nothing_of_tensorrt_or_of_a_cuda_major(library: Path) -> None:
    undefined = lines_of("nm", "-D", "--undefined-only", str(library))
    assert not [line for line in undefined if re.search("infer|plugin|cuda", line, re.IGNORECASE)]
    needed = {
        found.group(1) for line in lines_of("readelf", "-d", str(library)) if (found := re.search(r"\[(.*)\.so", line))
    }
    assert needed
    assert needed <= SYSTEM_LIBRARIES | LOADERS


@pytest.mark.nvinfer_headers
def test_probes_answer_without_tensorrt(library: Path) -> None:
    loaded = ctypes.CDLL(str(library))
    header = (PLUGINS / "florence_plugins.h").read_text()
    (abi,) = re.findall(r"define FLORENCE_PLUGINS_ABI_VERSION (\d+)", header)
    assert loaded.florence_plugins_abi_version() == int(abi)
    assert f"trt{loaded.florence_plugins_tensorrt_version() // 10000}.so" in library.name


@pytest.mark.parametrize(
    ("macros", "expected"),
    [
        (
            "NV_TENSORRT_MAJOR 10 //!\n#define NV_TENSORRT_MINOR 3 //!\n#define NV_TENSORRT_PATCH 0 //!",
            "headers 10.3.0 in",
        ),
        (
            "TRT_MAJOR_ENTERPRISE 11\n#define TRT_MINOR_ENTERPRISE 1\n#define TRT_PATCH_ENTERPRISE 2\n"
            "#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE //!",
            "headers 11.1.2 in",
        ),
        (
            "NV_TENSORRT_MAJOR 10 //!\n#define NV_TENSORRT_MINOR 2 //!\n#define NV_TENSORRT_PATCH 0 //!",
            "are 10.2.0, 10.3 is needed",
        ),
    ],
)
def test_headers_are_recognised_in_both_spellings(cmake: str, macros: str, expected: str, tmp_path: Path) -> None:
    include = tmp_path / "include"
    include.mkdir()
    (include / "NvInferRuntime.h").touch()
    (include / "NvInferVersion.h").write_text(f"#define {macros}\n")
    given = ["-DFLORENCE_HAS_CUDA=ON", f"-DTENSORRT_ROOT={tmp_path}", "-P", str(PLUGINS / "tensorrt.cmake")]
    done = subprocess.run([cmake, *given], check=True, capture_output=True, text=True)
    assert expected in done.stdout
