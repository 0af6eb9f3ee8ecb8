"""The part of TensorRT, pycuda and the kernels that this backend uses, typed: all of it, and nothing else.

Every name exists, with this meaning, in the Python bindings of TensorRT 10.3 and 11.1 and in pycuda 2024.1 to 2026.1.
`libraries` hands out the real modules, and no other module of this package imports them.
"""

# ruff: noqa: D102 (the libraries document their own methods)

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from florence_edge.geometry import AnyArray


class Allocation(Protocol):
    """`pycuda.driver.DeviceAllocation`: device memory, at least 256-byte aligned."""

    def __int__(self) -> int: ...
    def free(self) -> None: ...


class CudaStream(Protocol):
    """`pycuda.driver.Stream`."""

    @property
    def handle(self) -> int: ...
    def synchronize(self) -> None: ...
    def is_done(self) -> bool: ...


class PrimaryContext(Protocol):
    """`pycuda.driver.Context` of `Device.retain_primary_context`."""

    def push(self) -> None: ...
    def pop(self) -> None: ...


class CudaDevice(Protocol):
    """`pycuda.driver.Device`."""

    def name(self) -> str: ...
    def compute_capability(self) -> tuple[int, int]: ...
    def get_attribute(self, attribute: Any) -> int: ...
    def retain_primary_context(self) -> PrimaryContext: ...


class Driver(Protocol):
    """The module `pycuda.driver`."""

    Error: type[Exception]
    device_attribute: Any

    def init(self) -> None: ...
    def get_driver_version(self) -> int: ...
    def mem_get_info(self) -> tuple[int, int]: ...
    def Device(self, number: int) -> CudaDevice: ...  # noqa: N802 (pycuda's name)
    def Stream(self, flags: int) -> CudaStream: ...  # noqa: N802 (pycuda's name)
    def mem_alloc(self, size: int) -> Allocation: ...
    def pagelocked_empty(self, shape: Sequence[int], dtype: Any) -> AnyArray: ...
    def memcpy_htod_async(self, dest: int, src: AnyArray, stream: CudaStream) -> None: ...
    def memcpy_dtoh_async(self, dest: AnyArray, src: int, stream: CudaStream) -> None: ...
    def memcpy_dtod_async(self, dest: int, src: int, size: int, stream: CudaStream) -> None: ...
    def memset_d8_async(self, dest: int, data: int, count: int, stream: CudaStream) -> None: ...


class ExecutionContext(Protocol):
    """`tensorrt.IExecutionContext`."""

    def set_device_memory(self, memory: int, size: int) -> None: ...
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def infer_shapes(self) -> list[str]: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class Engine(Protocol):
    """`tensorrt.ICudaEngine`."""

    @property
    def num_optimization_profiles(self) -> int: ...
    @property
    def num_io_tensors(self) -> int: ...
    def get_tensor_name(self, index: int) -> str: ...
    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int: ...
    def create_execution_context(self, strategy: Any) -> ExecutionContext | None: ...


class Runtime(Protocol):
    """`tensorrt.Runtime`."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None: ...


class PluginRegistry(Protocol):
    """`tensorrt.IPluginRegistry`."""

    def load_library(self, plugin_path: str) -> Any: ...
    def get_creator(self, type: str, version: str, plugin_namespace: str) -> Any: ...


class TensorRT(Protocol):
    """The module `tensorrt`."""

    __version__: str
    ILogger: Any
    ExecutionContextAllocationStrategy: Any

    def Runtime(self, logger: Any) -> Runtime: ...  # noqa: N802 (TensorRT's name)
    def get_plugin_registry(self) -> PluginRegistry: ...
    def __hash__(self) -> int: ...


class Kernels(Protocol):
    """`kernel_library.KernelLibrary`, built with CUDA."""

    def call(self, name: str, *arguments: Any) -> None: ...
    def size(self, name: str, dims: ctypes.Structure) -> int: ...


@dataclass(frozen=True)
class Platform:
    """What the backend runs on."""

    tensorrt: TensorRT
    driver: Driver
    kernels: Kernels
