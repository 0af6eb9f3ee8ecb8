"""`florence-edge doctor` on machines that are not this one: their files, their programs, their drivers."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from florence_edge.backends import kernel_library
from florence_edge.backends.kernel_library import LIBRARY
from florence_edge.backends.tensorrt import plugins
from florence_edge.errors import EnginePluginError
from florence_edge.health import checks, nvidia
from support.kernels import native_library

ORIN_NANO = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan 8 01:49:37 UTC 2025"
)
XAVIER = (
    "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug 1 19:57:35 UTC 2023"
)
THOR = (
    "# R38 (release), REVISION: 2.1, GCID: 42061081, BOARD: generic, EABI: aarch64, DATE: Wed Sep 10 23:00:52 UTC 2025"
)
NVPMODEL = "NV Power Mode: MAXN_SUPER\n2\n"
VERSION_JSON = '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}, "nvcc": {"version": "12.6.68"}}'
NVCC = """nvcc: NVIDIA (R) Cuda compiler driver
Cuda compilation tools, release 13.0, V13.0.88
Build cuda_13.0.r13.0/compiler
"""
LIBCUDA = """
#include <string.h>
int cuInit(unsigned flags) { return FAILS; }
int cuDriverGetVersion(int* version) { *version = 12060; return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int index) { *device = index + 7; return 0; }
int cuDeviceGetName(char* name, int size, int device) { strncpy(name, device == 7 ? "Orin" : "?", size); return 0; }
int cuDeviceGetAttribute(int* value, int which, int device) {
  *value = which == 75 ? 8 : which == 76 ? 7 : -1;
  return device != 7;
}
"""
PLUGINS = """
int florence_plugins_abi_version(void) { return 1; }
int florence_plugins_tensorrt_version(void) { return HEADERS; }
"""


def files(root: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def compiled(folder: Path, name: str, source: str, **macros: int) -> Path:
    """A shared library of a few lines of C."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.c").write_text(source)
    defined = [f"-D{key}={value}" for key, value in macros.items()]
    command = [compiler, "-shared", "-fPIC", *defined, "-o", str(folder / name), str(folder / "source.c")]
    subprocess.run(command, check=True)
    return folder / name


@pytest.mark.parametrize(
    ("release", "shown", "state"),
    [
        (ORIN_NANO, "L4T 36.4.3 (JetPack 6.2)", "fact"),
        (THOR, "L4T 38.2.1 (JetPack 7)", "fact"),
        (XAVIER, "L4T 35.4.1 (JetPack 5)", "absent"),
    ],
)
def test_a_jetson_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, shown: str, state: str
) -> None:
    monkeypatch.setattr(nvidia, "output_of", lambda *command: NVPMODEL if command == ("nvpmodel", "-q") else None)
    assert list(nvidia.jetson(tmp_path)) == []
    board = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    files(tmp_path, etc__nv_tegra_release=release + "\n", **{"proc__device-tree__model": board + "\0"})
    report = {check.name: check for check in nvidia.jetson(tmp_path)}
    assert report["board"].found == board
    assert (report["release"].found, report["release"].state) == (shown, state)
    assert report["power mode"].found == "MAXN_SUPER"
    assert ("JetPack 6.1" in report["release"].fix) is (state == "absent")


def test_jetpacks_own_package_says_it_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "output_of", lambda *command: "6.2.1+b38" if command[0] == "dpkg-query" else None)
    files(tmp_path, etc__nv_tegra_release=ORIN_NANO)
    report = {check.name: check.found for check in nvidia.jetson(tmp_path)}
    assert report["release"] == "L4T 36.4.3 (JetPack 6.2.1+b38)"
    assert report["power mode"].startswith("unknown")


def test_jetpacks_tensorrt_must_be_visible(tmp_path: Path) -> None:
    files(tmp_path, etc__nv_tegra_release=ORIN_NANO)
    (tmp_path / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    report = {check.name: check for check in nvidia.jetson(tmp_path)}
    if importlib.util.find_spec("tensorrt") is None:
        assert report["TensorRT"].state == "wrong"
        assert "--system-site-packages" in report["TensorRT"].fix


def test_the_toolkit_is_read_from_its_file_or_its_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "output_of", lambda *command: NVCC if command[0] == "nvcc" else None)
    library = str(compiled(tmp_path, "libcuda.so.1", LIBCUDA, FAILS=0))
    found = {check.name: check.found for check in nvidia.engines(tmp_path, library)}
    assert found["CUDA toolkit"] == "13.0"
    files(tmp_path, **{"usr__local__cuda__version.json": VERSION_JSON})
    found = {check.name: check.found for check in nvidia.engines(tmp_path, library)}
    assert {"TensorRT", "pycuda", "kernel library", "plugin library"} <= found.keys()
    assert found["CUDA toolkit"] == "12.6.11"


def test_the_driver_is_asked_for_its_devices(tmp_path: Path) -> None:
    library = compiled(tmp_path / "good", "libcuda.so.1", LIBCUDA, FAILS=0)
    report = {check.name: check for check in nvidia.engines(tmp_path, str(library))}
    assert report["CUDA driver"].found == "supports CUDA 12.6"
    assert report["CUDA device 0"].found == "Orin, sm_87"
    broken = compiled(tmp_path / "bad", "libcuda.so.1", LIBCUDA, FAILS=999)
    report = {check.name: check for check in nvidia.engines(tmp_path, str(broken))}
    assert report["CUDA driver"].state == "wrong"
    assert "error 999" in report["CUDA driver"].found
    (check,) = nvidia.engines(tmp_path, "libno-such-driver.so")
    assert check.state == "absent"


def test_the_kernel_library_is_found_and_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_library, "_folders", lambda: [tmp_path])
    assert nvidia._kernels().state == "absent"
    (tmp_path / LIBRARY).write_bytes(b"\x7fELF")
    assert nvidia._kernels().state == "wrong"
    (tmp_path / LIBRARY).write_bytes(native_library().read_bytes())
    check = nvidia._kernels()
    assert check.state == "absent"
    assert "CPU twins only" in check.found
    assert "cmake" in check.fix


def test_the_plugin_library_must_fit_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_library, "_folders", lambda: [tmp_path / "a", tmp_path / "b"])
    assert nvidia._plugins(None).state == "absent"
    assert nvidia._plugins("10.3.0").state == "absent"
    # A library under the wrong name, and one that is no library, are passed over.
    compiled(tmp_path / "a", "libflorence_plugins_trt10.so", PLUGINS, HEADERS=110100)
    check = nvidia._plugins("10.3.0")
    assert check.state == "wrong"
    assert "was built with the headers of TensorRT 11.1.0" in check.found
    compiled(tmp_path / "b", "libflorence_plugins_trt10.so", PLUGINS, HEADERS=100300)
    check = nvidia._plugins("10.7.0")
    assert check.state == "ok"
    assert check.found == f"{tmp_path}/b/libflorence_plugins_trt10.so (ABI 1, TensorRT 10.3 headers)"
    with pytest.raises(EnginePluginError, match=r"no libflorence_plugins_trt11\.so for TensorRT 11.1.0 was found"):
        plugins.find_plugins("11.1.0")


def test_programs_that_hang_or_fail_are_no_answer() -> None:
    assert checks.output_of("no-such-program") is None
    assert checks.output_of("false") is None
    assert checks.output_of("echo", "word") == "word\n"
