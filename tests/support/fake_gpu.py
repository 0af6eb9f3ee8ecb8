"""A GPU made of host memory: pycuda's driver interface, and the kernels' CUDA functions over their CPU twins.

Work on a stream runs later, on the stream's own thread, as on a device: whoever reads too early reads old bytes.
What CUDA forbids is an error here: calls without a current context; waiting or allocating while a stream is recorded;
memory that was freed.
"""

from __future__ import annotations

import ctypes
import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from florence_edge.backends.kernel_library import SIGNATURES, KernelLibrary
from florence_edge.errors import BackendError
from florence_edge.geometry import AnyArray, UInt8Array

Work = Callable[[], None]
ALIGNMENT = 256
_TWIN_WORKSPACE = 1024  # the twins use none, but a client has to provide it


class DriverError(Exception):
    """`pycuda.driver.Error`."""


class FakeGpu:
    """One device and everything that happened on it. `log` counts calls by name."""

    def __init__(self, library: KernelLibrary, *, name: str = "Orin", sm: int = 87, processors: int = 16) -> None:
        self.library, self.name, self.sm, self.processors = library, name, sm, processors
        self.log: dict[str, int] = {}
        self.streams: dict[int, FakeStream] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.graph_keys = itertools.count(1)
        self.blocks: dict[int, UInt8Array] = {}
        self.most = 0
        self.recording = threading.local()
        self._current = threading.local()
        self._lock = threading.Lock()
        self.fail_next: Exception | None = None
        """Raised by the next work that a stream runs, as a fault on the device is: by the next call that waits."""
        self.refused: str | None = None
        """What cannot be done while recording: a function of the kernels, or `execute`, running an engine."""

    def count(self, name: str) -> None:
        with self._lock:
            self.log[name] = self.log.get(name, 0) + 1

    @property
    def depth(self) -> int:
        """How often the context is pushed on this thread."""
        return getattr(self._current, "depth", 0)

    def push(self) -> None:
        self._current.depth = self.depth + 1

    def pop(self) -> None:
        if not self.depth:
            raise DriverError("cannot pop a context that is not current")
        self._current.depth -= 1

    def need_context(self) -> None:
        if not self.depth:
            raise DriverError("no context is current on this thread")

    def need_no_recording(self, what: str) -> None:
        """What waits or allocates is refused on a thread that records a stream."""
        self.need_context()
        if getattr(self.recording, "stream", None) is not None:
            raise DriverError(f"{what}: operation not permitted when stream is capturing")

    def allocate(self, size: int) -> int:
        self.need_no_recording("mem_alloc")
        block = np.full(size + 2 * ALIGNMENT, 0xA5, np.uint8)
        address = int(block.ctypes.data) + ALIGNMENT - int(block.ctypes.data) % ALIGNMENT
        with self._lock:
            self.blocks[address] = block
            self.most = max(self.most, sum(len(one) for one in self.blocks.values()))
        return address

    def free(self, address: int) -> None:
        self.need_no_recording("free")
        with self._lock:
            if self.blocks.pop(address, None) is None:
                raise DriverError("memory was freed twice")

    def memory(self, address: int, size: int) -> UInt8Array:
        """Bytes of device memory; an address outside of any allocation is an error."""
        with self._lock:
            for block in self.blocks.values():
                start = int(address) - int(block.ctypes.data)
                if start >= 0 and start + size <= len(block):
                    return block[start : start + size]
        raise DriverError(f"an illegal memory access was encountered: {size} bytes at {int(address):#x}")

    def stream(self, handle: int) -> FakeStream:
        if handle not in self.streams:
            raise DriverError(f"{handle} is no stream")
        return self.streams[handle]


class FakeStream:
    """`pycuda.driver.Stream`: a queue and the thread that works it off."""

    def __init__(self, gpu: FakeGpu, flags: int) -> None:
        gpu.need_no_recording("Stream")
        assert flags == 1, "the default stream would wait for this one"
        self._gpu, self.handle = gpu, id(self)
        self.recorded: list[Work] | None = None
        self.fault: Exception | None = None
        self._work: queue.Queue[Work] = queue.Queue()
        gpu.streams[self.handle] = self
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            work = self._work.get()
            try:
                if self._gpu.fail_next is not None:
                    self.fault, self._gpu.fail_next = self._gpu.fail_next, None
                if self.fault is None:
                    work()
            except Exception as fault:
                self.fault = fault
            finally:
                del work  # and with it the memory that it knows
                self._work.task_done()

    def add(self, work: Work) -> None:
        """Runs work after all before it, or records it."""
        self._gpu.need_context()
        if self.recorded is not None:
            assert self._gpu.recording.stream is self, "another thread records this stream"
            self.recorded.append(work)
        else:
            if getattr(self._gpu.recording, "stream", None) is not None:
                raise DriverError("work on another stream would escape the recording")
            self._work.put(work)

    def synchronize(self) -> FakeStream:
        self._gpu.need_no_recording("synchronize")
        self._gpu.count("synchronize")
        self._work.join()
        self._raise()
        return self

    def is_done(self) -> bool:
        self._gpu.need_no_recording("is_done")
        self._raise()
        return self._work.unfinished_tasks == 0

    def _raise(self) -> None:
        if self.fault is not None:
            raise DriverError(str(self.fault))


