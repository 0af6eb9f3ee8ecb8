"""What `florence-edge doctor` looks at on NVIDIA machines: a Jetson's release and power mode, CUDA, TensorRT, and the
native libraries that engines need.

The driver is asked by ctypes and not through pycuda, whose absence is one of the things to find. No context is opened.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path

from florence_edge.backends.kernel_library import BUILD, LIBRARY, KernelLibrary, find
from florence_edge.backends.tensorrt import plugins
from florence_edge.backends.tensorrt.libraries import OLDEST, driver, tensorrt
from florence_edge.errors import BackendError, DependencyError, EnginePluginError

from .checks import Check, output_of, text_of

_JETPACK = {
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "38.2.0": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.2": "7.2.2",
}
"""JetPack of a Linux for Tegra release; of any other only the major version is told."""
_JETPACK_MAJOR = {35: "5", 36: "6", 38: "7", 39: "7"}
_OLDEST_RELEASE = (36, 4)
_RELEASE = re.compile(r"R(\d+) \(release\), REVISION: (\d+)\.(\d+)")
_SM_MAJOR, _SM_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NAME_BYTES = 100


def jetson(root: Path = Path("/")) -> Iterator[Check]:
    """Board, release and power mode of a Jetson; nothing on any other machine. `root` is where `etc` and `proc` lie."""
    release = _RELEASE.search(text_of(root / "etc/nv_tegra_release"))
    if release is None:
        return
    board = text_of(root / "proc/device-tree/model").strip("\0\n ")
    yield Check("jetson", "board", "fact", board or "unknown")
    major, minor, patch = map(int, release.groups())
    l4t = f"{major}.{minor}.{patch}"
    package = output_of("dpkg-query", "--showformat=${Version}", "--show", "nvidia-jetpack")
    jetpack = package or _JETPACK.get(l4t) or _JETPACK_MAJOR.get(major)
    found = f"L4T {l4t}" + (f" (JetPack {jetpack})" if jetpack else "")
    old = (major, minor) < _OLDEST_RELEASE
    fix = "engines need TensorRT 10.3: flash JetPack 6.1 or later" if old else ""
    yield Check("jetson", "release", "absent" if old else "fact", found, fix)
    mode = re.search(r"NV Power Mode:\s*(.+)", output_of("nvpmodel", "-q") or "")
    yield Check("jetson", "power mode", "fact", mode[1].strip() if mode else "unknown: nvpmodel -q does not answer")
    system = sorted(root.glob("usr/lib/python3*/dist-packages/tensorrt"))
    if system and importlib.util.find_spec("tensorrt") is None:
        fix = "python3 -m venv --system-site-packages .venv (JetPack's TensorRT is a system package)"
        yield Check("jetson", "TensorRT", "wrong", f"{system[0]} is not visible from this environment", fix)


def engines(root: Path = Path("/"), cuda: str = "libcuda.so.1") -> Iterator[Check]:
    """What engines need, where there is a driver at all. It is optional; wrong is what is there and does not fit."""
    try:
        library = ctypes.CDLL(cuda)
    except OSError:
        yield Check("tensorrt", "CUDA driver", "absent", f"{cuda} is not there: no NVIDIA driver, so no engines")
        return
    yield from _driver(library)
    toolkit = _toolkit(root)
    yield Check(
        "tensorrt", "CUDA toolkit", "fact" if toolkit else "absent", toolkit or "not found; only builds need it"
    )
    version = None
    try:
        version = str(tensorrt().__version__)
        yield Check("tensorrt", "TensorRT", "ok", f"{version} (needs >={'.'.join(map(str, OLDEST))})")
    except DependencyError as error:
        yield Check("tensorrt", "TensorRT", "absent", str(error))
    try:
        driver()
        yield Check("tensorrt", "pycuda", "ok", "can be imported")
    except DependencyError as error:
        yield Check("tensorrt", "pycuda", "absent", str(error))
    yield _kernels()
    yield _plugins(version)


def _driver(cuda: ctypes.CDLL) -> Iterator[Check]:
    """The CUDA version that the driver supports, and the GPUs it knows with their compute capability."""
    version, count, code = ctypes.c_int(), ctypes.c_int(), cuda.cuInit(0)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    shown = f"supports CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    if code or cuda.cuDeviceGetCount(ctypes.byref(count)):
        fix = "reboot after a driver update; in a container start it with GPU access (--gpus all, --runtime nvidia)"
        yield Check("tensorrt", "CUDA driver", "wrong", f"{shown}, but finds no device (error {code})", fix)
        return
    yield Check("tensorrt", "CUDA driver", "ok", shown)
    for index in range(count.value):
        device, label = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetName(label, _NAME_BYTES, device)
        numbers = [ctypes.c_int(), ctypes.c_int()]
        for number, attribute in zip(numbers, (_SM_MAJOR, _SM_MINOR), strict=True):
            cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        sm = "".join(str(number.value) for number in numbers)
        yield Check("tensorrt", f"CUDA device {index}", "fact", f"{label.value.decode()}, sm_{sm}")


def _toolkit(root: Path) -> str | None:
    """The CUDA toolkit's version."""
    try:
        found = json.loads(text_of(root / "usr/local/cuda/version.json"))
        return str(found["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        pass
    release = re.search(r"release ([\d.]+)", output_of("nvcc", "--version") or "")
    return release[1] if release else None


def _kernels() -> Check:
    """The kernel library: the first that opens with CUDA, else what is wrong with what was found."""
    found = []
    for path in find(LIBRARY):
        try:
            library = KernelLibrary(path)
        except BackendError as error:
            return Check("tensorrt", "kernel library", "wrong", str(error), BUILD)
        if library.cuda_version:
            built = f"CUDA {library.cuda_version // 1000}.{library.cuda_version % 1000 // 10}"
            return Check("tensorrt", "kernel library", "ok", f"{path} ({built} for {library.architectures})")
        found.append(f"{path} (CPU twins only)")
    return Check("tensorrt", "kernel library", "absent", ", ".join(found) or f"no {LIBRARY} was found", BUILD)


def _plugins(version: str | None) -> Check:
    """The plugin library for the TensorRT that is there."""
    if version is None:
        return Check("tensorrt", "plugin library", "absent", "not looked for: which one is needed is up to TensorRT")
    try:
        library = plugins.find_plugins(version)
    except EnginePluginError as error:
        present = bool(find(plugins.file_name(int(version.split(".")[0]))))
        return Check("tensorrt", "plugin library", "wrong" if present else "absent", str(error), plugins.BUILD)
    headers = f"{library.headers // 10000}.{library.headers // 100 % 100}"
    return Check("tensorrt", "plugin library", "ok", f"{library.path} (ABI {library.abi}, TensorRT {headers} headers)")
