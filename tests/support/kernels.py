"""Builds the native library for the tests and calls it by ctypes. Structs come from the C header, their only owner."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "kernels" / "include" / "florence_kernels.h"
Array = npt.NDArray[Any]

DTYPES: dict[str, tuple[int, Any]] = {
    "fp32": (0, np.float32),
    "fp16": (1, np.float16),
    "bf16": (2, ml_dtypes.bfloat16),
}
_FIELDS = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "float": ctypes.c_float}


class RefusedError(Exception):
    """A launcher returned a status other than 0."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"status {status}: {message}")
        self.status = status


class Memory(Protocol):
    """Where a library expects its tensors."""

    def upload(self, array: Array) -> int: ...
    def download(self, address: int, array: Array) -> None: ...
    def release(self, address: int) -> None: ...
    def synchronize(self) -> None: ...


class HostMemory:
    """Copies between guard bytes, so that a write past either end of a tensor fails the test that caused it."""

    GUARD = 256

    def __init__(self) -> None:
        self._blocks: dict[int, Array] = {}

    def upload(self, array: Array) -> int:
        guard = self.GUARD
        block = np.full(array.nbytes + 3 * guard, 0xA5, np.uint8)
        start = guard + -int(block.ctypes.data) % guard
        block[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        address = int(block.ctypes.data) + start
        self._blocks[address] = block
        return address

    def download(self, address: int, array: Array) -> None:
        block = self._blocks[address]
        start = address - int(block.ctypes.data)
        end = start + array.nbytes
        assert (block[:start] == 0xA5).all(), "bytes before a tensor were overwritten"
        assert (block[end:] == 0xA5).all(), "bytes after a tensor were overwritten"
        array.reshape(-1).view(np.uint8)[:] = block[start:end]

    def release(self, address: int) -> None:
        del self._blocks[address]

    def synchronize(self) -> None:
        pass


@functools.cache
def structs() -> dict[str, type[ctypes.Structure]]:
    """Every struct of the header by its name."""
    found = {}
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", text, flags=re.S):
        fields: list[tuple[str, Any]] = []
        for kind, declared in re.findall(r"(\w+\*?) ([^;]+);", body):
            for item in declared.split(","):
                field, _, count = item.strip().rstrip("]").partition("[")
                base: Any = ctypes.c_void_p if kind.endswith("*") else _FIELDS[kind]
                fields.append((field, base * int(count) if count else base))
        found[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return found


def dims(name: str, **values: Any) -> ctypes.Structure:
    """A dims struct with every field given: a missing or unknown one is an error."""
    kind = structs()[f"florence_{name}_dims"]
    given, wanted = set(values), {field[0] for field in kind._fields_}
    assert given == wanted, f"{name}: missing {wanted - given}, unknown {given - wanted}"
    return kind(**{key: tuple(value) if isinstance(value, (list, tuple)) else value for key, value in values.items()})


class Kernels:
    """One loaded library. `suffix` "_cpu" calls the twins, "" the device launchers."""

    def __init__(self, path: Path, suffix: str, memory: Memory) -> None:
        self.library = ctypes.CDLL(str(path))
        self.suffix = suffix
        self.memory = memory
        for name in ("florence_last_error", "florence_status_string", "florence_version", "florence_cuda_archs"):
            getattr(self.library, name).restype = ctypes.c_char_p

    def bytes_for(self, function: str, dims: ctypes.Structure) -> int:
        size = getattr(self.library, function)
        size.restype = ctypes.c_size_t
        return int(size(ctypes.byref(dims)))

    def bind(self, dims: ctypes.Structure, block: int, state: ctypes.Structure) -> None:
        """Fills a florence_beam_state with pointers into a block of the library's memory."""
        bind = self.library.florence_beam_state_bind
        assert bind(ctypes.byref(dims), ctypes.c_void_p(block), ctypes.byref(state)) == 0, self.last_error()

    def last_error(self) -> str:
        return str(self.library.florence_last_error().decode())

    def status(self, op: str, *arguments: Any) -> int:
        """Calls a launcher: numpy arrays go as their own address, integers as an address, structs by reference."""
        return int(getattr(self.library, op + self.suffix)(*map(_as_pointer, arguments)))

    def checked(self, op: str, *arguments: Any) -> None:
        if status := self.status(op, *arguments):
            raise RefusedError(status, self.last_error() or self.library.florence_status_string(status).decode())

    def run(self, op: str, dims: ctypes.Structure, *arrays: Array | None) -> None:
        """Runs one operation on numpy arrays, which hold its results afterwards; None passes NULL."""
        workspace = self.workspace(op, dims)
        every = [*arrays] if workspace is None else [*arrays, workspace]
        addresses = [None if array is None else self.memory.upload(array) for array in every]
        self.checked(op, dims, *addresses, None)
        self.memory.synchronize()
        for address, array in zip(addresses, every, strict=True):
            if array is not None and address is not None:
                self.memory.download(address, array)
                self.memory.release(address)

    def workspace(self, op: str, dims: ctypes.Structure) -> Array | None:
        """Scratch memory of NaN bytes, so that reading before writing shows; None for an operation that takes none."""
        sized = {
            "florence_resize_normalize",
            "florence_channel_attention",
            "florence_decoder_cross_attention",
            "florence_beam_step",
        }
        if op not in sized:
            return None
        size = 16 if self.suffix else self.bytes_for(f"{op}_workspace", dims)
        return np.full(max(size, 16), 0xFF, np.uint8)


def _as_pointer(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data)
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    return ctypes.c_void_p(argument)


def tool(name: str) -> str:
    """The path of a build tool; the one place that skips a test where there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} was not found, so the kernels cannot be built here")
    return path


def build(folder: str, target: str, *options: str) -> Path:
    """Configures and builds one target below build/ (a no-op when nothing changed); returns the build folder."""
    for name in ("cmake", os.environ.get("CXX", "c++")):
        tool(name)
    where = ROOT / "build" / folder
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(where), "-DCMAKE_BUILD_TYPE=Release", *options],
        ["cmake", "--build", str(where), "--target", target, "--parallel", "2"],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return where


def native_library() -> Path:
    """Builds the library with the CPU twins, where the package looks for it."""
    return build("native", "florence_kernels", "-DFLORENCE_CUDA=OFF") / "kernels" / "libflorence_kernels.so"


@functools.cache
def load(implementation: str) -> Kernels:
    """`twin`: plain C++. `emulated`: the CUDA sources, run by the emulator. `cuda`: the CUDA kernels on this GPU."""
    if implementation == "cuda":
        from support.cuda_memory import CudaMemory

        memory = CudaMemory()
        where = build("gpu", "florence_kernels", "-DFLORENCE_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=native")
        return Kernels(where / "kernels" / "libflorence_kernels.so", "", memory)
    if implementation == "emulated":
        where = build("native", "florence_kernels_emulated", "-DFLORENCE_CUDA=OFF")
        return Kernels(where / "kernels" / "emulator" / "libflorence_kernels_emulated.so", "", HostMemory())
    return Kernels(native_library(), "_cpu", HostMemory())