class FakeDriver:
    """The module `pycuda.driver`, as far as `surface.Driver` goes."""

    Error = DriverError
    device_attribute = SimpleNamespace(MULTIPROCESSOR_COUNT="processors")

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def init(self) -> None:
        self.gpu.count("init")

    def get_driver_version(self) -> int:
        return 12060

    def mem_get_info(self) -> tuple[int, int]:
        self.gpu.need_context()
        return 6 << 30, 8 << 30

    def Device(self, number: int) -> Any:  # noqa: N802 (pycuda's name)
        gpu = self.gpu
        if number != 0:
            raise DriverError("invalid device ordinal")
        return SimpleNamespace(
            name=lambda: gpu.name,
            compute_capability=lambda: divmod(gpu.sm, 10),
            get_attribute=lambda attribute: getattr(gpu, attribute),
            retain_primary_context=lambda: SimpleNamespace(push=gpu.push, pop=gpu.pop),
        )

    def Stream(self, flags: int) -> FakeStream:  # noqa: N802 (pycuda's name)
        return FakeStream(self.gpu, flags)

    def mem_alloc(self, size: int) -> Any:
        return _Allocation(self.gpu, self.gpu.allocate(size))

    def pagelocked_empty(self, shape: Sequence[int], dtype: Any) -> AnyArray:
        self.gpu.need_no_recording("pagelocked_empty")
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = np.full(size + ALIGNMENT, 0x5A, np.uint8)
        start = -int(block.ctypes.data) % ALIGNMENT
        array: AnyArray = block[start : start + size].view(dtype).reshape(shape)
        return array

    def memcpy_htod_async(self, dest: int, src: AnyArray, stream: FakeStream) -> None:
        def work() -> None:
            self.gpu.memory(dest, src.nbytes)[:] = src.reshape(-1).view(np.uint8)

        self._copy("htod", work, stream)

    def memcpy_dtoh_async(self, dest: AnyArray, src: int, stream: FakeStream) -> None:
        def work() -> None:
            dest.reshape(-1).view(np.uint8)[:] = self.gpu.memory(src, dest.nbytes)

        self._copy("dtoh", work, stream)

    def memcpy_dtod_async(self, dest: int, src: int, size: int, stream: FakeStream) -> None:
        def work() -> None:
            self.gpu.memory(dest, size)[:] = self.gpu.memory(src, size)

        self._copy("dtod", work, stream)

    def memset_d8_async(self, dest: int, data: int, count: int, stream: FakeStream) -> None:
        def work() -> None:
            self.gpu.memory(dest, count)[:] = data

        self._copy("memset", work, stream)

    def _copy(self, name: str, work: Work, stream: FakeStream) -> None:
        self.gpu.count(name)
        stream.add(work)


class _Allocation:
    def __init__(self, gpu: FakeGpu, address: int) -> None:
        self._gpu, self._address = gpu, address

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._gpu.free(self._address)


class FakeKernels:
    """`KernelLibrary` as a CUDA build: launchers put their twins on the stream, graphs are lists of work."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def call(self, name: str, *arguments: Any) -> None:
        assert len(arguments) == len(SIGNATURES[name].arguments), f"{name}: wrong number of arguments"
        self._gpu.count(name)
        if name == self._gpu.refused:
            if name == "florence_graph_end":
                self._graph_abort(arguments[0])  # a recording that broke is over
            raise BackendError(f"{name} returned 1900: operation not permitted when stream is capturing")
        special = getattr(self, f"_{name.removeprefix('florence_')}", None)
        if special is not None:
            special(*arguments)
        elif SIGNATURES[name].cuda:
            self._launch(name, arguments)
        else:
            self._gpu.library.call(name, *arguments)

    def size(self, name: str, dims: ctypes.Structure) -> int:
        return _TWIN_WORKSPACE if SIGNATURES[name].cuda else self._gpu.library.size(name, dims)

    def _launch(self, name: str, arguments: Sequence[Any]) -> None:
        """A kernel takes its structs by value when it is launched, and its tensors when it runs."""
        self._gpu.need_context()
        given = [_by_value(item) for item in arguments[:-1]]
        self._gpu.stream(arguments[-1]).add(lambda: self._gpu.library.call(f"{name}_cpu", *given, None))

    def _graph_begin(self, handle: int) -> None:
        self._gpu.need_no_recording("graph_begin")
        stream = self._gpu.stream(handle)
        assert stream.recorded is None
        stream.recorded, self._gpu.recording.stream = [], stream

    def _graph_end(self, handle: int, graph: ctypes.c_void_p, nodes: ctypes.c_uint64) -> None:
        stream = self._gpu.stream(handle)
        assert stream.recorded is not None
        key = next(self._gpu.graph_keys)
        self._gpu.graphs[key] = stream.recorded
        graph.value, nodes.value = key, len(stream.recorded)
        stream.recorded, self._gpu.recording.stream = None, None

    def _graph_abort(self, handle: int) -> None:
        self._gpu.stream(handle).recorded, self._gpu.recording.stream = None, None

    def _graph_upload(self, graph: ctypes.c_void_p, handle: int) -> None:
        assert graph.value in self._gpu.graphs

    def _graph_launch(self, graph: ctypes.c_void_p, handle: int) -> None:
        self._gpu.need_context()
        recorded = self._gpu.graphs[graph.value or 0]
        stream = self._gpu.stream(handle)
        assert stream.recorded is None, "a graph was launched into a recording"
        for work in recorded:
            stream.add(work)

    def _graph_destroy(self, graph: ctypes.c_void_p) -> None:
        if self._gpu.graphs.pop(graph.value or 0, None) is None:
            raise BackendError("no such graph")


def _by_value(argument: Any) -> Any:
    """A struct as it is now; anything else itself."""
    return type(argument).from_buffer_copy(argument) if isinstance(argument, ctypes.Structure) else argument
