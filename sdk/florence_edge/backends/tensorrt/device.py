"""One GPU: its primary context, made current around every use, and the memory taken from it.

The primary context is the one that TensorRT, the kernels' CUDA runtime and other frameworks of the process use. Each
`active` block pushes it on the calling thread and pops it again, so worker threads work and callers keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from florence_edge.errors import BackendError
from florence_edge.geometry import AnyArray

from . import surface
from .surface import CudaStream, Driver

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: work on the default stream does not wait for ours, nor ours for it


class Device:
    """A GPU by its number."""

    def __init__(self, driver: Driver, number: int = 0) -> None:
        self.driver = driver
        try:
            driver.init()
            device = driver.Device(number)
            self.name = device.name()
            major, minor = device.compute_capability()
            self.processors = int(device.get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT))
            self._context = device.retain_primary_context()
        except driver.Error as error:
            raise BackendError(f"GPU {number} cannot be opened: {error}; see florence-edge doctor") from error
        self.sm = 10 * major + minor
        """Compute capability, 87 for 8.7."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes the device current on this thread; what CUDA reports becomes a `BackendError`."""
        try:
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()
        except self.driver.Error as error:
            raise BackendError(
                f"CUDA failed: {error}; if memory ran out, use fewer or smaller batches, or build with --low-memory"
            ) from error

    def stream(self) -> CudaStream:
        """A new stream that the default stream does not wait for."""
        return self.driver.Stream(_NON_BLOCKING)


class Memory:
    """Device and pinned host memory that is freed together."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._blocks: list[surface.Allocation] = []

    def take(self, size: int) -> int:
        """The address of `size` bytes of device memory."""
        block = self._device.driver.mem_alloc(max(size, 1))
        self._blocks.append(block)
        return int(block)

    def pinned(self, shape: Sequence[int], dtype: Any) -> AnyArray:
        """A page-locked array of zeros, which the device reads and writes without a copy of its own."""
        array = self._device.driver.pagelocked_empty(tuple(shape), np.dtype(dtype))
        array[...] = 0
        return array

    def free(self) -> None:
        """Gives the device memory back; the device must be active and idle. Pinned arrays go with their last user."""
        for block in self._blocks:
            block.free()
        self._blocks.clear()
