"""TensorRT's runtime over ONNX Runtime: a "plan" names the graph that it runs, and everything else is TensorRT's rules.

Wrong order is an error here as it is there: no memory, no profile, a shape outside of the profile, an unbound tensor, a
first run that is being recorded. Contexts that share working memory destroy what lies in it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from florence_edge.geometry import AnyArray
from support.fake_gpu import DriverError, FakeGpu, FakeStream

VERSION = "10.3.0"
SCRATCH = 4096
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32}
Shape = tuple[int, ...]


def plan_bytes(
    graph: Path,
    profiles: Sequence[Mapping[str, Sequence[Shape]]],
    version: str = VERSION,
    plugins: Sequence[str] = (),
    noise: float = 0.0,
) -> bytes:
    """A plan: TensorRT's header, and what this module needs to run it; `noise` is added to every output."""
    numbers = [*map(int, version.split(".")), 0, 0, 0, 0][:4]
    body = {"graph": str(graph), "profiles": profiles, "plugins": list(plugins), "noise": noise}
    return struct.pack("<II16x4B", 0x74727466, 0, *numbers) + json.dumps(body).encode()


@cache
def _session(path: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class ILogger:
    """`tensorrt.ILogger`."""

    Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class FakeTensorRT:
    """The module `tensorrt`, as far as `surface.TensorRT` goes."""

    ILogger = ILogger
    ExecutionContextAllocationStrategy = SimpleNamespace(STATIC=0, USER_MANAGED=2)

    def __init__(self, gpu: FakeGpu, *, version: str = VERSION, plugins: Sequence[str] = ()) -> None:
        self.gpu, self.__version__ = gpu, version
        self.registry = FakeRegistry(plugins)

    def Runtime(self, logger: Any) -> FakeRuntime:  # noqa: N802 (TensorRT's name)
        assert isinstance(logger, self.ILogger)
        return FakeRuntime(self, logger)

    def get_plugin_registry(self) -> FakeRegistry:
        return self.registry


class FakeRegistry:
    """`tensorrt.IPluginRegistry`: a library brings the plugins given here, and is refused when one is known."""

    def __init__(self, plugins: Sequence[str]) -> None:
        self._offered, self.known, self.loads = tuple(plugins), set[str](), 0

    def load_library(self, plugin_path: str) -> object:
        self.loads += 1
        if self.known & set(self._offered):
            return None
        self.known |= set(self._offered)
        return object()

    def get_creator(self, type: str, version: str, plugin_namespace: str) -> object:
        return object() if (type in self.known and (version, plugin_namespace) == ("1", "")) else None


class FakeRuntime:
    """`tensorrt.Runtime`."""

    def __init__(self, tensorrt: FakeTensorRT, logger: ILogger) -> None:
        self._tensorrt, self._logger = tensorrt, logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> FakeEngine | None:
        self._tensorrt.gpu.need_context()
        version = ".".join(map(str, serialized_engine[24:27]))
        try:
            body = json.loads(serialized_engine[28:])
        except ValueError:
            body = None
        absent = [] if body is None else [name for name in body["plugins"] if name not in self._tensorrt.registry.known]
        if body is None or absent or version != self._tensorrt.__version__:
            self._logger.log(ILogger.Severity.ERROR, f"Error Code 4: engine deserialization failed {absent}")
            return None
        return FakeEngine(self._tensorrt.gpu, body)


class FakeEngine:
    """`tensorrt.ICudaEngine`."""

    def __init__(self, gpu: FakeGpu, body: dict[str, Any]) -> None:
        self.gpu, self.profiles, self.noise = gpu, body["profiles"], body["noise"]
        self.session = _session(body["graph"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self.num_optimization_profiles = len(self.profiles)
        self.num_io_tensors = len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return str([*self.inputs, *self.outputs][index])

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return SCRATCH * (profile_index + 1)

    def create_execution_context(self, strategy: Any) -> FakeContext:
        assert strategy == FakeTensorRT.ExecutionContextAllocationStrategy.USER_MANAGED
        self.gpu.need_no_recording("create_execution_context")
        return FakeContext(self)


class FakeContext:
    """`tensorrt.IExecutionContext`."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine, self._gpu = engine, engine.gpu
        self._profile: int | None = None
        self._scratch = (0, 0)
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._warm = False

    def set_device_memory(self, memory: int, size: int) -> None:
        self._scratch = (memory, size)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._gpu.stream(stream_handle)
        self._profile, self._warm = profile_index, False
        return 0 <= profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        if self._profile is None:
            return False
        least, _, most = self._engine.profiles[self._profile][name]
        self._shapes[name], self._warm = tuple(shape), False
        return len(shape) == len(least) and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name], self._warm = memory, False
        return name in self._engine.inputs or name in self._engine.outputs

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine.inputs if name not in self._shapes]

    def execute_async_v3(self, stream_handle: int) -> bool:
        self._gpu.need_context()
        needed = self._engine.get_device_memory_size_for_profile_v2(self._profile or 0)
        bound = self._engine.num_io_tensors == len(self._addresses)
        if self._profile is None or self._scratch[1] < needed or not bound or self.infer_shapes():
            return False
        stream: FakeStream = self._gpu.stream(stream_handle)
        if stream.recorded is not None and not self._warm:
            raise DriverError("a context sets itself up at its first run, which cannot be captured")
        if stream.recorded is not None and self._gpu.refused == "execute":
            return False
        self._warm = True
        self._gpu.count("execute")
        addresses, shapes = dict(self._addresses), dict(self._shapes)
        stream.add(lambda: self._run(addresses, shapes))
        return True

    def _run(self, addresses: dict[str, int], shapes: dict[str, Shape]) -> None:
        feeds = {
            name: self._array(addresses[name], shapes[name], value.type).copy()
            for name, value in self._engine.inputs.items()
        }
        found = self._engine.session.run(None, feeds)
        self._gpu.memory(*self._scratch)[:] = 0xEE
        for (name, value), result in zip(self._engine.outputs.items(), found, strict=True):
            self._array(addresses[name], result.shape, value.type)[...] = result + np.asarray(
                self._engine.noise, result.dtype
            )

    def _array(self, address: int, shape: Shape, kind: str) -> AnyArray:
        dtype = np.dtype(_TYPES[kind])
        return self._gpu.memory(address, int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape)
