"""NVIDIA's management library by ctypes: energy, clocks, throttling and memory of GPUs, without another package.

Signatures and values are those of nvml.h (CUDA 12). A machine without the library has no GPUs here; what a GPU does not
support is None.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_NAME_LENGTH = 96
_CLOCKS: Mapping[str, int] = {"graphics": 0, "sm": 1, "memory": 2}
_REASONS = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""Bits of `nvmlClocksThrottleReasons` that mean a GPU is slower than it was asked to be."""
_MOST_PROCESSES = 256


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


@dataclass(frozen=True, eq=False)
class Gpu:
    """One GPU of an open library."""

    library: Any
    handle: ctypes.c_void_p
    name: str
    memory_bytes: int

    def energy_joules(self) -> float | None:
        """The energy counter since the driver was loaded (Volta and newer)."""
        spent = ctypes.c_ulonglong()
        done = self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle, ctypes.byref(spent))
        return spent.value / 1e3 if done == 0 else None

    def clocks_mhz(self) -> dict[str, int]:
        """The present clocks by name."""
        clocks, clock = {}, ctypes.c_uint()
        for name, kind in _CLOCKS.items():
            if self.library.nvmlDeviceGetClockInfo(self.handle, kind, ctypes.byref(clock)) == 0:
                clocks[name] = clock.value
        return clocks

    def throttling(self) -> tuple[str, ...]:
        """Why the clocks are held down at this moment."""
        reasons = ctypes.c_ulonglong()
        if self.library.nvmlDeviceGetCurrentClocksThrottleReasons(self.handle, ctypes.byref(reasons)) != 0:
            return ()
        return tuple(name for bit, name in _REASONS.items() if reasons.value & bit)

    def used_bytes(self, pid: int) -> int | None:
        """The GPU memory of a process; None where the driver does not tell (containers) or the process has none."""
        count, processes = ctypes.c_uint(_MOST_PROCESSES), (_Process * _MOST_PROCESSES)()
        if self.library.nvmlDeviceGetComputeRunningProcesses_v3(self.handle, ctypes.byref(count), processes) != 0:
            return None
        own = [process.used for process in processes[: count.value] if process.pid == pid]
        return sum(own) if own else None


class Nvml:
    """The opened library, or nothing; use it as a context manager."""

    def __init__(self, library: Any) -> None:
        self._library = library

    @classmethod
    def open(cls, library: Any = None) -> Nvml:
        """Opens the driver's library; a machine without one gives an `Nvml` without GPUs."""
        if library is None:
            try:
                library = ctypes.CDLL(_LIBRARY)
            except OSError:
                return cls(None)
        return cls(library if library.nvmlInit_v2() == 0 else None)

    def gpus(self) -> Iterator[Gpu]:
        """The GPUs, by index."""
        count = ctypes.c_uint()
        if self._library is None or self._library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return
        for index in range(count.value):
            handle, memory = ctypes.c_void_p(), _Memory()
            name = ctypes.create_string_buffer(_NAME_LENGTH)
            if self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != 0:
                continue
            self._library.nvmlDeviceGetName(handle, name, ctypes.c_uint(_NAME_LENGTH))
            self._library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
            yield Gpu(self._library, handle, name.value.decode(errors="replace"), memory.total)

    def __enter__(self) -> Nvml:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._library is not None:
            self._library.nvmlShutdown()
            self._library = None


def own_device_bytes(nvml: Nvml) -> int | None:
    """GPU memory that this process holds now, over all GPUs; None where there is none or it is not told."""
    used = [held for gpu in nvml.gpus() if (held := gpu.used_bytes(os.getpid())) is not None]
    return sum(used) if used else None
