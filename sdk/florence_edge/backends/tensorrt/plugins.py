"""The plugin library: found, asked for its versions before TensorRT may touch it, and registered once in a process."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from florence_edge.backends.kernel_library import FOLDERS_VARIABLE, find
from florence_edge.errors import EnginePluginError, listing

from .surface import TensorRT

BUILD = (
    "TENSORRT_ROOT=<folder of the TensorRT headers> cmake -S . -B build/gpu -DCMAKE_CUDA_ARCHITECTURES=native && "
    "cmake --build build/gpu --parallel"
)
"""Builds the library in a checkout; on a Jetson the headers are found without TENSORRT_ROOT."""

_VERSION, _NAMESPACE = "1", ""
_registering = threading.Lock()


@dataclass(frozen=True)
class PluginLibrary:
    """A library that fits a TensorRT: its ABI number and the version of the headers it was built with (100300)."""

    path: Path
    abi: int
    headers: int


def file_name(major: int) -> str:
    """The library for a major version of TensorRT."""
    return f"libflorence_plugins_trt{major}.so"


def find_plugins(tensorrt_version: str) -> PluginLibrary:
    """The first library of this machine that fits; `EnginePluginError` lists those that do not and why.

    A library of another major version would crash TensorRT when it logs, so it is asked by ctypes first.
    """
    major = int(tensorrt_version.split(".")[0])
    passed = []
    for path in find(file_name(major)):
        try:
            library = probe(path)
        except EnginePluginError as error:
            passed.append(str(error))
            continue
        if library.headers // 10000 == major:
            return library
        passed.append(f"{path} was built with the headers of TensorRT {_shown(library.headers)}")
    title = f"no {file_name(major)} for TensorRT {tensorrt_version} was found; in a checkout run: {BUILD}"
    raise EnginePluginError(listing(f"{title}; or name its folder in {FOLDERS_VARIABLE}", passed))


def probe(path: Path) -> PluginLibrary:
    """Opens a library and asks for its versions; `EnginePluginError` where that fails."""
    try:
        library = ctypes.CDLL(str(path))
        return PluginLibrary(
            path, int(library.florence_plugins_abi_version()), int(library.florence_plugins_tensorrt_version())
        )
    except (OSError, AttributeError) as error:
        raise EnginePluginError(f"{path} is no library of florence-edge plugins: {error}") from error


def register(tensorrt: TensorRT, library: PluginLibrary, names: Iterable[str]) -> None:
    """Makes plugins known to TensorRT; what is registered already is left as it is.

    The registry refuses a library of which it knows any plugin, so it is asked for each of them first.
    """
    registry = tensorrt.get_plugin_registry()

    def unknown() -> list[str]:
        return [name for name in names if registry.get_creator(name, _VERSION, _NAMESPACE) is None]

    with _registering:
        if unknown():
            registry.load_library(str(library.path))
        if absent := unknown():
            raise EnginePluginError(
                f"TensorRT {tensorrt.__version__} did not take {', '.join(absent)} from {library.path}; another "
                f"library may have registered some of its plugins, or it is damaged: build it again: {BUILD}"
            )


def _shown(headers: int) -> str:
    return f"{headers // 10000}.{headers // 100 % 100}.{headers % 100}"
